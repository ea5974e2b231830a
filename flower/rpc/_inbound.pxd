# cython: language_level=3
cimport cython
from flower.channels._bomb cimport bomb
from flower.channels._channel cimport channel
from flower.channels._elsewhere cimport overfill, pour
from flower.rpc._line cimport Line
from flower.rpc._wire cimport ROOMY, Unmade

cdef Py_ssize_t MORE_BYTES, PIECE_COST
cdef double SOON

cdef class Inbound:
    cdef object __weakref__
    cdef readonly object streams
    cdef readonly Line session
    cdef readonly object id
    cdef readonly bint meets
    cdef readonly bint here
    cdef readonly Py_ssize_t window
    cdef Py_ssize_t _bytes_window
    cdef Py_ssize_t _base
    cdef bint _used_up
    cdef double _looked
    cdef bint _soon
    cdef readonly object ref
    cdef public channel hold
    cdef readonly Py_ssize_t received
    cdef Py_ssize_t _bytes
    cdef object _sizes
    cdef Py_ssize_t _taken_bytes
    cdef readonly Py_ssize_t told
    cdef public Py_ssize_t granted
    cdef public Py_ssize_t granted_bytes
    cdef public bint stopped
    cdef object _parts
    cdef Py_ssize_t _parts_size
    cdef object _alarm
    cdef object _late
    cdef double _deadline

    @cython.locals(ch=channel, first=bint, over=bint)
    cdef on_data(self, list params, Py_ssize_t size)
    @cython.locals(more=Py_ssize_t)
    cdef _widen(self)
    @cython.locals(ch=channel)
    cpdef deliver(self, object value)
    @cython.locals(ch=channel)
    cpdef Py_ssize_t _taken(self) except? -1
    @cython.locals(ch=channel, taken=Py_ssize_t, size=Py_ssize_t, items=Py_ssize_t, due=bint, before=double, soon=bint)
    cpdef look(self, Py_ssize_t waiting=*)
    @cython.locals(ch=channel, away=channel)
    cpdef channel pack_up(self)
    cpdef stay(self, channel ch, channel away)
