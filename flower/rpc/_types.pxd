# cython: language_level=3

cdef class Codec:
    cdef public object flower
    cdef public object ends
    cdef public Py_ssize_t budget
    cdef public int depth
    cdef public object problem

cdef class Packing:
    cdef public Codec codec
    cdef public list fresh
    cdef public int depth
