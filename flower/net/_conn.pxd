# cython: language_level=3
from flower.channels._channel cimport channel as Channel
from flower.net._source cimport Source
from flower.net._stream cimport Stream

cdef class Conn(Source):
    cdef object __weakref__
    cdef readonly Stream _stream
    cdef readonly Channel _incoming
    cdef public object _front
    cdef public bint _reading
    cdef bint _left

    cpdef send(self, object data, object timeout=*)
