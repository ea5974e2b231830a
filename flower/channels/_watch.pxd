# cython: language_level=3
cimport cython
from flower.channels._scheduler cimport Scheduler, here, present
from flower.channels._task cimport Task

cdef object watcher
cdef int interposed
cdef bint watched

@cython.locals(s=Scheduler)
cdef object interposer_here()
@cython.locals(s=Scheduler, me=Task)
cdef int announce(object channel, int direction, bint will_block) except -1
