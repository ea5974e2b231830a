# cython: language_level=3
cimport cython

from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING

cdef extern from *:
    """
    #ifdef MS_WINDOWS
    #include <winsock2.h>
    #pragma comment(lib, "ws2_32")
    #define FLOWER_AGAIN (WSAGetLastError() == WSAEWOULDBLOCK)
    #define FLOWER_FAILED() PyErr_SetExcFromWindowsErr(PyExc_OSError, WSAGetLastError())
    #else
    #include <errno.h>
    #include <sys/socket.h>
    #define FLOWER_AGAIN (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
    #define FLOWER_FAILED() PyErr_SetFromErrno(PyExc_OSError)
    #endif
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif

    #ifdef __linux__
    #include <sys/epoll.h>
    #include <time.h>
    typedef struct epoll_event flower_event;
    #else  /* where there is no epoll, nobody polls */
    typedef struct { int events; struct { int fd; } data; } flower_event;
    #define epoll_wait(set, into, most, timeout) 0
    #endif

    #define FLOWER_LINGER 50000  /* nanoseconds */
    enum { FLOWER_AT_A_TIME = 32, FLOWER_SERVING = 64 * 1024, FLOWER_IN = 1, FLOWER_OUT = 4 };
    enum { FLOWER_SMALL = 32 * 1024, FLOWER_LARGE = 64 * 1024, FLOWER_BULK = 256 * 1024, FLOWER_KEPT = 3 };

    /* Ask again and again for a moment, until some are ready or another thread wants something. It is waiting, as far
       as other threads are concerned: the GIL is let go though some be ready at once, which a negative number tells, or
       threads that wait for it would starve beside a conversation of this process. */
    static int flower_poll_on(int set, flower_event *into, int most, volatile int *wanted) {
        int found = 0, rounds = 0;
    #ifdef __linux__
        struct timespec t;
        long long until = 0, now;
        Py_BEGIN_ALLOW_THREADS
        do {
            found = epoll_wait(set, into, most, 0);
            clock_gettime(CLOCK_MONOTONIC, &t);
            now = 1000000000LL * t.tv_sec + t.tv_nsec;
            if (rounds++ == 0) until = now + FLOWER_LINGER;
        } while (found == 0 && now < until && !*wanted);
        Py_END_ALLOW_THREADS
    #endif
        return found <= 0 ? 0 : rounds == 1 ? -found : found;
    }

    /* The GIL is kept: none of these calls waits, and to get it back from a busy thread takes milliseconds. */

    #if defined(__GNUC__)
    #pragma GCC diagnostic push
    #pragma GCC diagnostic ignored "-Wdeprecated-declarations"  /* of ob_shash */
    #endif
    static void flower_refill(PyObject *data, Py_ssize_t count) {
        Py_SET_SIZE(data, count);
        ((PyBytesObject *)data)->ob_shash = -1;
        PyBytes_AS_STRING(data)[count] = 0;
    }
    #if defined(__GNUC__)
    #pragma GCC diagnostic pop
    #endif

    /* A bytes object with room for so many, of those that are kept: one that nobody else has any more, if there is one.
       Fresh memory would be cold, and the system would have to hand it out page by page, each time. */
    static PyObject *flower_block(PyObject *kept, Py_ssize_t size) {
        PyObject *data;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(kept); i++)
            if (Py_REFCNT(data = PyList_GET_ITEM(kept, i)) == 1) return Py_NewRef(data);
        data = PyBytes_FromStringAndSize(NULL, size);
        if (data != NULL && (PyList_GET_SIZE(kept) < FLOWER_KEPT ? PyList_Append(kept, data)
                                                                 : PyList_SetItem(kept, 0, Py_NewRef(data))) < 0)
            Py_CLEAR(data);
        return data;
    }

    /* A small read goes over the stack, so that what is allocated is as long as what has come. A large one goes
       straight into the bytes object that the reader gets, unless that would be half empty. */
    static CYTHON_INLINE PyObject *flower_receive(PyObject *kept, int fd, Py_ssize_t size) {
        PyObject *data;
        char small[FLOWER_SMALL];
        Py_ssize_t count;
        if (size <= FLOWER_SMALL) {
            count = recv(fd, small, size, 0);
            if (count >= 0) return PyBytes_FromStringAndSize(small, count);
        } else {
            data = flower_block(kept, size);
            if (data == NULL) return NULL;
            count = recv(fd, PyBytes_AS_STRING(data), size, 0);
            if (count >= size / 2) {
                flower_refill(data, count);
                return data;
            }
            Py_DECREF(data);  /* it is kept: nothing is freed, which could change errno */
            if (count >= 0) return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), count);
        }
        if (FLOWER_AGAIN) Py_RETURN_NONE;
        return FLOWER_FAILED();
    }

    static CYTHON_INLINE Py_ssize_t flower_give(int fd, PyObject *data) {
        const char *bytes = PyBytes_Check(data) ? PyBytes_AS_STRING(data) : PyByteArray_AS_STRING(data);
        Py_ssize_t count = send(fd, bytes, Py_SIZE(data), MSG_NOSIGNAL);
        if (count >= 0) return count;
        if (FLOWER_AGAIN) return 0;
        FLOWER_FAILED();
        return -1;
    }
    """
    enum:
        SMALL "FLOWER_SMALL"
        LARGE "FLOWER_LARGE"
        BULK "FLOWER_BULK"
        AT_A_TIME "FLOWER_AT_A_TIME"
        SERVING "FLOWER_SERVING"
        IN "FLOWER_IN"
        OUT "FLOWER_OUT"
    ctypedef union flower_data:
        int fd
    ctypedef struct flower_event:
        int events
        flower_data data
    int epoll_wait(int set, flower_event *into, int most, int timeout)
    int flower_poll_on(int set, flower_event *into, int most, int *wanted)
    object flower_receive(list kept, int fd, Py_ssize_t size)
    Py_ssize_t flower_give(int fd, object data) except -1

cdef inline object receive(Sockets sockets, object sock, int fd, Py_ssize_t size):
    return flower_receive(sockets._bulk if size == BULK else sockets._large, fd, size)

cdef inline Py_ssize_t give(object sock, int fd, object data) except -1:
    return flower_give(fd, data)

cdef inline bytearray behind(bytes data, Py_ssize_t count):
    return PyByteArray_FromStringAndSize(PyBytes_AS_STRING(data) + count, len(data) - count)

cdef int FULL_READS, LONGEST_REST

cdef inline int poll(Sockets sockets):
    return epoll_wait(sockets._set_fd, sockets._events, AT_A_TIME, 0)

cdef inline int poll_on(Sockets sockets):
    return flower_poll_on(sockets._set_fd, sockets._events, AT_A_TIME, &sockets.wanted)

cdef inline int descriptor(Sockets sockets, int i):
    return sockets._events[i].data.fd

cdef inline int events(Sockets sockets, int i):
    return sockets._events[i].events

cdef class Link:
    cpdef data_received(self, bytes data)
    cpdef write(self, bytes data)
    cpdef bint is_closing(self)

cdef class Tap:
    cdef readonly object reader

    cpdef bint take(self, bytes data) except -1

cdef class Sockets:
    cdef readonly object loop
    cdef readonly object context
    cdef readonly list watched
    cdef object ready
    cdef object _set
    cdef int _set_fd
    cdef int _found
    cdef int _served
    cdef Py_ssize_t brought
    cdef public int wanted
    cdef readonly int _patience
    cdef readonly int _rest
    cdef Py_ssize_t _count
    cdef Transport _latest
    cdef list _large
    cdef list _bulk
    cdef flower_event _events[AT_A_TIME]

    @cython.locals(transport=Transport, i=int)
    cpdef bint serve(self) except -1
    @cython.locals(found=int)
    cpdef bint linger(self) except -1
    cdef watch(self, Transport transport, int interest)
    cdef _watch_alone(self, Transport transport, int interest)

cdef class Transport(Link):
    cdef Sockets _sockets
    cdef object _sock
    cdef Link _protocol
    cdef bytearray _unsent
    cdef Py_ssize_t _high
    cdef Py_ssize_t _low
    cdef int _fd
    cdef int _interest
    cdef int _full_reads
    cdef Py_ssize_t _size
    cdef bint _full
    cdef bint _half
    cdef bint _closing
    cdef bint _lost

    cpdef on_ready(self, int events)
    @cython.locals(count=Py_ssize_t)
    cdef _read(self)
    cdef _choose_size(self, Py_ssize_t count)
    cpdef pause_reading(self)
    cdef _watch(self, int interest)
    cdef Py_ssize_t _give(self, data)
    cdef _write(self)
    cdef _shut_down(self)
    cdef _pause_if_full(self)
    cpdef close(self)
    cdef _lose(self, error)
