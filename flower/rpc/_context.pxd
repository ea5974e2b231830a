# cython: language_level=3
cimport cython
from cpython.contextvars cimport PyContextVar_Set as set_value
from cpython.contextvars cimport get_value

@cython.freelist(32)
cdef class Context:
    cdef object __weakref__
    cdef readonly object session
    cdef readonly object method
    cdef public object deadline
    cdef object _meta
    cdef readonly object _reason
    cdef bint _ended
    cdef readonly object _scope
    cdef readonly object _task
    cdef object _alarm
    # The request that it is for, and who serves it.
    cdef object _serving
    cdef object _msgid
    cdef object _function
    cdef list _args
    cdef dict _kwargs
    cdef Py_ssize_t _cost

    cpdef _cancel(self, object reason)
    cdef _calm(self)

cdef int serves(Context context) except -1
cdef Context present_context()
@cython.locals(context=Context)
cdef Context new_context(object session, object method, object meta)
