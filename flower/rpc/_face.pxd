# cython: language_level=3
from flower.rpc._calls cimport Calls

cdef class Face

cdef extern from *:
    """
    typedef PyObject *(*flower_method)(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
    typedef PyObject *(*flower_plain_call)(PyObject *self, PyObject *method, PyObject *args, PyObject *, PyObject *);
    static flower_method flower_general_of_call;
    static flower_plain_call flower_plain_of_call;

    static PyObject *flower_short_call(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
        PyObject *rest, *result;
        if (names != NULL || count == 0) return flower_general_of_call(self, args, count, names);
        rest = PyTuple_New(count - 1);
        if (rest == NULL) return NULL;
        for (Py_ssize_t i = 1; i < count; i++) PyTuple_SET_ITEM(rest, i - 1, Py_NewRef(args[i]));
        result = flower_plain_of_call(self, args[0], rest, Py_None, Py_None);
        Py_DECREF(rest);
        return result;
    }
    static void flower_shorten_call(PyObject *method, flower_plain_call plain) {
        PyMethodDef *def = ((PyMethodDescrObject *)method)->d_method;
        if ((def->ml_flags & (METH_VARARGS | METH_FASTCALL | METH_KEYWORDS)) != (METH_FASTCALL | METH_KEYWORDS)) return;
        flower_plain_of_call = plain;
        flower_general_of_call = (flower_method)(void (*)(void))def->ml_meth;
        def->ml_meth = (PyCFunction)(void (*)(void))flower_short_call;
    }
    #define flower_add_shortcut(method, plain) flower_shorten_call(method, (flower_plain_call)(void (*)(void))(plain))
    """
    void add_shortcut "flower_add_shortcut"(object method, object (*plain)(Face, object, object, object, object))

cdef class Face:
    cdef object __weakref__
    cdef readonly object _session
    cdef readonly object _chain
    cdef Calls _calls

    cdef object _call(self, object method, object args, object kwargs, object timeout)
