# cython: language_level=3, nonecheck=False
cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

cdef double NEVER

cdef class Timed:
    cdef double when
    cdef Py_ssize_t slot

    cpdef object fire(self, double now)

cdef class Alarm(Timed):
    cdef object call

    cpdef object fire(self, double now)
    cpdef end(self)

# A queue holds one reference to each of its members, and a member one to its queue; the links themselves are not
# counted. The collector sees none of this: who waits is held by its scheduler as well, until it is taken out. The
# methods that move links are here, so that they are compiled into each module that uses them; `_waiting.py` says what
# they do, and has them for uncompiled use.
cdef class Waiter(Timed):
    cdef PyObject *left
    cdef PyObject *right
    cdef PyObject *queue
    cdef object task
    cdef object value
    cdef object channel
    cdef int index
    cdef bint sends

    @cython.final
    cdef inline Waiter before(self):
        return None if self.left is NULL else <Waiter>self.left

    @cython.final
    cdef inline Waiter after(self):
        return None if self.right is NULL else <Waiter>self.right

    @cython.final
    cdef inline object place(self):
        return None if self.queue is NULL else <object>self.queue

    @cython.final
    cdef inline bint leave(self) noexcept:
        if self.queue is NULL:
            return False
        (<WaitQueue>self.queue).remove(self)
        return True

@cython.final
cdef class WaitQueue:
    cdef PyObject *first
    cdef PyObject *last
    cdef readonly Py_ssize_t count

    cdef inline Waiter head(self):
        return None if self.first is NULL else <Waiter>self.first

    cdef inline Waiter tail(self):
        return None if self.last is NULL else <Waiter>self.last

    cdef inline void append(self, Waiter w) noexcept:
        w.left = self.last
        if self.last is NULL:
            self.first = <PyObject *>w
        else:
            (<Waiter>self.last).right = <PyObject *>w
        self.last = <PyObject *>w
        self.join(w)

    cdef inline void push(self, Waiter w) noexcept:
        w.right = self.first
        if self.first is NULL:
            self.last = <PyObject *>w
        else:
            (<Waiter>self.first).left = <PyObject *>w
        self.first = <PyObject *>w
        self.join(w)

    cdef inline void join(self, Waiter w) noexcept:
        w.queue = <PyObject *>self
        self.count += 1
        Py_INCREF(w)
        Py_INCREF(self)

    cdef inline void remove(self, Waiter w) noexcept:
        if w.left is NULL:
            self.first = w.right
        else:
            (<Waiter>w.left).right = w.right
        if w.right is NULL:
            self.last = w.left
        else:
            (<Waiter>w.right).left = w.left
        w.left = w.right = w.queue = NULL
        self.count -= 1
        Py_DECREF(w)  # whoever takes it out holds it
        Py_DECREF(self)

    cdef inline void rotate(self, Waiter w) noexcept:
        if w.left is NULL:
            return
        (<Waiter>self.last).right = self.first
        (<Waiter>self.first).left = self.last
        self.first = <PyObject *>w
        self.last = w.left
        (<Waiter>w.left).right = NULL
        w.left = NULL

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
