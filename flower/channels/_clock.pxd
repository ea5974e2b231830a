# cython: language_level=3
cimport cython
from flower.channels._channel cimport channel
from flower.channels._greenlet cimport copy_context, track, untrack
from flower.channels._scheduler cimport Scheduler, here
from flower.channels._tasklet cimport start_in
from flower.channels._waiting cimport Alarm

cdef object _weak

cdef class Chime(Alarm):
    cdef readonly Scheduler scheduler
    cdef object ref
    cdef double interval
    cdef double first

    @cython.locals(ch=channel, due=double)
    cpdef object fire(self, double now)
    cpdef end(self)

cdef class Deferred(Alarm):
    cdef object __weakref__
    cdef Scheduler scheduler
    cdef object context
    cdef object func
    cdef object args
    cdef object kwargs

    cpdef object fire(self, double now)
    cpdef end(self)

cdef channel _time_channel(object label, double seconds, double interval)
@cython.locals(chime=Chime)
cdef _start(Scheduler scheduler, channel ch, double seconds, double interval)
@cython.locals(chime=Chime, pending=bint)
cdef bint _silence(channel ch) except -1
@cython.locals(later=Deferred)
cdef Deferred _defer(Scheduler scheduler, double seconds, object func, object args, object kwargs)
