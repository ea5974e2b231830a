# cython: language_level=3
cimport cython
from flower.channels._scheduler cimport Scheduler
from flower.net._conn cimport Conn
from flower.net._transport cimport Tap
from flower.rpc._outbox cimport Outbox
from flower.rpc._wire cimport Wire

cdef extern from "pythread.h":
    unsigned long get_ident "PyThread_get_thread_ident"()

cdef class Line(Tap):
    cdef object __weakref__
    cdef readonly object conn
    cdef Conn direct
    cdef readonly object name
    cdef readonly dict exports
    cdef readonly object settings
    cdef Py_ssize_t max_inflight
    cdef public bint daemon
    cdef readonly bint is_locked
    cdef public object fault
    cdef public bint early
    cdef public bint draining
    cdef public bint leaving
    cdef public bint mute
    cdef public bint awaited
    cdef public object theirs
    cdef public Py_ssize_t max_frame
    cdef readonly object context
    cdef public dict fresh
    cdef readonly Scheduler scheduler
    cdef readonly unsigned long thread
    cdef readonly Wire wire
    cdef readonly Outbox outbox

    cdef bint is_free(self)
    cpdef bint is_at_end(self) except -1
    @cython.locals(seconds=double)
    cpdef object left(self, object deadline)
    cdef bint offer(self, bytes data) except -1
    cdef int put(self, bytes data, object timeout=*) except -1
    cpdef object take_fresh(self, bytes data)
