# cython: language_level=3
cimport cython
from flower.channels._bomb cimport bomb
from flower.channels._channel cimport channel
from flower.channels._elsewhere cimport pump, put_back
from flower.rpc._line cimport Line, get_ident
from flower.rpc._outbox cimport Source

cdef Py_ssize_t FRAME_HEAD, LONG, MOST_KEPT, ALWAYS_KEPT, VALUE_COST

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
    cdef bint _started
    cdef Py_ssize_t _taking
    cdef public bint home
    cdef object kept
    cdef Py_ssize_t _kept_bytes
    cdef readonly list followers
    cdef object _later

    @cython.locals(session=Line, ch=channel)
    cpdef take(self, object value)
    @cython.locals(data=bytes)
    cdef _take(self, Line session, object value)
    cdef _keep(self, object value, Py_ssize_t size)
    @cython.locals(size=Py_ssize_t)
    cdef _forget(self)
    @cython.locals(session=Line)
    cdef _cut(self, bytes data, object fresh)
    cdef bytes _frame(self, bytes head, object value, bytes tail)
    cdef object _number(self)
    cdef Py_ssize_t _room(self)
    @cython.locals(ch=channel)
    cpdef set_credit(self)
    @cython.locals(ch=channel)
    cdef _go_on(self)
    cpdef on_credit(self, Py_ssize_t items, Py_ssize_t size, Py_ssize_t taken)
    @cython.locals(ch=channel)
    cpdef _end_if_drained(self)
    @cython.locals(ch=channel)
    cpdef choke(self)
    cpdef relieve(self)
    cpdef list leave(self)
    cpdef _let_go(self, object reason=*, object error=*)
