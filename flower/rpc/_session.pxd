# cython: language_level=3
cimport cython
from flower.rpc._calls cimport Calls
from flower.rpc._line cimport Line
from flower.rpc._serving cimport Serving
from flower.rpc._streams cimport Streams
from flower.rpc._wire cimport _NOTIFICATION, _REQUEST, _RESPONSE, Wire

cdef class Session(Line):
    cdef public object face
    cdef public object on_leaving
    cdef readonly double began
    cdef readonly object handshake
    cdef readonly Streams streams
    cdef readonly Calls calls
    cdef readonly Serving serving
    cdef readonly object call
    cdef readonly object begin
    cdef readonly object stream
    cdef readonly object notify
    cdef object _on_end
    cdef public object _hello_id
    cdef object _alarm
    cdef object _pulse
    cdef readonly Py_ssize_t heard
    cdef object _settled
    cdef object _idle
    cdef bint _last_answers
    cdef object _left

    @cython.locals(event=list, wire=Wire)
    cpdef bint take(self, bytes data) except -1
    @cython.locals(kind=int)
    cdef bint _take(self, list event) except -1
    @cython.locals(kind=int)
    cdef _on_event(self, list event)
