# cython: language_level=3
cimport cython
from flower.channels._scheduler cimport Scheduler
from flower.net._transport cimport Sockets

cdef double NEVER, LINGERING, LONGEST_SLEEP, TIMER_GRAIN

cdef class Turns:
    cdef readonly object loop
    cdef readonly Scheduler scheduler
    cdef readonly object context
    cdef object _set_running_loop
    cdef readonly list gathered
    cdef public object _turn
    cdef public bint _due
    cdef bint _serving
    cdef public Sockets _sockets
    cdef public object _again
    cdef public bint _leaving
    cdef public bint guests
    cdef public bint _hidden
    cdef public object _failure
    cdef readonly object _timer
    cdef double _armed

    cpdef ready(self)
    cpdef wake(self)
    @cython.locals(more=bint, until=double)
    cpdef _on_sockets(self)
    cpdef _linger_on(self)
    @cython.locals(delay=double)
    cpdef _on_turn(self)
    cpdef show(self)
    cpdef let_out(self)
    cdef _arm(self, double delay)
    cpdef _cancel_timer(self)
