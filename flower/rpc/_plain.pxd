# cython: language_level=3
# Messages of plain values, from and to MessagePack, in a few hundred instructions where the library needs thousands:
# most messages are a few numbers and strings, and it is for them that a call costs what it costs. Lists and dicts of them
# are plain, too. What is not, or is longer, is the library's: both functions give None then.
# The format: https://github.com/msgpack/msgpack/blob/master/spec.md
#
# Both read and write what the library would with the options that `_wire` gives it.
cdef extern from *:
    """
    #define FLOWER_ROOM 512   /* bytes of a message that is packed here */
    #define FLOWER_NESTED 8   /* arrays and maps in each other */
    #define FLOWER_MORE 2     /* elements that a message has room for: what an event has behind it */
    /* What objects cost, as `_scan` counts it. */
    enum { FLOWER_SLOT = 8, FLOWER_NUMBER = 32, FLOWER_TEXT = 56, FLOWER_ARRAY = 56, FLOWER_MAP = 64, FLOWER_PAIR = 88 };

    static int flower_put_head(unsigned char **at, unsigned char *end, Py_ssize_t size, int little, int most_little,
                               int one, int two) {
        if (end - *at < size + 3 || size > 0xffff) return -1;
        if (size <= most_little) {
            *(*at)++ = (unsigned char)(little | size);
        } else if (one && size <= 0xff) {
            *(*at)++ = (unsigned char)one;
            *(*at)++ = (unsigned char)size;
        } else {
            *(*at)++ = (unsigned char)two;
            *(*at)++ = (unsigned char)(size >> 8);
            *(*at)++ = (unsigned char)size;
        }
        return 0;
    }

    /* Ids of our requests, by their last digits. An answer brings the number: this gives the object, found at a glance. */
    static struct { long long number; PyObject *id; } flower_ids[64];

    static void flower_keep_id(PyObject *id) {
        long long number = PyLong_AsLongLong(id);
        flower_ids[number & 63].number = number;
        Py_XSETREF(flower_ids[number & 63].id, Py_NewRef(id));
    }
    static PyObject *flower_kept_id(PyObject *id) {
        int overflow;
        long long number = PyLong_CheckExact(id) ? PyLong_AsLongLongAndOverflow(id, &overflow) : 0;
        PyObject *kept = flower_ids[number & 63].id;
        if (number <= 0 || flower_ids[number & 63].number != number) return id;
        Py_DECREF(id);
        return Py_NewRef(kept);
    }

    /* 0: written. -1: it is not plain, or there is no room. */
    static int flower_put(unsigned char **at, unsigned char *end, PyObject *value, int nested) {
        unsigned char *p = *at;
        if (end - p < 9) return -1;
        if (value == Py_None || value == Py_False || value == Py_True) {
            *p++ = value == Py_None ? 0xc0 : value == Py_False ? 0xc2 : 0xc3;
        } else if (PyLong_CheckExact(value)) {
            int overflow, width = 0;
            long long n = PyLong_AsLongLongAndOverflow(value, &overflow);
            if (overflow) return -1;
            if (-32 <= n && n < 128) {
                *p++ = (unsigned char)n;
            } else if (n >= 0) {
                while (width < 3 && n >> (8 << width)) width++;
                *p++ = (unsigned char)(0xcc + width);
            } else {
                while (width < 3 && n < -(1LL << ((8 << width) - 1))) width++;
                *p++ = (unsigned char)(0xd0 + width);
            }
            if (p[-1] >= 0xcc && p[-1] < 0xe0)
                for (int shift = (8 << width) - 8; shift >= 0; shift -= 8) *p++ = (unsigned char)(n >> shift);
        } else if (PyUnicode_CheckExact(value) && PyUnicode_IS_COMPACT_ASCII(value)) {
            Py_ssize_t size = PyUnicode_GET_LENGTH(value);
            if (flower_put_head(&p, end, size, 0xa0, 31, 0xd9, 0xda) < 0) return -1;
            memcpy(p, PyUnicode_1BYTE_DATA(value), (size_t)size);
            p += size;
        } else if (PyBytes_CheckExact(value)) {
            Py_ssize_t size = PyBytes_GET_SIZE(value);
            if (flower_put_head(&p, end, size, 0, -1, 0xc4, 0xc5) < 0) return -1;
            memcpy(p, PyBytes_AS_STRING(value), (size_t)size);
            p += size;
        } else if (PyFloat_CheckExact(value)) {
            *p++ = 0xcb;
            if (PyFloat_Pack8(PyFloat_AS_DOUBLE(value), (char *)p, 0) < 0) {
                PyErr_Clear();
                return -1;
            }
            p += 8;
        } else if (nested < FLOWER_NESTED && PyList_CheckExact(value)) {
            if (flower_put_head(&p, end, PyList_GET_SIZE(value), 0x90, 15, 0, 0xdc) < 0) return -1;
            for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); i++)
                if (flower_put(&p, end, PyList_GET_ITEM(value, i), nested + 1) < 0) return -1;
        } else if (nested < FLOWER_NESTED && PyDict_CheckExact(value)) {
            PyObject *key, *item;
            Py_ssize_t i = 0;
            if (flower_put_head(&p, end, PyDict_GET_SIZE(value), 0x80, 15, 0, 0xde) < 0) return -1;
            while (PyDict_Next(value, &i, &key, &item))
                if (flower_put(&p, end, key, nested + 1) < 0 || flower_put(&p, end, item, nested + 1) < 0) return -1;
        } else {
            return -1;
        }
        *at = p;
        return 0;
    }

    /* A request or a notification (2) of a method and its parameters, or an answer: an error and a result. */
    static PyObject *flower_pack_plain(int kind, PyObject *msgid, PyObject *first, PyObject *second) {
        unsigned char room[FLOWER_ROOM], *p = room, *end = room + FLOWER_ROOM;
        *p++ = kind == 2 ? 0x93 : 0x94;
        *p++ = (unsigned char)kind;
        if (kind != 2 && flower_put(&p, end, msgid, 0) < 0) Py_RETURN_NONE;
        if (kind == 0) flower_keep_id(msgid);
        if (flower_put(&p, end, first, 1) < 0) Py_RETURN_NONE;
        if (kind != 1 && PyTuple_CheckExact(second)) {
            if (flower_put_head(&p, end, PyTuple_GET_SIZE(second), 0x90, 15, 0, 0xdc) < 0) Py_RETURN_NONE;
            for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(second); i++)
                if (flower_put(&p, end, PyTuple_GET_ITEM(second, i), 2) < 0) Py_RETURN_NONE;
        } else if ((kind != 1 && !PyList_CheckExact(second)) || flower_put(&p, end, second, 1) < 0) {
            Py_RETURN_NONE;
        }
        return PyBytes_FromStringAndSize((char *)room, p - room);
    }

    /* What is to be read goes up to the end, and on in a tail, if there is one: the last value of a message may be long,
       and come in two pieces. What has been read has cost so much, and no more than ``most`` may be made. */
    typedef struct { const unsigned char *end, *tail; Py_ssize_t more, cost, most; } flower_source;

    static PyObject *flower_get(const unsigned char **at, flower_source *from, int nested);

    /* A method's name, as a rule: the same one as before, if it was there lately, with its hash. */
    static PyObject *flower_get_name(const unsigned char **at, flower_source *from) {
        static PyObject *lately[16];
        const unsigned char *p = *at;
        Py_ssize_t size = p < from->end && *p > 0xa0 && *p < 0xc0 ? *p & 31 : 0;
        PyObject *name, **place;
        if (size == 0 || from->end - p <= size) return flower_get(at, from, 1);
        place = &lately[(size + p[1] + p[size]) & 15];
        name = *place;
        if (name != NULL && PyUnicode_GET_LENGTH(name) == size && !memcmp(PyUnicode_1BYTE_DATA(name), p + 1, (size_t)size)) {
            from->cost += FLOWER_TEXT + 1 + size;
            *at = p + 1 + size;
            return Py_NewRef(name);
        }
        name = flower_get(at, from, 1);
        if (name != NULL && PyUnicode_IS_COMPACT_ASCII(name)) Py_XSETREF(*place, Py_NewRef(name));
        return name;
    }

    /* NULL without an error: it is not plain. */
    static PyObject *flower_get(const unsigned char **at, flower_source *from, int nested) {
        enum { NUMBER, TEXT, BINARY, ARRAY, MAP } kind = NUMBER;
        const unsigned char *p = *at, *end = from->end;
        int first, is_answer, width = 0, wide = 0;
        unsigned long long n = 0;
        PyObject *value;
        if (p >= end) return NULL;
        first = *p++;
        *at = p;
        if (first < 0x80) return PyLong_FromLong(first);
        if (first >= 0xe0) return PyLong_FromLong(first - 0x100);
        if (first == 0xc0) return Py_NewRef(Py_None);
        if (first == 0xc2 || first == 0xc3) return PyBool_FromLong(first & 1);
        if (first == 0xcb) {
            double d;
            if (end - p < 8) return NULL;
            from->cost += FLOWER_NUMBER;
            d = PyFloat_Unpack8((const char *)p, 0);
            if (d == -1.0 && PyErr_Occurred()) return NULL;
            *at = p + 8;
            return PyFloat_FromDouble(d);
        }
        if (first < 0x90) { kind = MAP; n = first & 15; }
        else if (first < 0xa0) { kind = ARRAY; n = first & 15; }
        else if (first >= 0xa0 && first < 0xc0) { kind = TEXT; n = first & 31; }
        else if (first >= 0xc4 && first < 0xc7) { kind = BINARY; width = 1 << (first - 0xc4); }
        else if (first >= 0xcc && first < 0xd0) { wide = width = 1 << (first - 0xcc); }
        else if (first >= 0xd0 && first < 0xd4) { wide = width = 1 << (first - 0xd0); }
        else if (first >= 0xd9 && first < 0xdc) { kind = TEXT; width = 1 << (first - 0xd9); }
        else if (first >= 0xdc && first < 0xe0) { kind = first < 0xde ? ARRAY : MAP; width = 2 << ((first - 0xdc) & 1); }
        else return NULL;
        if (end - p < width) return NULL;
        for (int i = 0; i < width; i++) n = n << 8 | *p++;
        from->cost += kind == NUMBER ? FLOWER_NUMBER
                    : kind == ARRAY ? FLOWER_ARRAY + FLOWER_SLOT * (Py_ssize_t)n
                    : kind == MAP ? FLOWER_MAP + FLOWER_PAIR * (Py_ssize_t)n
                    : FLOWER_TEXT + (p - *at) + 1 + (Py_ssize_t)n;
        if (from->cost > from->most) return NULL;
        *at = p;
        if (kind == NUMBER) {
            if (first < 0xd0) return PyLong_FromUnsignedLongLong(n);
            if (wide == 1) return PyLong_FromLong((signed char)n);
            if (wide == 2) return PyLong_FromLong((short)n);
            return PyLong_FromLongLong(wide == 4 ? (long long)(int)n : (long long)n);
        }
        if (kind == BINARY && from->more && n == (unsigned long long)(end - p + from->more)) {
            value = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
            if (value == NULL) return NULL;
            memcpy(PyBytes_AS_STRING(value), p, (size_t)(end - p));
            memcpy(PyBytes_AS_STRING(value) + (end - p), from->tail, (size_t)from->more);
            from->more = 0;
            *at = end;
            return value;
        }
        if (n > (unsigned long long)(end - p)) return NULL;  /* of an array: each value has a byte at least */
        if (kind < ARRAY) {
            *at = p + n;
            return kind == TEXT ? PyUnicode_DecodeUTF8((const char *)p, (Py_ssize_t)n, "surrogateescape")
                                : PyBytes_FromStringAndSize((const char *)p, (Py_ssize_t)n);
        }
        if (nested >= FLOWER_NESTED) return NULL;
        if (kind == MAP) {
            value = PyDict_New();
            for (; value != NULL && n > 0; n--) {
                PyObject *key = flower_get(at, from, nested + 1);
                int fits = key != NULL && !PyList_CheckExact(key) && !PyDict_CheckExact(key);
                PyObject *item = fits ? flower_get(at, from, nested + 1) : NULL;
                if (item == NULL || PyDict_SetItem(value, key, item) < 0) Py_CLEAR(value);
                Py_XDECREF(key);
                Py_XDECREF(item);
            }
            return value;
        }
        is_answer = nested == 0 && p < end && *p == 1;
        value = PyList_New((Py_ssize_t)n + (nested ? 0 : FLOWER_MORE));
        if (value != NULL) Py_SET_SIZE(value, (Py_ssize_t)n);
        for (Py_ssize_t i = 0; value != NULL && i < (Py_ssize_t)n; i++) {
            PyObject *item = nested == 0 && i == (Py_ssize_t)n - 2 ? flower_get_name(at, from)
                                                                   : flower_get(at, from, nested + 1);
            if (item == NULL) Py_CLEAR(value);
            else PyList_SET_ITEM(value, i, i == 1 && is_answer ? flower_kept_id(item) : item);
        }
        return value;
    }

    static PyObject *flower_unpack_plain(PyObject *data, Py_ssize_t start, Py_ssize_t end, PyObject *tail) {
        const char *bytes = PyBytes_Check(data) ? PyBytes_AS_STRING(data) : PyByteArray_AS_STRING(data);
        const unsigned char *p = (const unsigned char *)bytes + start;
        flower_source from = {(const unsigned char *)bytes + end, NULL, 0, 0, PY_SSIZE_T_MAX};
        PyObject *message;
        if (tail != Py_None) {
            from.more = end - Py_SIZE(data);
            from.end -= from.more;
            from.tail = (const unsigned char *)PyBytes_AS_STRING(tail);
        }
        message = flower_get(&p, &from, 0);
        if (message != NULL && p == from.end && !from.more) return message;
        if (message == NULL && PyErr_Occurred()) return NULL;
        Py_XDECREF(message);
        Py_RETURN_NONE;
    }

    /* The message that begins at the start, if it ends before the end and costs no more than *cost: its length and what
       it costs. Nobody has looked at it before. */
    static PyObject *flower_unpack_first(PyObject *data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t *length,
                                         Py_ssize_t *cost) {
        const char *bytes = PyBytes_Check(data) ? PyBytes_AS_STRING(data) : PyByteArray_AS_STRING(data);
        const unsigned char *begin = (const unsigned char *)bytes + start, *p = begin;
        flower_source from = {(const unsigned char *)bytes + end, NULL, 0, 0, *cost};
        PyObject *message = flower_get(&p, &from, 0);
        if (message == NULL && !PyErr_Occurred()) Py_RETURN_NONE;
        *length = p - begin;
        *cost = from.cost;
        return message;
    }
    """
    object pack_plain "flower_pack_plain"(int kind, object msgid, object first, object second)
    object unpack_first "flower_unpack_first"(
        object data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t *length, Py_ssize_t *cost
    )
    object unpack_plain "flower_unpack_plain"(object data, Py_ssize_t start, Py_ssize_t end, object tail)
