# cython: language_level=3
cimport cython

cdef Py_ssize_t ROOM
cdef int DEPTH
cdef long long LEAST, MOST

@cython.final
cdef class Reader:
    cdef object data
    cdef const unsigned char *p
    cdef Py_ssize_t at

    @cython.locals(first=int, count=Py_ssize_t, items=list)
    cpdef object message(self, object data, Py_ssize_t start, Py_ssize_t cost, Py_ssize_t size)
    @cython.locals(first=int)
    cdef object value(self)
    @cython.locals(p="const unsigned char *", at=Py_ssize_t, i=int, found="unsigned long long")
    cdef unsigned long long number(self, int width) except? 42
    @cython.locals(half="unsigned long long", found="long long")
    cdef long long with_sign(self, int width) except? 42
    @cython.locals(p="const unsigned char *", at=Py_ssize_t)
    cdef object text(self, Py_ssize_t size)
    @cython.locals(p="const unsigned char *", at=Py_ssize_t)
    cdef object raw(self, Py_ssize_t size)
    @cython.locals(i=Py_ssize_t, found=list)
    cdef list items(self, Py_ssize_t count, int more)
    @cython.locals(found=dict)
    cdef dict pairs(self, Py_ssize_t count)

@cython.final
cdef class Pen:
    cdef bytearray buffer
    cdef unsigned char *p
    cdef Py_ssize_t at

    @cython.locals(p="unsigned char *")
    cpdef object request(self, long long msgid, object method, object params)
    @cython.locals(p="unsigned char *")
    cpdef object response(self, long long msgid, object error, object result)
    @cython.locals(p="unsigned char *")
    cpdef object notification(self, object method, object params)
    @cython.locals(p="unsigned char *")
    cdef bytes written(self)
    @cython.locals(number="long long")
    cdef bint put(self, object value, int depth) except -1
    @cython.locals(p="unsigned char *")
    cdef bint byte(self, int value) except -1
    @cython.locals(p="unsigned char *", at=Py_ssize_t, i=int)
    cdef bint big(self, int first, long long number, int width) except -1
    cdef bint integer(self, long long number) except -1
    @cython.locals(size=Py_ssize_t, done=bint)
    cdef bint put_bytes(self, bytes data, int first) except -1
    @cython.locals(p="unsigned char *", source="const unsigned char *", at=Py_ssize_t, i=Py_ssize_t)
    cdef bint copy(self, bytes data, Py_ssize_t size) except -1
    cdef bint array(self, object values, int depth) except -1
    cdef bint map(self, dict values, int depth) except -1
    cdef bint count(self, int few, int many, Py_ssize_t size) except -1
