# cython: language_level=3
from flower.channels._scheduler cimport Scheduler

cdef class Turns:
    cdef readonly object loop
    cdef readonly Scheduler scheduler
    cdef readonly object context
    cdef object _set_running_loop
    cdef readonly list gathered
    cdef public object _turn
    cdef public bint _due
    cdef bint _serving
    cdef public object _sockets
    cdef public bint _leaving
    cdef public object _failure
    cdef readonly object _timer
    cdef double _armed

    cpdef ready(self)
    cpdef wake(self)
    cpdef _on_sockets(self)
    cpdef _on_turn(self)
    cpdef let_out(self)
    cdef _arm(self, double delay)
    cpdef _cancel_timer(self)
