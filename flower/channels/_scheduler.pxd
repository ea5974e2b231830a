# cython: language_level=3
cimport cython
from flower.channels._greenlet cimport (
    coarse, deepen, greenlet, import_greenlet, is_here, set_here, switch_to, take_last, touch_greenlet, track,
)
from flower.channels._task cimport (
    BLOCKED, ERRORS, KILL, PAUSED, READY, RUN, RUNNING, SLEEP, Task, members, withdraw,
)
from flower.channels._waiting cimport NEVER, Alarm, Timers, WaitQueue

cdef int DEPTH_TO_WAKE, SWITCHES_PER_TURN
cdef double SECONDS_PER_TURN

cdef class Scheduler

cdef extern from *:
    Scheduler get_here "flower_get_here"()

@cython.locals(s=Scheduler)
cpdef int wake(Task t) except -1
cpdef bint fail(Task t, object error) except -1
cdef int check_switch(Scheduler s) except -1

@cython.final
cdef class Scheduler:
    cdef object __weakref__
    cdef WaitQueue ready
    cdef Timers timers
    cdef WaitQueue runs
    cdef public Task main
    cdef public Task current
    cdef Task last
    cdef Task ending
    cdef public object thread_id
    cdef public object poller
    cdef object entered
    cdef greenlet hub
    cdef list idle
    cdef Py_ssize_t spare
    cdef double look
    cdef bint trimming
    cdef Py_ssize_t lane
    cdef Py_ssize_t lanes
    cdef Task starting
    cdef public list victims
    cdef int budget
    cdef double due
    cdef bint attentive
    cdef bint io
    cdef bint polling
    cdef public bint closing
    cdef public Py_ssize_t outside
    cdef public Py_ssize_t outside_live
    cdef public Py_ssize_t holds
    cdef public Py_ssize_t watches
    cdef public list gathered
    cdef public int traps
    cdef public list main_errors
    cdef public object posts
    cdef public Py_ssize_t started
    cdef Task newest
    cdef bint bury
    cdef public object on_switch
    cdef public object clock
    cdef public object chooser
    cdef Task directed
    cdef public object interposer
    cdef public bint passing

    cdef int adopt(self, Task main) except -1
    @cython.locals(t=Task)
    cdef Task choose(self)
    @cython.locals(t=Task)
    cdef Task consult(self)
    cpdef double now(self) except? -1.0
    @cython.locals(t=Task, carrier=greenlet)
    cdef int switch(self) except -1
    cdef int employ(self, Task t) except -1
    cdef int enter_hub(self) except -1
    cdef int forget_wait(self, Task t) except -1
    @cython.locals(before=Task)
    cdef int enlist(self, Task t) except -1
    cdef int strike(self, Task t) except -1
    @cython.locals(seconds=double)
    cdef Task prepare(self, object timeout)
    cdef int yield_now(self) except -1
    cdef int resumed(self, Task me) except -1
    cdef int rouse(self) except -1
    cpdef object expire(self, Task t, double now)
    cpdef object post(self, object callback)
    cpdef object recount(self, Task t, bint outside)
    cpdef object hold(self)
    cpdef object release(self)
    cpdef object set_alarm(self, Alarm alarm, double when)
    cpdef bint clear_alarm(self, Alarm alarm) except -1
    cpdef object sleep_until(self, double when)
    cdef int tell(self, Task before, Task after) except -1

cpdef Scheduler here()
cpdef object present()
@cython.locals(s=Scheduler)
cdef Task may_park(object timeout)
cdef bint is_struck(Task t) except -1
cdef object park(Task t, int blocked_in, bint outside)
@cython.locals(s=Scheduler)
cdef object wait(Task t, int blocked_in, bint outside)
@cython.locals(s=Scheduler, me=Task, carrier=greenlet)
cdef int meet(Task t, int direction, int preference, bint all_switch) except -1
