# cython: language_level=3

cdef class Method:
    cdef readonly object name
    cdef readonly object function
    cdef readonly bint streams
    cdef object _chain
    cdef object _takes
    cdef bint _told
    cdef double _least
    cdef double _most

    cpdef call(self, object args, object kwargs)
