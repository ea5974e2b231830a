# cython: language_level=3
cimport cython
from flower.net._conn cimport Conn

cdef Py_ssize_t BATCH, MOST_QUEUED, FRAME_COST

cdef class Source:
    cdef public object queue
    cdef public bint listed
    cdef bint within

    cpdef relieve(self)

@cython.final
cdef class Outbox:
    cdef object _conn
    cdef Conn _direct
    cdef object _commit
    cdef object _on_sent
    cdef object _on_full
    cdef object _sent
    cdef object _control
    cdef public bint daemon
    cdef public object sources
    cdef readonly Py_ssize_t bytes
    cdef readonly Py_ssize_t words
    cdef public Py_ssize_t queued
    cdef Py_ssize_t _hurried
    cdef readonly dict choked
    cdef readonly Py_ssize_t unfinished
    cdef readonly bint writing
    cdef readonly bint closed

    cpdef post(self, bytes data, object told=*, bint is_word=*)
    cpdef bint send_now(self, bytes data) except -1
    cpdef put(self, Source source, bytes data, object fresh)
    cpdef hurry(self, Source source)
    cpdef bint is_full(self, Source source) except -1
    cpdef offer(self, Source source)
    cdef _wake(self)
    cpdef close(self)
    cpdef flush(self)
    cdef bint _has_more(self) except -1
    @cython.locals(batch=bytes, source=Source)
    cdef _send_batch(self)
    @cython.locals(pieces=list, size=Py_ssize_t, mine=Py_ssize_t, source=Source, data=bytes)
    cdef bytes _next_batch(self)
