# cython: language_level=3
cimport cython

cdef double NEVER

cdef class Timed:
    cdef double when
    cdef Py_ssize_t slot

    cdef object fire(self, double now)

@cython.final
cdef class Alarm(Timed):
    cdef public object call
    cdef public object drop

cdef class Waiter(Timed):
    cdef Waiter left
    cdef Waiter right
    cdef readonly WaitQueue queue
    cdef object task
    cdef object value
    cdef object channel
    cdef int index
    cdef bint sends

@cython.final
cdef class WaitQueue:
    cdef Waiter first
    cdef Waiter last
    cdef Py_ssize_t count

    cdef int append(self, Waiter w) except -1
    cdef int push(self, Waiter w) except -1
    cdef int remove(self, Waiter w) except -1
    cdef Waiter pop(self)
    cdef int rotate(self, Waiter w) except -1

@cython.final
cdef class Timers:
    cdef list heap

    cdef Timed first(self)
    cdef int add(self, Timed item) except -1
    @cython.locals(hole=Py_ssize_t)
    cdef int remove(self, Timed item) except -1
    cdef int rise(self, Timed item, Py_ssize_t slot) except -1
    @cython.locals(size=Py_ssize_t, down=Py_ssize_t)
    cdef int sink(self, Timed item, Py_ssize_t slot) except -1
