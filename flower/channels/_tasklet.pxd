# cython: language_level=3
cimport cython
from flower.channels._greenlet cimport copy_context
from flower.channels._scheduler cimport Scheduler, check_switch, here, park, wake
from flower.channels._task cimport (
    BLOCKED, DEAD, JOIN, PAUSED, READY, REMOVED, RUNNING, SEND, TRAP, Task, check_timeout,
)
from flower.channels._waiting cimport WaitQueue

cdef class tasklet(Task):
    cdef object __weakref__

    @cython.final
    cdef int prime(self, object args, object kwargs) except -1
    @cython.final
    cdef int take_turn(self, int leave_as) except -1
    @cython.final
    cdef int die(self, object error) except -1
