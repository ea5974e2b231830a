# cython: language_level=3
from flower.net._stream cimport Stream
from flower.net._transport cimport Link

cdef class TlsLayer(Link):
    cdef object __weakref__
    cdef Stream _stream
    cdef object _timeout
    cdef Link _transport
    cdef object _fault
    cdef object _waiter
    cdef object _incoming
    cdef object _outgoing
    cdef object _ssl
    cdef object _read
    cdef object _encrypt
    cdef Py_ssize_t _unread
    cdef bint _shaken
    cdef bint _notified
