/* Keys and values to bytes: codec.h has the format. */
#include "codec.h"

#include <math.h>
#include <stdlib.h>

/* From the Python side, by codec_configure(). */
PyObject *json_decode, *pickle_loads;
static PyObject *json_encode, *json_encode_sorted, *pickle_dumps;
static PyObject *tags_encode, *tags_decode;

PyObject *codec_configure(PyObject *module, PyObject *args)
{
	PyObject **const places[] = { &json_encode,  &json_encode_sorted, &json_decode,
		                      &pickle_dumps, &pickle_loads,       &tags_encode,
		                      &tags_decode };

	(void)module;
	if (PyTuple_Size(args) != (Py_ssize_t)(sizeof places / sizeof *places))
		return PyErr_Format(PyExc_TypeError, "_configure() takes seven functions");
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		Py_XDECREF(*places[i]);
		*places[i] = PyTuple_GetItem(args, (Py_ssize_t)i);
		Py_INCREF(*places[i]);
	}
	Py_RETURN_NONE;
}

PyObject *tags_from(PyObject *tag)
{
	return PyObject_CallFunctionObjArgs(tags_encode, tag, NULL);
}

PyObject *tags_to(const char *const *tags, size_t count)
{
	PyObject *texts = PyTuple_New((Py_ssize_t)count), *result;

	for (size_t i = 0; i < count && texts; i++) {
		PyObject *text = PyBytes_FromString(tags[i]);

		if (!text || PyTuple_SetItem(texts, (Py_ssize_t)i, text) < 0)
			Py_CLEAR(texts);
	}
	if (!texts)
		return NULL;
	result = PyObject_CallFunctionObjArgs(tags_decode, texts, NULL);
	Py_DECREF(texts);
	return result;
}

/* --- bytes ---------------------------------------------------------------------------- */

void bytes_init(struct bytes *bytes)
{
	bytes->data = bytes->small;
	bytes->size = 0;
	bytes->capacity = sizeof bytes->small;
}

void bytes_done(struct bytes *bytes)
{
	if (bytes->data != bytes->small)
		free(bytes->data);
}

static int grow(struct bytes *bytes, size_t more)
{
	size_t capacity = bytes->capacity;
	char *grown;

	while (capacity - bytes->size < more)
		capacity = capacity < more ? capacity + more : 2 * capacity;
	grown = malloc(capacity);
	if (!grown) {
		PyErr_NoMemory();
		return -1;
	}
	memcpy(grown, bytes->data, bytes->size);
	bytes_done(bytes);
	bytes->data = grown;
	bytes->capacity = capacity;
	return 0;
}

static int append(struct bytes *bytes, const void *data, size_t size)
{
	if (bytes->capacity - bytes->size < size && grow(bytes, size) < 0)
		return -1;
	memcpy(bytes->data + bytes->size, data, size);
	bytes->size += size;
	return 0;
}

static int append_byte(struct bytes *bytes, int byte)
{
	char one = (char)byte;

	return append(bytes, &one, 1);
}

/* An object of type bytes; its reference is taken. */
static int append_object(struct bytes *bytes, PyObject *object)
{
	char *data;
	Py_ssize_t size;
	int rc = -1;

	if (object && PyBytes_AsStringAndSize(object, &data, &size) == 0)
		rc = append(bytes, data, (size_t)size);
	Py_XDECREF(object);
	return rc;
}

/* --- what a value can be ----------------------------------------------------------------- */

static PyObject *utf8(PyObject *text)
{
	PyObject *encoded = PyUnicode_AsUTF8String(text);

	/* Half of a surrogate pair, as file names may have. */
	if (!encoded && PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
		PyErr_Clear();
		encoded = PyUnicode_AsEncodedString(text, "utf-8", "surrogatepass");
	}
	return encoded;
}

static bool is_exact(PyObject *object, PyTypeObject *type)
{
	return Py_TYPE(object) == type;
}

/* Would JSON give back just what it was given? */
static bool json_keeps(PyObject *value, int depth)
{
	PyObject *key, *item;
	Py_ssize_t at = 0;

	if (value == Py_None || is_exact(value, &PyBool_Type) || is_exact(value, &PyUnicode_Type) ||
	    is_exact(value, &PyLong_Type) || is_exact(value, &PyFloat_Type))
		return true;
	if (depth == 0)
		return false;
	if (is_exact(value, &PyList_Type)) {
		/* Asked anew each time: other threads may change it. */
		for (; at < PyList_Size(value); at++) {
			item = PyList_GetItem(value, at);
			if (!item || !json_keeps(item, depth - 1)) {
				PyErr_Clear();
				return false;
			}
		}
		return true;
	}
	if (!is_exact(value, &PyDict_Type))
		return false;
	while (PyDict_Next(value, &at, &key, &item)) {
		if (!is_exact(key, &PyUnicode_Type) || !json_keeps(item, depth - 1))
			return false;
	}
	return true;
}

static int append_json(struct bytes *bytes, PyObject *value, bool sorted)
{
	PyObject *text = PyObject_CallFunctionObjArgs(sorted ? json_encode_sorted : json_encode,
	                                              value, NULL);
	int rc = -1;

	if (text && append_byte(bytes, VALUE_JSON) == 0)
		rc = append_object(bytes, utf8(text));
	Py_XDECREF(text);
	return rc;
}

static int append_pickle(struct bytes *bytes, PyObject *value, int protocol)
{
	PyObject *number = PyLong_FromLong(protocol), *data = NULL;

	if (number)
		data = PyObject_CallFunctionObjArgs(pickle_dumps, value, number, NULL);
	Py_XDECREF(number);
	if (!data)
		return -1;
	if (append_byte(bytes, VALUE_PICKLE) < 0) {
		Py_DECREF(data);
		return -1;
	}
	return append_object(bytes, data);
}

static int refuse(PyObject *value, bool key)
{
	PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(value), "__qualname__");

	PyErr_Format(PyExc_TypeError,
	             "a %s of type %S cannot be stored as it is: what can is bytes, str, int, "
	             "float, bool, None, tuples of these, and lists and dicts (with str keys) that "
	             "JSON gives back unchanged, so without tuples or bytes in them; "
	             "open the cache with pickle=True for anything else",
	             key ? "key" : "value", name ? name : Py_None);
	Py_XDECREF(name);
	return -1;
}

static int append_big_endian(struct bytes *bytes, double number)
{
	char packed[8];
	uint64_t bits;

	memcpy(&bits, &number, sizeof bits);
	for (int i = 7; i >= 0; i--, bits >>= 8)
		packed[i] = (char)(bits & 0xff);
	return append(bytes, packed, sizeof packed);
}

static int append_int(struct bytes *bytes, PyObject *value)
{
	int overflow;
	long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
	PyObject *text;
	char digits[24];
	int rc = -1;

	if (!overflow)
		return append(bytes, digits,
		              (size_t)snprintf(digits, sizeof digits, "%lld", number));
	text = PyNumber_ToBase(value, 16);
	if (text && append_byte(bytes, VALUE_BIG) == 0)
		rc = append_object(bytes, PyUnicode_AsUTF8String(text));
	Py_XDECREF(text);
	return rc;
}

static int append_value(struct bytes *bytes, PyObject *value, int pickle, bool key, int depth);

/* Of each part its size, four bytes with the highest first, and itself. */
static int append_tuple(struct bytes *bytes, PyObject *tuple, int pickle, bool key, int depth)
{
	Py_ssize_t count = PyTuple_Size(tuple);

	if (append_byte(bytes, VALUE_TUPLE) < 0)
		return -1;
	for (Py_ssize_t i = 0; i < count; i++) {
		size_t at = bytes->size, size;

		if (append(bytes, "\0\0\0", 4) < 0 ||
		    append_value(bytes, PyTuple_GetItem(tuple, i), pickle, key, depth - 1) < 0)
			return -1;
		size = bytes->size - at - 4;
		if (size > UINT32_MAX) {
			PyErr_SetString(PyExc_ValueError, "a part of a tuple is over 4 GiB");
			return -1;
		}
		for (int k = 3; k >= 0; k--, size >>= 8)
			bytes->data[at + (size_t)k] = (char)(size & 0xff);
	}
	return 0;
}

static int append_value(struct bytes *bytes, PyObject *value, int pickle, bool key, int depth)
{
	if (is_exact(value, &PyBytes_Type)) {
		Py_INCREF(value);
		return append_byte(bytes, VALUE_BYTES) < 0 ? -1 : append_object(bytes, value);
	}
	if (is_exact(value, &PyUnicode_Type))
		return append_byte(bytes, VALUE_STR) < 0 ? -1 : append_object(bytes, utf8(value));
	if (value == Py_None)
		return append_byte(bytes, VALUE_NONE);
	if (is_exact(value, &PyBool_Type))
		return append_byte(bytes, value == Py_True ? VALUE_TRUE : VALUE_FALSE);
	if (is_exact(value, &PyLong_Type))
		return append_int(bytes, value);
	if (is_exact(value, &PyFloat_Type))
		return append_byte(bytes, VALUE_FLOAT) < 0 ?
		           -1 :
		           append_big_endian(bytes, PyFloat_AsDouble(value));
	if (is_exact(value, &PyTuple_Type) && depth > 0) {
		size_t at = bytes->size;

		if (append_tuple(bytes, value, pickle, key, depth) == 0)
			return 0;
		/* Something in it cannot be stored, but all of it can be pickled. */
		if (pickle < 0 || !PyErr_ExceptionMatches(PyExc_TypeError))
			return -1;
		PyErr_Clear();
		bytes->size = at;
	}
	if ((is_exact(value, &PyList_Type) || is_exact(value, &PyDict_Type)) &&
	    json_keeps(value, NESTED_MAX))
		return append_json(bytes, value, key);
	return pickle < 0 ? refuse(value, key) : append_pickle(bytes, value, pickle);
}

int value_encode(PyObject *value, int pickle, struct bytes *bytes)
{
	bytes_init(bytes);
	if (append_value(bytes, value, pickle, false, NESTED_MAX) == 0)
		return 0;
	bytes_done(bytes);
	return -1;
}

/* --- keys ------------------------------------------------------------------------------------ */

static int append_text_key(struct bytes *bytes, PyObject *key)
{
	PyObject *encoded = utf8(key);
	char *data;
	Py_ssize_t size;

	if (!encoded || PyBytes_AsStringAndSize(encoded, &data, &size) < 0)
		return -1;
	if ((size == 0 || (unsigned char)data[0] < KEY_PLAIN) && append_byte(bytes, KEY_STR) < 0) {
		Py_DECREF(encoded);
		return -1;
	}
	return append_object(bytes, encoded);
}

/* 1 and 1.0 are one key, as they are in a dict. */
static int append_float_key(struct bytes *bytes, PyObject *key)
{
	double number = PyFloat_AsDouble(key);
	PyObject *whole;
	int rc;

	if (!(number >= -0x1p63 && number < 0x1p63) || floor(number) != number)
		return append_byte(bytes, KEY_FLOAT) < 0 ? -1 : append_big_endian(bytes, number);
	whole = PyLong_FromDouble(number);
	rc = whole && append_byte(bytes, KEY_INT) == 0 ? append_int(bytes, whole) : -1;
	Py_XDECREF(whole);
	return rc;
}

static bool fits_64_bits(PyObject *number)
{
	int overflow;

	PyLong_AsLongLongAndOverflow(number, &overflow);
	return overflow == 0;
}

static int append_key(struct bytes *bytes, PyObject *key, int pickle)
{
	if (is_exact(key, &PyUnicode_Type))
		return append_text_key(bytes, key);
	if (is_exact(key, &PyLong_Type) && fits_64_bits(key))
		return append_byte(bytes, KEY_INT) < 0 ? -1 : append_int(bytes, key);
	if (is_exact(key, &PyBytes_Type)) {
		Py_INCREF(key);
		return append_byte(bytes, KEY_BYTES) < 0 ? -1 : append_object(bytes, key);
	}
	if (is_exact(key, &PyFloat_Type))
		return append_float_key(bytes, key);
	return append_byte(bytes, KEY_OTHER) < 0 ?
	           -1 :
	           append_value(bytes, key, pickle, true, NESTED_MAX);
}

int key_encode(PyObject *key, int pickle, struct bytes *bytes)
{
	bytes_init(bytes);
	if (append_key(bytes, key, pickle) == 0) {
		if (bytes->size <= TERRACE_KEY_MAX)
			return 0;
		PyErr_Format(PyExc_ValueError,
		             "a key takes at most %u bytes, and this one %zu; use a hash of it",
		             TERRACE_KEY_MAX, bytes->size);
	}
	bytes_done(bytes);
	return -1;
}
