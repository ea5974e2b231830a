# cython: language_level=3
cdef extern from *:
    """
    static PyObject *flower_call_with(PyObject *function, PyObject *args) {
        return PyObject_Vectorcall(function, PySequence_Fast_ITEMS(args), (size_t)PySequence_Fast_GET_SIZE(args), NULL);
    }
    """
    object call_with "flower_call_with"(object function, object args)

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
