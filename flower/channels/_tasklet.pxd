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

    /* What a tasklet took in memory is left, when it goes, to the next that comes. Where very many are made at a time,
       most of the price is else that of memory that the system gives and takes back: it is filled with zeros, page by
       page. Go keeps what its goroutines leave behind as well (gfput in runtime/proc.go). */
    typedef struct flower_room { Py_ssize_t references; struct flower_room *next; } flower_room; /* where the head was */
    static PyTypeObject *flower_tasklet_type;
    static flower_room *flower_rooms;
    static Py_ssize_t flower_room_count, flower_fewest_rooms; /* that there have been since the last look */

    static PyObject *flower_tasklet_alloc(PyTypeObject *type, Py_ssize_t items) {
        flower_room *room = flower_rooms;
        if (room == NULL || type != flower_tasklet_type) return PyType_GenericAlloc(type, items);
        flower_rooms = room->next;
        if (--flower_room_count < flower_fewest_rooms) flower_fewest_rooms = flower_room_count;
        memset((char *)room + sizeof(PyObject), 0, (size_t)type->tp_basicsize - sizeof(PyObject));
        PyObject_Init((PyObject *)room, type);
        PyObject_GC_Track((PyObject *)room);
        return (PyObject *)room;
    }
    static void flower_tasklet_free(void *thing) {
        flower_room *room = thing;
        PyObject_GC_UnTrack(thing); /* as PyObject_GC_Del would */
        room->next = flower_rooms;
        flower_rooms = room;
        flower_room_count++;
    }
    static void flower_keep_rooms(PyObject *type) {
        flower_tasklet_type = (PyTypeObject *)type;
        flower_tasklet_type->tp_alloc = flower_tasklet_alloc;
        flower_tasklet_type->tp_free = flower_tasklet_free;
    }
    static Py_ssize_t flower_count_rooms(void) { return flower_room_count; }
    static void flower_give_back_rooms(Py_ssize_t kept, Py_ssize_t most) {
        Py_ssize_t count = flower_fewest_rooms - kept;
        for (count = count < most ? count : most; count > 0 && flower_rooms != NULL; count--) {
            flower_room *room = flower_rooms;
            flower_rooms = room->next;
            flower_room_count--;
            ((PyObject *)room)->ob_type = flower_tasklet_type;
            PyObject_GC_Del(room);
        }
        flower_fewest_rooms = flower_room_count;
    }
    """
    ctypedef object (*start_function "flower_start_function")(object func, object args, object kwargs)
    void keep_rooms "flower_keep_rooms"(object type)
    Py_ssize_t count_rooms "flower_count_rooms"()
    void give_back_rooms "flower_give_back_rooms"(Py_ssize_t kept, Py_ssize_t most)
    object with_shortcut "flower_with_shortcut"(object general, start_function plain)

cdef Py_ssize_t SPARE_ROOMS, ROOMS_AT_A_TIME
cpdef bint has_rooms() except -1
cpdef int trim_rooms() except -1
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
