# cython: language_level=3
cimport cython
from flower.channels._channel cimport FIRST_RING, channel, claim
from flower.channels._scheduler cimport wake
from flower.channels._task cimport Task
from flower.channels._waiting cimport Waiter

@cython.locals(t=Task, w=Waiter)
cpdef int pump(channel ch) except -1
cpdef int overfill(channel ch, object value) except -1
@cython.locals(t=Task, ring=list, size=Py_ssize_t, count=Py_ssize_t, i=Py_ssize_t)
cpdef int put_back(channel ch, list values) except -1
cpdef int pour(channel source, channel target) except -1
