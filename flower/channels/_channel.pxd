# cython: language_level=3
cimport cython
from flower.channels._bomb cimport bomb
from flower.channels cimport _watch
from flower.channels._scheduler cimport here, may_park, meet, wait, wake
from flower.channels._task cimport RECEIVE, SEND, Task, case_channels, check_timeout, claim, members, tasks_in
from flower.channels._waiting cimport NEVER, Waiter, WaitQueue
from flower.channels._watch cimport announce, interposer_here

cdef object NOTHING
cdef Py_ssize_t UNBOUNDED, FIRST_RING, LONGEST_KEPT_RING


cdef class channel:
    cdef object __weakref__
    cdef Py_ssize_t limit
    cdef Py_ssize_t held
    cdef Py_ssize_t head
    cdef list ring
    cdef WaitQueue senders
    cdef WaitQueue receivers
    cdef int favour
    cdef bint all_switch
    cdef bint shut
    cdef object reason
    cdef public object label
    cdef public bint _external
    cdef public object _on_wait
    cdef public object _keep
    cdef public object _feeder
    cdef public Py_ssize_t _low
    cdef public object _outlet
    cdef public Py_ssize_t _credit

    @cython.final
    @cython.locals(t=Task)
    cdef bint put(self, object value) except -1
    @cython.final
    @cython.locals(t=Task, w=Waiter)
    cdef object take(self)
    @cython.final
    cdef bint can_put(self)
    @cython.final
    cdef bint can_take(self)
    @cython.final
    @cython.locals(ring=list, longer=list, size=Py_ssize_t, i=Py_ssize_t)
    cdef int grow(self) except -1
    @cython.final
    @cython.locals(ring=list)
    cdef int store(self, object value) except -1
    @cython.final
    @cython.locals(ring=list)
    cdef object fetch(self)
    @cython.final
    cdef object _obtain(self, object timeout)
    cpdef bint try_send(self, object value) except -1
    cpdef int _abandon(self, object reason) except -1
    @cython.locals(t=Task, w=Waiter)
    cpdef int _pump(self) except -1
    cpdef int _overfill(self, object value) except -1
    @cython.locals(ring=list, size=Py_ssize_t, count=Py_ssize_t, i=Py_ssize_t)
    cpdef int _put_back(self, list values) except -1
    @cython.final
    @cython.locals(t=Task, w=Waiter, after=Waiter)
    cdef int dismiss(self, WaitQueue queue, bint selects_only, WaitQueue woken) except -1
    @cython.final
    @cython.locals(t=Task)
    cdef int wake_all(self, WaitQueue woken) except -1
    cpdef object _refusal(self)
