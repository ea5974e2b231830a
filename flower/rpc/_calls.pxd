# cython: language_level=3
cimport cython
from flower.channels._channel cimport channel
from flower.rpc._context cimport Context, present_context
from flower.rpc._line cimport Line
from flower.rpc._serving cimport Serving
from flower.rpc._wire cimport Unmade, Wire

cdef Py_ssize_t EARLY, SPARE, ENOUGH

cdef class Calls:
    cdef readonly object _session
    cdef Line _line
    cdef Serving _serving
    cdef channel _next
    cdef list _spare
    cdef readonly dict pending
    cdef readonly Py_ssize_t made
    cdef public Py_ssize_t most
    cdef readonly dict given_up

    @cython.locals(reply=channel, spare=list)
    cpdef call(self, object method, object args=*, object kwargs=*, object timeout=*, object meta=*)
    @cython.locals(line=Line)
    cdef _call_within(self, channel reply, object method, object args, object kwargs, object timeout, object meta)
    @cython.locals(line=Line, data=bytes)
    cpdef notify(self, object method, object args=*, object kwargs=*, object meta=*)
    @cython.locals(reply=channel)
    cdef answered(self, list event)
    @cython.locals(line=Line, wire=Wire)
    cdef object _send_at_once(self, channel reply, object method, object args)
    @cython.locals(line=Line, serving=Serving, data=bytes)
    cdef object _send(self, channel reply, object method, object args, object kwargs, object deadline, object meta)
    @cython.locals(own=double, context=Context)
    cdef tuple _deadline(self, object timeout)
    cdef _unsent(self, object error, object fresh)
    cpdef _give_up(self, object msgid, object error)
    cdef channel _new_reply(self, object method)
