# cython: language_level=3
cimport cython

cdef Py_ssize_t SLOT, NUMBER, TEXT, ARRAY, MAP, PAIR, EXT
cdef Py_ssize_t SHORT
cdef int FIXED, BYTES, EXTENDED, LIST, DICT, MAX_DEPTH

cdef class Scanner:
    cdef readonly object data
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t start
    cdef readonly Py_ssize_t at
    cdef readonly object tail
    cdef object rest
    cdef Py_ssize_t rest_at
    cdef bint whole
    cdef Py_ssize_t left
    cdef bint is_map
    cdef readonly bint keyed
    cdef Py_ssize_t outer[128]  # MAX_DEPTH
    cdef int depth
    cdef readonly Py_ssize_t cost
    cdef public Py_ssize_t most
    cdef public Py_ssize_t most_cost
    cdef readonly object fault

    @cython.locals(lacks=Py_ssize_t, ends=bint)
    cpdef take(self, bytes data)
    cdef int go_on(self) except -1
    @cython.locals(left=Py_ssize_t)
    cdef bint is_short(self) except -1
    cdef bint is_drained(self) except -1
    cdef int skip(self, Py_ssize_t length, Py_ssize_t cost) except -1
    cpdef bint find(self) except -1
    @cython.locals(p="const unsigned char *", at=Py_ssize_t, left=Py_ssize_t, is_map=bint, cost=Py_ssize_t,
                   start=Py_ssize_t, size=Py_ssize_t, first=int, count=Py_ssize_t, kind=int, width=int,
                   after=Py_ssize_t, i=int, depth=int)
    cdef int walk(self, object data) except -1
    cdef object message(self)
    cpdef bint is_between(self)

cpdef Scanner measure(bytes data, Py_ssize_t most, Py_ssize_t most_cost)
