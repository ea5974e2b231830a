# cython: language_level=3
cimport cython
from flower.channels._bomb cimport bomb
from flower.channels._channel cimport NOTHING, channel, interposer_here
from flower.channels._scheduler cimport Scheduler, here
from flower.channels._task cimport SELECT, Task, check_timeout
from flower.channels._waiting cimport Waiter

cdef extern from *:
    """
    /* A tuple of two with a third, named element that is no part of it: what os.stat_result does. */
    static PyTypeObject *flower_selected = NULL;
    static PyStructSequence_Field flower_selected_fields[] = {
        {"channel", "the channel of the case that happened"},
        {"value", "the value received, None for a send"},
        {"index", "the position of the case, -1 for the default"},
        {NULL, NULL},
    };
    static PyStructSequence_Desc flower_selected_desc = {
        "flower.Selected",
        "What select returns: the pair (channel, value), with the position of the case as ``index``.",
        flower_selected_fields,
        2,
    };

    /* PyStructSequence_New looks the sizes up in the type's dict, which costs more than all the rest. */
    static PyObject *flower_make_selected(PyObject *channel, PyObject *value, Py_ssize_t index) {
        PyTupleObject *result;
        PyObject *number;
        if (flower_selected == NULL) {
            flower_selected = PyStructSequence_NewType(&flower_selected_desc);
            if (flower_selected == NULL) return NULL;
        }
        number = PyLong_FromSsize_t(index);
        if (number == NULL) return NULL;
        result = PyObject_GC_NewVar(PyTupleObject, flower_selected, 3);
        if (result == NULL) {
            Py_DECREF(number);
            return NULL;
        }
        Py_SET_SIZE(result, 2);
        Py_INCREF(channel);
        Py_INCREF(value);
        result->ob_item[0] = channel;
        result->ob_item[1] = value;
        result->ob_item[2] = number;
        PyObject_GC_Track(result);
        return (PyObject *)result;
    }
    """
    object make_selected "flower_make_selected"(object ch, object value, Py_ssize_t index)

cdef object MISSING
cdef unsigned long long dice, LOW_32_BITS
cdef Py_ssize_t roll(Py_ssize_t sides) except -1

@cython.locals(i=Py_ssize_t, count=Py_ssize_t, s=Scheduler, t=Task, waiters=list, w=Waiter, wishes=bint, outside=bint)
cdef object choose_case(tuple cases, object timeout, object default)
cdef bint aim(Waiter w, object case, Py_ssize_t index, Task t) except -1
cdef channel end_of(object thing, str attribute, Py_ssize_t index)
cdef object named(object case)
@cython.locals(ch=channel)
cdef bint is_ready(Waiter w)
@cython.locals(i=Py_ssize_t, count=Py_ssize_t, found=Py_ssize_t, skip=Py_ssize_t)
cdef Waiter pick_ready(list waiters)
@cython.locals(ch=channel, index=Py_ssize_t)
cdef object perform(Waiter w, tuple cases)
@cython.locals(i=Py_ssize_t, ch=channel, w=Waiter)
cdef int tell_channels(list waiters) except -1
@cython.locals(i=Py_ssize_t, count=Py_ssize_t, first=Py_ssize_t, ch=channel, w=Waiter, outside=bint)
cdef bint link_all(list waiters) except -1
@cython.locals(i=Py_ssize_t, w=Waiter)
cdef int forget(list waiters) except -1
