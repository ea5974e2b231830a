# cython: language_level=3
cimport cython

cdef Py_ssize_t SLOT, NUMBER, TEXT, ARRAY, MAP, PAIR, EXT
cdef int FIXED, BYTES, EXTENDED, LIST, DICT

cdef class Scanner:
    cdef public bytearray pending
    cdef Py_ssize_t at
    cdef Py_ssize_t left
    cdef bint is_map
    cdef list outer
    cdef Py_ssize_t cost
    cdef public Py_ssize_t most
    cdef public Py_ssize_t most_cost
    cdef public object fault

    @cython.locals(costs=list, end=Py_ssize_t, size=Py_ssize_t)
    cpdef tuple feed(self, bytes data)
    @cython.locals(p="const unsigned char *", at=Py_ssize_t, left=Py_ssize_t, is_map=bint, cost=Py_ssize_t,
                   start=Py_ssize_t, first=int, count=Py_ssize_t, kind=int, width=int, after=Py_ssize_t, i=int)
    cdef Py_ssize_t walk(self, object data, Py_ssize_t size, list costs) except -1
    cpdef bint is_between(self)
