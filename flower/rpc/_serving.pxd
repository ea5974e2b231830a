# cython: language_level=3
cimport cython
from flower.channels._channel cimport channel
from flower.channels._elsewhere cimport overfill
from flower.channels._scheduler cimport Scheduler
from flower.channels._task cimport Task
from flower.channels._tasklet cimport start_in
from flower.rpc._context cimport Context, new_context, serves
from flower.rpc._line cimport Line
from flower.rpc._outbox cimport Outbox
from flower.rpc._service cimport Method
from flower.rpc._wire cimport Unmade

cdef Py_ssize_t MESSAGE_COST

cdef class Serving:
    cdef readonly Line session
    cdef readonly dict running
    cdef readonly Py_ssize_t inflight
    cdef Py_ssize_t unbegun
    cdef readonly Py_ssize_t asked
    cdef public Py_ssize_t most
    cdef public Py_ssize_t most_words
    cdef public Py_ssize_t unsent
    cdef readonly object notices
    cdef public Py_ssize_t backlog
    cdef readonly bint noticing
    cdef Context noticed
    cdef double _shown
    cdef readonly Py_ssize_t served
    cdef readonly Py_ssize_t refused
    cdef readonly object last_id
    cdef readonly channel proceed
    cdef readonly channel room

    @cython.locals(session=Line, limit=Py_ssize_t)
    cdef on_request(self, list event)
    @cython.locals(outbox=Outbox)
    cdef bint is_behind(self) except -1
    @cython.locals(outbox=Outbox)
    cdef bint _is_far_behind(self) except -1
    @cython.locals(session=Line, cost=Py_ssize_t, context=Context, t=Task)
    cdef bint begin(self, list event) except -1
    @cython.locals(scheduler=Scheduler, when=double)
    cdef _set_deadline(self, Context context, dict meta)
    @cython.locals(session=Line, task=Task)
    cdef _serve(self, Context context)
    @cython.locals(session=Line)
    cdef _end(self, Context context)
    cpdef killed(self, Context context)
    @cython.locals(session=Line, data=bytes, function=Method)
    cdef _answer(self, Context context)
    cdef _stream(self, object values, channel stream, Context context)
    cdef _close(self, object values, Context context)
    @cython.locals(size=Py_ssize_t)
    cdef list _listed(self, object values, Context context)
    @cython.locals(wire=object)
    cdef object _refusal(self, object msgid, object told)
    cdef _fail_stream(self, channel stream, object error, Context context)
    @cython.locals(session=Line, size=Py_ssize_t)
    cdef _send(self, object msgid, bytes data, object fresh=*)
    @cython.locals(session=Line)
    cdef on_notification(self, list event)
    cpdef drop_notices(self)
    @cython.locals(session=Line, context=Context, function=Method)
    cdef _notice(self, object method, list args, object kwargs, object meta, Py_ssize_t cost)
    cpdef go_on(self)
    cdef _wake(self, channel waiting)
    cpdef cancel(self, object msgid, object reason)
    cpdef hold_back(self)
    cpdef refuse(self, object msgid, object kind, object text)

cpdef _serve(Context context)
