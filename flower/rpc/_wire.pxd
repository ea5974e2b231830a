# cython: language_level=3
cimport cython
from flower.rpc._plain cimport pack_plain, unpack_first, unpack_plain
from flower.rpc._scan cimport Scanner, measure
from flower.rpc._types cimport Codec, Packing

cdef extern from *:
    """
    static long long flower_whole(PyObject *value) {
        int overflow;
        long long number;
        if (!PyLong_CheckExact(value)) return -1;
        number = PyLong_AsLongLongAndOverflow(value, &overflow);
        return overflow || number < 0 || number > 4294967295LL ? -1 : number;
    }
    """
    long long whole "flower_whole"(object value)
    bint discard "PySet_Discard"(set numbers, object value) except -1

cdef inline object decoded_first(Scanner scanner):
    cdef Py_ssize_t length = 0, cost = scanner.most_cost
    if not scanner.is_short():
        return None
    message = unpack_first(scanner.data, scanner.at, min(scanner.size, scanner.at + scanner.most), &length, &cost)
    if message is not None:
        scanner.skip(length, cost)
    return message

cdef long long _LAST_ID
cdef Py_ssize_t FEW, ROOMY
cdef int _REQUEST, _RESPONSE, _NOTIFICATION

@cython.final
cdef class Unmade:
    cdef readonly object error
    cdef readonly object rest

@cython.final
cdef class _Tools(Packing):
    cdef object __weakref__
    cdef bint busy
    cdef readonly object pack
    cdef object feed
    cdef object unpack

    @cython.locals(tools=_Tools)
    cdef _Tools borrow(self, Codec codec)

cdef class Wire:
    cdef object __weakref__
    cdef readonly Codec codec
    cdef readonly object state
    cdef public Py_ssize_t most_sent
    cdef readonly set _calls
    cdef set _serving
    cdef public long long _last_id
    cdef bytes packed
    cdef bint _found
    cdef Scanner _scanner
    cdef readonly _Tools _tools

    cpdef limit(self, Py_ssize_t max_message)
    @cython.locals(scanner=Scanner)
    cpdef take(self, bytes data)
    cpdef object next_event(self)
    cpdef object next_plain(self)
    cpdef bint has_more(self) except -1
    @cython.locals(scanner=Scanner)
    cdef object _next(self, bint plain)
    cpdef list end(self)
    @cython.locals(tools=_Tools, codec=Codec)
    cdef object _decode(self, object data, Py_ssize_t cost, bint keyed)
    @cython.locals(scanner=Scanner, cost=Py_ssize_t, event=list, length=Py_ssize_t, at=Py_ssize_t, kind="long long",
                   served=Py_ssize_t)
    cdef list _event(self, object message)
    cdef int _check_response(self, list event) except -1
    cdef list _violated(self, object reason)
    @cython.locals(before="long long", number="long long", msgid=object)
    cpdef tuple call(self, object method, object params)
    @cython.locals(data=bytes)
    cdef object call_plain(self, object method, object params)
    @cython.locals(number="long long", msgid=object)
    cdef object _next_id(self)
    cpdef take_back(self, object msgid)
    @cython.locals(data=bytes)
    cpdef bytes notify(self, object method, object params)
    cpdef bytes reply(self, object msgid, object result, Py_ssize_t most=*)
    cpdef bytes refuse(self, object msgid, object error)
    @cython.locals(plain=bytes, data=bytes)
    cdef bytes _answer(self, object msgid, object error, object result, Py_ssize_t most)
    cpdef bytes pack_value(self, object value)
    @cython.locals(codec=Codec, scanner=Scanner)
    cpdef object unpack_value(self, bytes data)
    @cython.locals(plain=bytes)
    cdef bytes _pack(self, int kind, object msgid, object first, object second, Py_ssize_t most)
    @cython.locals(tools=_Tools, data=bytes)
    cdef bytes _pack_any(self, int kind, object msgid, object first, object second, Py_ssize_t most)
    @cython.locals(data=bytes)
    cdef bytes _packed(self, _Tools tools, list message, object values, Py_ssize_t most)

cdef int _check_id(object msgid) except -1
cdef bint _are_plain(object values) except -1
