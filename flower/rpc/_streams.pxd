# cython: language_level=3
cimport cython
from flower.channels._channel cimport channel
from flower.rpc._inbound cimport Inbound
from flower.rpc._line cimport Line
from flower.rpc._outbound cimport Outbound
from flower.rpc._wire cimport Unmade

cdef class Streams:
    cdef object __weakref__
    cdef readonly Line session
    cdef readonly dict inbound
    cdef readonly dict outbound
    cdef public Py_ssize_t spare
    cdef int _parity
    cdef object _next
    cdef Py_ssize_t _given
    cdef Py_ssize_t _taken
    cdef public Py_ssize_t partial
    cdef public Py_ssize_t kept
    cdef dict _ended

    cpdef post(self, object kind, list params, object told=*)
    cpdef _bind(self, channel ch, Inbound inbound)
    @cython.locals(inbound=Inbound)
    cdef on_data(self, list event)
    @cython.locals(outbound=Outbound)
    cpdef on_credit(self, list params)
