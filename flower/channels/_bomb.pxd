# cython: language_level=3
cdef class bomb:
    cdef object error
    cdef object tb
    cpdef object explode(self)
