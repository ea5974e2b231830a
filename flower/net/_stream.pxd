# cython: language_level=3
cimport cython
from flower.channels._channel cimport channel as Channel
from flower.channels._elsewhere cimport pump
from flower.channels._scheduler cimport Scheduler
from flower.net._transport cimport Link, Tap

cdef extern from "pythread.h":
    unsigned long get_ident "PyThread_get_thread_ident"()

cdef class Stream(Link):
    cdef object __weakref__
    cdef readonly object poller
    cdef readonly object bounds
    cdef public object proto
    cdef public object local
    cdef public object remote
    cdef readonly Channel incoming
    cdef public Tap tap
    cdef public object tls
    cdef readonly Link _transport
    cdef list _gathered
    cdef list _gathering
    cdef Scheduler _scheduler
    cdef Py_ssize_t _gathered_size
    cdef readonly object _sock
    cdef public object _fault
    cdef object _linger
    cdef readonly Channel outbox
    cdef Channel _emptied
    cdef unsigned long _thread
    cdef Py_ssize_t _limit
    cdef readonly Py_ssize_t _held
    cdef Py_ssize_t _flushing
    cdef public bint at_eof
    cdef public bint shut
    cdef public bint half
    cdef public bint ended
    cdef public bint full
    cdef bint _choked
    cdef bint _shaking
    cdef public bint _paused
    cdef bint _sent
    cdef bint _said_last
    cdef bint _listed
    cdef bint _busy
    cdef bint _prompt
    cdef bint _answered
    cdef bint _holding

    cpdef send(self, bytes data, object timeout)
    cpdef let_out(self)
    cpdef end_turn(self)
    cpdef bint offer(self, bytes data, bint urgent=*) except -1
    cpdef Channel open_outbox(self)
    @cython.locals(in_main=bint)
    cdef _send(self, bytes data)
    cpdef _check_thread(self, str what)
    cdef _refuse_more(self)
    cdef _look_for_room(self)
    cdef _end_writing(self)
