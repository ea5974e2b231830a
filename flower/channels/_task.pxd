# cython: language_level=3
cimport cython
from flower.channels._greenlet cimport greenlet
from flower.channels._waiting cimport Waiter, WaitQueue

# A truth value in one byte: there may be a million tasks.
cdef extern from *:
    ctypedef bint flag "unsigned char"

cdef int DEAD, PAUSED, READY, RUNNING, BLOCKED
cdef int SEND, RECEIVE, SELECT, JOIN, SLEEP, RUN, REMOVED
cdef int KILL, ERRORS, TRAP
cdef class Task(Waiter):
    cdef readonly object sched
    cdef readonly greenlet carrier
    cdef readonly object func
    cdef object args
    cdef object kwargs
    cdef public object error
    cdef public object pending
    cdef list cases
    cdef public object scope
    cdef readonly object context
    cdef public object label
    cdef public WaitQueue joiners
    cdef Task older
    cdef Task newer
    cdef public object owner
    cdef public object failure
    cdef public object traceback
    cdef double until
    cdef int chosen
    cdef readonly unsigned char state
    cdef public unsigned char alert
    cdef readonly unsigned char blocked_in
    cdef unsigned char outside
    cdef flag external
    cdef readonly flag decided
    cdef public flag daemon
    cdef public flag collected
    cdef public flag ended
    cdef readonly flag atomic
    cdef readonly flag ignore_nesting

@cython.locals(i=Py_ssize_t)
cpdef int withdraw(Task t) except -1
cdef object take_context(Task t)
cpdef object place(Waiter w)
cpdef object check_timeout(object timeout)

@cython.locals(w=Waiter)
cpdef list case_channels(Task t)

@cython.locals(w=Waiter)
cpdef list members(WaitQueue queue)
@cython.locals(w=Waiter)
cpdef list tasks_in(WaitQueue queue)
