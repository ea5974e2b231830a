# cython: language_level=3
# The only door to greenlet's C interface, to thread-local C storage and to the thread's context.
cdef extern from *:
    """
    #include "greenlet/greenlet.h"
    #include <time.h>

    #if defined(_MSC_VER)
    #define FLOWER_THREAD_LOCAL __declspec(thread)
    #else
    #define FLOWER_THREAD_LOCAL __thread
    #endif
    #if defined(__GLIBC__)
    /* One pointer fits into the room that glibc keeps for libraries loaded late: no call to find it. */
    #define FLOWER_TLS_MODEL __attribute__((tls_model("initial-exec")))
    #else
    #define FLOWER_TLS_MODEL
    #endif
    #if defined(_MSC_VER)
    #include <malloc.h>
    #elif !defined(__FreeBSD__)
    #include <alloca.h>
    #endif
    #if defined(__linux__) || defined(__APPLE__)
    #include <pthread.h>
    #endif

    /* Borrowed: the scheduler is owned by a threading.local, whose clean-up resets this. One copy per compiled
       module that asks for it, so only _scheduler may. */
    static FLOWER_THREAD_LOCAL PyObject *flower_here FLOWER_TLS_MODEL = NULL;

    static CYTHON_INLINE PyObject *flower_get_here(void) {
        PyObject *s = flower_here != NULL ? flower_here : Py_None;
        Py_INCREF(s);
        return s;
    }
    static CYTHON_INLINE int flower_is_here(PyObject *s) { return flower_here == s; }
    static CYTHON_INLINE void flower_set_here(PyObject *s) { flower_here = s == Py_None ? NULL : s; }

    CYTHON_UNUSED static int flower_import_greenlet(void) {
        PyGreenlet_Import();
        return _PyGreenlet_API == NULL ? -1 : 0;
    }

    /* Have greenlet make what it keeps for this thread. To do so it allocates; were the collector to run then, a finalizer
       that comes by here would have it made twice. */
    CYTHON_UNUSED static int flower_touch_greenlet(void) {
        int collects = PyGC_Disable();
        PyGreenlet *current = PyGreenlet_GetCurrent();
        if (collects) PyGC_Enable();
        if (current == NULL) return -1;
        Py_DECREF(current);
        return 0;
    }

    /* PyGreenlet_Switch returns an empty tuple here: nothing is ever passed along. */
    static CYTHON_INLINE int flower_switch(PyGreenlet *g) {
        PyObject *r = PyGreenlet_Switch(g, NULL, NULL);
        if (r == NULL) return -1;
        Py_DECREF(r);
        return 0;
    }

    /* Start a greenlet so many bytes further down the C stack. Of two greenlets that start apart, neither's stack lies
       where the other's is needed, so that most of the copying at a switch falls away. */
    CYTHON_UNUSED static int flower_start(PyGreenlet *g, size_t down) {
        volatile char *room = (volatile char *)alloca(down + 16);
        int r;
        room[0] = 1;
        r = flower_switch(g);
        room[0] = (char)r;
        return r;
    }

    /* How many bytes of the thread's stack lie below this; a mebibyte, where the system does not say. */
    CYTHON_UNUSED static Py_ssize_t flower_stack_left(void) {
        char here;
    #if defined(__linux__)
        pthread_attr_t attributes;
        void *lowest = NULL;
        size_t size = 0;
        if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
            int failed = pthread_attr_getstack(&attributes, &lowest, &size);
            pthread_attr_destroy(&attributes);
            if (!failed) return &here - (char *)lowest;
        }
    #elif defined(__APPLE__)
        pthread_t thread = pthread_self();
        char *highest = (char *)pthread_get_stackaddr_np(thread);
        return (Py_ssize_t)pthread_get_stacksize_np(thread) - (highest - &here);
    #endif
        (void)here;
        return 1024 * 1024;
    }

    /* Let the current thread go so many calls deeper than the recursion limit says, or fewer again. */
    CYTHON_UNUSED static void flower_deepen(int calls) {
        PyThreadState *ts = PyThreadState_Get();
    #if PY_VERSION_HEX >= 0x030C0000
        ts->py_recursion_remaining += calls;
    #if PY_VERSION_HEX < 0x030E0000
        ts->c_recursion_remaining += calls;
    #endif
    #else
        ts->recursion_remaining += calls;
    #endif
    }

    /* The collector looks at every object in its lists, again and again while many are made. */
    static CYTHON_INLINE void flower_track(PyObject *thing) {
        if (!PyObject_GC_IsTracked(thing)) PyObject_GC_Track(thing);
    }

    /* Seconds, for telling whether a time slice is over: a few nanoseconds to read, a few milliseconds fine. */
    static CYTHON_INLINE double flower_coarse(void) {
    #if defined(CLOCK_MONOTONIC_COARSE)
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    #elif defined(CLOCK_MONOTONIC)
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    #else
        return (double)clock() / CLOCKS_PER_SEC;
    #endif
    }

    /* Call a tasklet's function. What it raises is put aside, for flower_take_caught, and the result is None then: a C
       frame of this kind is what every parked tasklet keeps on its stack, and one with a try in it is twice the size. */
    static PyObject *flower_caught = NULL;

    #if defined(__GNUC__)
    __attribute__((noinline, cold))
    #endif
    CYTHON_UNUSED static PyObject *flower_catch(void) {
    #if PY_VERSION_HEX >= 0x030C0000
        PyObject *error = PyErr_GetRaisedException();
    #else
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        if (traceback != NULL) PyException_SetTraceback(error, traceback);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
    #endif
        Py_XSETREF(flower_caught, error);
        Py_RETURN_NONE;
    }
    CYTHON_UNUSED static PyObject *flower_call(PyObject *func, PyObject *args, PyObject *kwargs) {
        PyObject *result = PyObject_Call(func, args, kwargs == Py_None ? NULL : kwargs);
        return result != NULL ? result : flower_catch();
    }
    CYTHON_UNUSED static CYTHON_INLINE PyObject *flower_take_caught(void) {
        PyObject *error = flower_caught;
        if (error == NULL) Py_RETURN_NONE;
        flower_caught = NULL;
        return error;
    }

    /* The last element, out of the list, which keeps its room: a list of few would give it back and ask for it at every
       pop and append. */
    CYTHON_UNUSED static PyObject *flower_take_last(PyObject *list) {
        Py_ssize_t last = PyList_GET_SIZE(list) - 1;
        Py_SET_SIZE(list, last);
        return PyList_GET_ITEM(list, last);
    }

    /* A context for a new tasklet: None where the creator's is untouched or empty, else a copy. */
    CYTHON_UNUSED static PyObject *flower_copy_context(void) {
        PyObject *context = PyThreadState_Get()->context;
        if (context == NULL || PyObject_Size(context) == 0) {
            Py_RETURN_NONE;
        }
        return PyContext_CopyCurrent();
    }
    /* The same, of a context that is not the present one. */
    CYTHON_UNUSED static PyObject *flower_copy_of(PyObject *context) {
        if (context == Py_None || PyObject_Size(context) == 0) {
            Py_RETURN_NONE;
        }
        return PyContext_Copy(context);
    }
    CYTHON_UNUSED static void flower_set_context(PyObject *context) {
        PyThreadState *ts = PyThreadState_Get();
        PyObject *old = ts->context;
        if (context == Py_None) context = NULL;
        if (old == context) return;
        Py_XINCREF(context);
        ts->context = context;
        ts->context_ver++;
        Py_XDECREF(old);
    }
    """
    ctypedef class greenlet.greenlet [object PyGreenlet, check_size ignore]:
        pass

    bint is_here "flower_is_here"(object scheduler)
    void set_here "flower_set_here"(object scheduler)
    int import_greenlet "flower_import_greenlet"() except -1
    int touch_greenlet "flower_touch_greenlet"() except -1
    int switch_to "flower_switch"(greenlet g) except -1
    int start_below "flower_start"(greenlet g, size_t down) except -1
    Py_ssize_t stack_left "flower_stack_left"()
    void deepen "flower_deepen"(int calls)
    void track "flower_track"(object thing)
    void untrack "PyObject_GC_UnTrack"(object thing)
    double coarse "flower_coarse"()
    object call "flower_call"(object func, object args, object kwargs)
    object take_caught "flower_take_caught"()
    greenlet take_last "flower_take_last"(list full)
    object copy_context "flower_copy_context"()
    object copy_of "flower_copy_of"(object context)
    void set_context "flower_set_context"(object context)
