# cython: language_level=3
cimport cython
from flower.channels._scheduler cimport Scheduler, fail, wake
from flower.channels._task cimport BLOCKED, ERRORS, KILL, PAUSED, READY, Task, withdraw
from flower.channels._waiting cimport WaitQueue

cpdef object mark_foreign(object error)
cpdef object throw_into(Task t, object error)
cpdef bint cancel(Task t, object scope, object error) except -1
cpdef object stray(Task t)
@cython.locals(joiner=Task, joiners=WaitQueue, told=bint)
cpdef bint tell_joiners(Task t) except -1
@cython.locals(main=Task)
cpdef object raise_in_main(Scheduler s, object error)
@cython.locals(main=Task, i=Py_ssize_t)
cpdef bint spare_main(Scheduler s, object error) except -1
