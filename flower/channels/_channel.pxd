# cython: language_level=3
cimport cython
from cpython.ref cimport PyObject
from flower.channels._bomb cimport bomb
from flower.channels cimport _watch
from flower.channels._scheduler cimport here, may_park, meet, wait, wake
from flower.channels._task cimport RECEIVE, SEND, Task, case_channels, check_timeout, members, tasks_in, withdraw
from flower.channels._waiting cimport NEVER, Waiter, WaitQueue
from flower.channels._watch cimport announce, interposer_here

cdef object NOTHING
@cython.locals(t=Task)
cdef Task claim(Waiter w)
cdef Py_ssize_t UNBOUNDED, FIRST_RING, LONGEST_KEPT_RING


cdef class channel

cdef extern from *:
    """
    /* send(value) and receive(), without a timeout and without keywords, as in nearly every call, go past the parsing of
       arguments: these take the places of the methods' own functions. Where a buffer has room, or a value, and nobody
       waits, there is no more to do than to put that in, or to take it out. */
    typedef PyObject *(*flower_method)(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
    typedef PyObject *(*flower_deliver)(PyObject *self, PyObject *value, PyObject *timeout);
    typedef PyObject *(*flower_obtain)(PyObject *self, PyObject *timeout);
    typedef int (*flower_keep)(PyObject *self, PyObject *value);
    typedef PyObject *(*flower_pick)(PyObject *self);
    static flower_keep flower_send_kept;
    static flower_pick flower_receive_kept;
    static flower_method flower_send_general, flower_receive_general;
    static flower_deliver flower_send_plain;
    static flower_obtain flower_receive_plain;

    static PyObject *flower_short_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
        if (count == 1 && names == NULL) {
            if (flower_send_kept(self, args[0])) Py_RETURN_NONE;
            return flower_send_plain(self, args[0], Py_None);
        }
        return flower_send_general(self, args, count, names);
    }
    static PyObject *flower_short_receive(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
        if (count == 0 && names == NULL) {
            PyObject *value = flower_receive_kept(self);
            return value != NULL ? value : flower_receive_plain(self, Py_None);
        }
        return flower_receive_general(self, args, count, names);
    }
    static flower_method flower_put_before(PyObject *method, flower_method shortcut) {
        PyMethodDef *def = ((PyMethodDescrObject *)method)->d_method;
        flower_method general = (flower_method)(void (*)(void))def->ml_meth;
        if ((def->ml_flags & (METH_VARARGS | METH_FASTCALL | METH_KEYWORDS)) == (METH_FASTCALL | METH_KEYWORDS))
            def->ml_meth = (PyCFunction)(void (*)(void))shortcut;
        return general;
    }
    static void flower_shorten(PyObject *send, PyObject *receive, flower_keep keep, flower_pick pick,
                               flower_deliver deliver, flower_obtain obtain) {
        flower_send_kept = keep;
        flower_receive_kept = pick;
        flower_send_plain = deliver;
        flower_receive_plain = obtain;
        flower_send_general = flower_put_before(send, flower_short_send);
        flower_receive_general = flower_put_before(receive, flower_short_receive);
    }
    #define flower_add_shortcuts(send, receive, keep, pick, deliver, obtain) \
        flower_shorten(send, receive, (flower_keep)(void (*)(void))(keep), (flower_pick)(void (*)(void))(pick), \
                       (flower_deliver)(void (*)(void))(deliver), (flower_obtain)(void (*)(void))(obtain))

    /* Of what a type's flags tell at once (numbers, strings, tuples, lists, dicts), none is a bomb. */
    static CYTHON_INLINE int flower_is_basic(PyObject *value) { return PyType_HasFeature(Py_TYPE(value), 0x7FUL << 24); }
    /* A value in place of None, and None in place of a value, which is the caller's then. */
    static CYTHON_INLINE void flower_fill(PyObject *ring, Py_ssize_t at, PyObject *value) {
        PyList_SET_ITEM(ring, at, Py_NewRef(value));
        Py_DECREF(Py_None);
    }
    static CYTHON_INLINE void flower_empty(PyObject *ring, Py_ssize_t at) {
        PyList_SET_ITEM(ring, at, Py_NewRef(Py_None));
    }
    """
    void add_shortcuts "flower_add_shortcuts"(
        object send, object receive, int (*keep)(channel, object) noexcept, PyObject *(*pick)(channel) noexcept,
        object (*deliver)(channel, object, object), object (*obtain)(channel, object)
    )
    bint is_basic "flower_is_basic"(PyObject *value)
    void fill "flower_fill"(PyObject *ring, Py_ssize_t at, object value)
    void empty "flower_empty"(PyObject *ring, Py_ssize_t at)
    Py_ssize_t list_size "PyList_GET_SIZE"(PyObject *ring)
    PyObject *list_get "PyList_GET_ITEM"(PyObject *ring, Py_ssize_t at)


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
    cdef public object _on_left
    cdef public object _keep
    cdef public object _feeder
    cdef public Py_ssize_t _low
    cdef public object _outlet
    cdef public Py_ssize_t _credit

    # `put` and `take` of a buffer, where nothing else comes of it, and nobody watches; no Python code runs here. 0, NULL:
    # there may be more to do.
    @cython.final
    @cython.nonecheck(False)
    cdef inline int keep(self, object value) noexcept:
        cdef PyObject *ring = <PyObject *>self.ring
        cdef Py_ssize_t room
        if self.ring is None or self.held >= self.limit or self.receivers.count or self.shut or self._credit > 0:
            return 0
        room = list_size(ring)
        if self.held >= room or _watch.watched:
            return 0
        fill(ring, (self.head + self.held) & (room - 1), value)
        self.held += 1
        return 1

    @cython.final
    @cython.nonecheck(False)
    cdef inline PyObject *pick(self) noexcept:
        cdef PyObject *ring = <PyObject *>self.ring
        cdef PyObject *value
        cdef Py_ssize_t room
        if self.held == 0 or self.senders.count or self.held == self._low or _watch.watched:
            return NULL
        room = list_size(ring)
        if self.held == 1 and room > LONGEST_KEPT_RING:
            return NULL
        value = list_get(ring, self.head)
        if not is_basic(value) and isinstance(<object>value, bomb):
            return NULL
        empty(ring, self.head)
        self.head = (self.head + 1) & (room - 1)
        self.held -= 1
        return value

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
    cdef inline int store(self, object value) except -1
    @cython.final
    @cython.locals(ring=list)
    cdef inline object fetch(self)
    @cython.final
    cdef object _deliver(self, object value, object timeout)
    @cython.final
    cdef object _obtain(self, object timeout)
    cpdef bint try_send(self, object value) except -1
    cpdef int _abandon(self, object reason) except -1
    @cython.final
    @cython.locals(t=Task, w=Waiter, after=Waiter)
    cdef int dismiss(self, WaitQueue queue, bint selects_only, WaitQueue woken) except -1
    @cython.final
    @cython.locals(t=Task)
    cdef int wake_all(self, WaitQueue woken) except -1
    cpdef object _refusal(self)
    cpdef _set_external(self, bint external)
