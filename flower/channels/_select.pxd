# cython: language_level=3
cimport cython
from cpython.ref cimport PyObject
from flower.channels cimport _watch
from flower.channels._bomb cimport bomb
from flower.channels._channel cimport NOTHING, channel
from flower.channels._scheduler cimport Scheduler, here, may_park, wait
from flower.channels._task cimport SELECT, Task, check_timeout
from flower.channels._waiting cimport Waiter, WaitQueue
from flower.channels._watch cimport announce, interposer_here

cdef extern from *:
    """
    /* A tuple of two that knows a number. PyStructSequence would do, but looks its sizes up in a dict, at birth and at
       death, which costs more than the rest of a select's result. The number lies behind the last item, where tuple's
       own methods never look. */
    static PyTupleObject *flower_spare = NULL; /* the one that died last, for the next select */

    static void flower_selected_dealloc(PyObject *self) {
        PyTupleObject *pair = (PyTupleObject *)self;
        PyObject *channel = pair->ob_item[0], *value = pair->ob_item[1];
        PyObject_GC_UnTrack(self);
        Py_TRASHCAN_BEGIN(self, flower_selected_dealloc) /* pairs of pairs may be nested deep */
        if (flower_spare == NULL) flower_spare = pair;
        else PyObject_GC_Del(self);
        Py_DECREF(channel);
        Py_DECREF(value);
        Py_TRASHCAN_END
    }
    static PyObject *flower_selected_index(PyObject *self, void *closure) {
        (void)closure;
        return PyLong_FromSsize_t((Py_ssize_t)((PyTupleObject *)self)->ob_item[2]);
    }
    static PyObject *flower_selected_reduce(PyObject *self, PyObject *none) {
        PyTupleObject *pair = (PyTupleObject *)self;
        (void)none;
        return Py_BuildValue("O((OO))", &PyTuple_Type, pair->ob_item[0], pair->ob_item[1]);
    }
    static PyGetSetDef flower_selected_fields[] = {
        {"index", flower_selected_index, NULL, "The position of the case; -1 for the default.", NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static PyMethodDef flower_selected_methods[] = {
        {"__reduce__", flower_selected_reduce, METH_NOARGS, "It is copied as a plain tuple."},
        {NULL, NULL, 0, NULL},
    };
    static PyTypeObject flower_selected = {
        PyVarObject_HEAD_INIT(NULL, 0)
        .tp_name = "flower.Selected",
        .tp_doc = "What select returns: the pair (channel, value), with the position of the case as ``index``.",
        .tp_basicsize = sizeof(PyTupleObject) - sizeof(PyObject *),
        .tp_itemsize = sizeof(PyObject *),
        .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, /* and what it inherits */
        .tp_dealloc = flower_selected_dealloc,
        .tp_getset = flower_selected_fields,
        .tp_methods = flower_selected_methods,
        .tp_free = PyObject_GC_Del,
    };

    static int flower_ready_selected(void) {
        flower_selected.tp_base = &PyTuple_Type;
        return PyType_Ready(&flower_selected);
    }
    static PyObject *flower_make_selected(PyObject *channel, PyObject *value, Py_ssize_t index) {
        PyTupleObject *pair = flower_spare;
        if (pair != NULL) {
            flower_spare = NULL;
            _Py_NewReference((PyObject *)pair);
        } else {
            pair = PyObject_GC_NewVar(PyTupleObject, &flower_selected, 3);
            if (pair == NULL) return NULL;
            Py_SET_SIZE(pair, 2);
        }
        Py_INCREF(channel);
        Py_INCREF(value);
        pair->ob_item[0] = channel;
        pair->ob_item[1] = value;
        pair->ob_item[2] = (PyObject *)index;
        PyObject_GC_Track(pair);
        return (PyObject *)pair;
    }

    typedef PyObject *(*flower_choose_case)(PyObject **cases, Py_ssize_t count, PyObject *timeout, PyObject *otherwise);
    static flower_choose_case flower_choose;
    static PyObject *flower_missing, *flower_general;

    static PyObject *flower_select(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
        (void)self;
        if (names == NULL) return flower_choose((PyObject **)args, count, Py_None, flower_missing);
        return PyObject_Vectorcall(flower_general, args, (size_t)count, names);
    }
    static PyMethodDef flower_select_method = {
        "select", (PyCFunction)(void (*)(void))flower_select, METH_FASTCALL | METH_KEYWORDS, NULL,
    };
    static PyObject *flower_with_fast_path(PyObject *general, PyObject *missing, flower_choose_case choose) {
        flower_general = Py_NewRef(general);
        flower_missing = Py_NewRef(missing);
        flower_choose = choose;
        flower_select_method.ml_doc = ((PyCFunctionObject *)general)->m_ml->ml_doc;
        return PyCFunction_NewEx(&flower_select_method, NULL, ((PyCFunctionObject *)general)->m_module);
    }
    #define flower_items_of(tuple) (((PyTupleObject *)(tuple))->ob_item)
    """
    ctypedef object (*choose_function "flower_choose_case")(PyObject **, Py_ssize_t, object, object)
    object with_fast_path "flower_with_fast_path"(object general, object missing, choose_function choose)
    PyObject **items_of "flower_items_of"(tuple cases)
    int ready_selected "flower_ready_selected"() except -1
    object make_selected "flower_make_selected"(object ch, object value, Py_ssize_t index)

cdef object MISSING
cdef unsigned long long dice, LOW_32_BITS
cdef Py_ssize_t roll(Py_ssize_t sides) except -1

@cython.locals(i=Py_ssize_t, s=Scheduler, t=Task, waiters=list, w=Waiter, wishes=bint, prepared=bint, told=bint, done=bint,
               outside=bint)
cdef object choose_case(PyObject **cases, Py_ssize_t count, object timeout, object default)
cdef bint aim(Waiter w, object case, Py_ssize_t index, Task t) except -1
cdef channel end_of(object thing, str attribute, Py_ssize_t index)
cdef object named(object case)
@cython.locals(ch=channel)
cdef bint is_ready(Waiter w)
@cython.locals(i=Py_ssize_t, count=Py_ssize_t, found=Py_ssize_t, skip=Py_ssize_t)
cdef Waiter pick_ready(Scheduler s, list waiters)
@cython.locals(ch=channel, index=Py_ssize_t)
cdef object perform(Waiter w, PyObject **cases)
@cython.locals(i=Py_ssize_t, ch=channel, w=Waiter)
cdef int tell_channels(list waiters, Py_ssize_t count, bint left) except -1
cdef int tell_watcher(Waiter w, bint will_block) except -1
@cython.locals(i=Py_ssize_t, ch=channel, w=Waiter, last=Waiter, queue=WaitQueue, outside=bint)
cdef bint link_all(Scheduler s, list waiters) except -1
@cython.locals(first=Waiter, other=Waiter, count=Py_ssize_t)
cdef int mix(Waiter w) except -1
@cython.locals(i=Py_ssize_t, w=Waiter)
cdef object name_channel(object closed, object error, list waiters, PyObject **cases)
cdef int explode(object value, object case) except -1
cdef object of_case(object error, object case)
@cython.locals(i=Py_ssize_t, w=Waiter)
cdef int forget(Task t, list waiters) except -1
