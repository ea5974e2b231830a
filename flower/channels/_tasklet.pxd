# cython: language_level=3
cimport cython
from flower.channels._greenlet cimport copy_context, copy_of, track, untrack
from flower.channels._scheduler cimport Scheduler, check_switch, here, park, wake
from flower.channels._task cimport (
    BLOCKED, DEAD, JOIN, PAUSED, READY, REMOVED, RUNNING, SEND, TRAP, Task, check_timeout,
)
from flower.channels._waiting cimport WaitQueue

cdef class tasklet(Task)

cdef extern from *:
    """
    typedef PyObject *(*flower_start_function)(PyObject *func, PyObject *args, PyObject *kwargs);
    static flower_start_function flower_start_of_go;
    static PyObject *flower_go_general;

    static PyObject *flower_go(PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *names) {
        PyObject *rest, *t;
        (void)module;
        if (names != NULL || count == 0) return PyObject_Vectorcall(flower_go_general, args, (size_t)count, names);
        rest = PyTuple_New(count - 1);
        if (rest == NULL) return NULL;
        for (Py_ssize_t i = 1; i < count; i++) PyTuple_SET_ITEM(rest, i - 1, Py_NewRef(args[i]));
        t = flower_start_of_go(args[0], rest, Py_None);
        Py_DECREF(rest);
        return t;
    }
    static PyMethodDef flower_go_method = {
        "go", (PyCFunction)(void (*)(void))flower_go, METH_FASTCALL | METH_KEYWORDS, NULL,
    };
    static PyObject *flower_with_shortcut(PyObject *general, flower_start_function plain) {
        flower_go_general = Py_NewRef(general);
        flower_start_of_go = plain;
        flower_go_method.ml_doc = ((PyCFunctionObject *)general)->m_ml->ml_doc;
        return PyCFunction_NewEx(&flower_go_method, NULL, ((PyCFunctionObject *)general)->m_module);
    }

    /* Where very many tasklets are made at a time, most of the price is that of memory which the system gives and takes
       back: it is filled with zeros, page by page. CPython gives an arena back, of a mebibyte, as soon as nothing is left
       in it. So while there is a crowd, something is left in each: a block as large as a tasklet, allocated among them. */
    enum { FLOWER_PINS = 1024 };
    static struct { void *pins[FLOWER_PINS]; Py_ssize_t count, next, added; } flower_crowd;

    static void flower_pin_memory(PyObject *type) {
        void *pin = PyObject_Malloc((size_t)((PyTypeObject *)type)->tp_basicsize + 2 * sizeof(void *));
        PyObject_Free(flower_crowd.pins[flower_crowd.next]);
        flower_crowd.pins[flower_crowd.next] = pin;
        flower_crowd.next = (flower_crowd.next + 1) % FLOWER_PINS;
        if (flower_crowd.count < FLOWER_PINS) flower_crowd.count++;
        flower_crowd.added++;
    }
    static Py_ssize_t flower_count_pins(void) { return flower_crowd.count; }

    /* Let go of them, unless some were added since this was called last. */
    static void flower_unpin_memory(void) {
        Py_ssize_t i;
        if (flower_crowd.added == 0) {
            for (i = 0; i < FLOWER_PINS; i++) {
                PyObject_Free(flower_crowd.pins[i]);
                flower_crowd.pins[i] = NULL;
            }
            flower_crowd.count = flower_crowd.next = 0;
        }
        flower_crowd.added = 0;
    }
    """
    ctypedef object (*start_function "flower_start_function")(object func, object args, object kwargs)
    void pin_memory "flower_pin_memory"(object type)
    Py_ssize_t count_pins "flower_count_pins"()
    void unpin_memory "flower_unpin_memory"()
    object with_shortcut "flower_with_shortcut"(object general, start_function plain)

cdef Py_ssize_t CROWD, PINNED
cpdef bint is_pinned() except -1
cpdef int unpin() except -1
cdef bint is_due(Task t) except -1
cdef object start(object func, object args, object kwargs)
cdef tasklet start_in(object context, object func, object args, object kwargs)
@cython.locals(t=tasklet, s=Scheduler)
cdef tasklet begin(object func, object args, object kwargs, object context)

cdef class tasklet(Task):
    cdef object __weakref__

    @cython.final
    cdef int launch(self, object args, object kwargs) except -1
    @cython.final
    cdef int prime(self, object args, object kwargs) except -1
    @cython.final
    cdef int take_turn(self, int leave_as) except -1
    @cython.final
    @cython.locals(mine=Scheduler)
    cdef int die(self, object error) except -1
