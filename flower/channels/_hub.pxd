# cython: language_level=3
cimport cython
from flower.channels._greenlet cimport (
    call, coarse, greenlet, import_greenlet, set_context, stack_left, start_below, switch_to, take_caught, track,
)
from flower.channels._scheduler cimport SECONDS_PER_TURN, SWITCHES_PER_TURN, Scheduler, fail, here
from flower.channels._task cimport BLOCKED, DEAD, KILL, READY, RUNNING, Task, members, take_context, withdraw
from flower.channels._tasklet cimport is_pinned, unpin
from flower.channels._waiting cimport NEVER, Alarm, Timed

cdef double KEPT
cdef dict _modules
cdef object _running_loop
cdef Py_ssize_t CROWD, IDLE_CARRIERS, LANES, LANE_BYTES, ROOM, TRIMMED_PER_TURN

cpdef object live(Scheduler s)
@cython.locals(seconds=double)
cpdef double turn(Scheduler s) except? -1.0
@cython.locals(t=Task, carrier=greenlet, down=Py_ssize_t)
cdef int run_ready(Scheduler s) except -1
@cython.locals(s=Scheduler, t=Task)
cpdef object carry()
@cython.locals(carrier=greenlet)
cdef Task retire(Scheduler s, object me)
cdef int finish(Scheduler s, Task t) except -1
cdef greenlet make_carrier(Scheduler s)
@cython.locals(now=double, surplus=Py_ssize_t)
cdef double trim(Scheduler s, double seconds) except? -1.0
@cython.locals(now=double, item=Timed)
cdef int fire_due(Scheduler s) except -1
@cython.locals(seconds=double, first=Timed)
cdef double idle_for(Scheduler s) except? -1.0
cpdef bint foreign_loop_runs() except -1
@cython.locals(hub=greenlet)
cpdef object end(Scheduler s, bint bury)
cpdef object end_main(Scheduler s)
cpdef object disown(Scheduler s)
@cython.locals(item=Timed)
cpdef object drop_alarms(Scheduler s)
cpdef Py_ssize_t unfinished(Scheduler s) except -1
cpdef list unstarted(Scheduler s)
@cython.locals(t=Task)
cpdef object drop_ready(Scheduler s)
@cython.locals(t=Task)
cpdef list begun(Scheduler s)
cpdef list queued(Scheduler s)
cpdef object give_up(Scheduler s, Task t)
cpdef object finish_off(Scheduler s, Task t, object error)
