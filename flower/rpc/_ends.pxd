# cython: language_level=3
cimport cython
from flower.channels._bomb cimport bomb
from flower.channels._channel cimport channel
from flower.rpc._line cimport Line, get_ident
from flower.rpc._outbox cimport Source
from flower.rpc._wire cimport Unmade

cdef Py_ssize_t FRAME_HEAD, LONG, MORE_BYTES

cdef class Outbound(Source):
    cdef object __weakref__
    cdef readonly object streams
    cdef readonly Line session
    cdef readonly object id
    cdef readonly bint here
    cdef readonly object ref
    cdef public channel hold
    cdef readonly Py_ssize_t max_items
    cdef readonly Py_ssize_t max_bytes
    cdef readonly Py_ssize_t sent
    cdef readonly Py_ssize_t sent_bytes
    cdef readonly Py_ssize_t taken
    cdef public bint over
    cdef object _packed_id
    cdef bint _taking
    cdef object kept
    cdef readonly list followers
    cdef object _later

    @cython.locals(session=Line)
    cpdef take(self, object value)
    @cython.locals(data=bytes)
    cdef _take(self, Line session, object value)
    @cython.locals(session=Line)
    cdef _cut(self, bytes data, object fresh)
    cdef bytes _frame(self, bytes head, object value, bytes tail)
    cdef object _number(self)
    cdef Py_ssize_t _room(self)
    @cython.locals(ch=channel)
    cdef _set_credit(self)
    @cython.locals(ch=channel)
    cdef _go_on(self)
    cpdef on_credit(self, Py_ssize_t items, Py_ssize_t size, Py_ssize_t taken)
    cpdef _let_go(self)

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
    cdef readonly object ref
    cdef public channel hold
    cdef readonly Py_ssize_t received
    cdef Py_ssize_t _bytes
    cdef object _sizes
    cdef Py_ssize_t _taken_bytes
    cdef Py_ssize_t _told
    cdef public Py_ssize_t granted
    cdef public Py_ssize_t granted_bytes
    cdef public bint stopped
    cdef object _parts
    cdef Py_ssize_t _parts_size

    @cython.locals(first=bint, over=bint)
    cdef on_data(self, list params, Py_ssize_t size)
    @cython.locals(ch=channel)
    cdef _widen(self)
    @cython.locals(ch=channel)
    cpdef deliver(self, object value)
    @cython.locals(ch=channel)
    cpdef Py_ssize_t _taken(self) except? -1
    @cython.locals(ch=channel, taken=Py_ssize_t, size=Py_ssize_t, items=Py_ssize_t, due=bint)
    cpdef look(self, Py_ssize_t waiting=*)
