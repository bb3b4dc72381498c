/* Keys and values from bytes: codec.h has the format. */
#include "codec.h"

#include <stdlib.h>

static PyObject *text_of(terrace_slice slice)
{
	PyObject *text = PyUnicode_DecodeUTF8(slice.data, (Py_ssize_t)slice.size, "surrogatepass");

	if (!text && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
		PyErr_Clear();
	return text;
}

static PyObject *number_of(terrace_slice slice, int base)
{
	char small[64], *text = small, *end;
	PyObject *number;

	if (slice.size >= sizeof small)
		text = malloc(slice.size + 1);
	if (!text)
		return PyErr_NoMemory();
	memcpy(text, slice.data, slice.size);
	text[slice.size] = '\0';
	number = PyLong_FromString(text, &end, base);
	if (number && end != text + slice.size)
		Py_CLEAR(number);
	if (text != small)
		free(text);
	if (!number && PyErr_ExceptionMatches(PyExc_ValueError))
		PyErr_Clear();
	return number;
}

static PyObject *int_of(terrace_slice slice)
{
	const char *at = slice.data, *end = at + slice.size;
	bool negative = slice.size > 0 && *at == '-';
	long long number = 0;

	at += negative;
	if (at == end || end - at > 18)
		return number_of(slice, 10);
	for (; at < end; at++) {
		if (*at < '0' || *at > '9')
			return NULL;
		number = 10 * number + (*at - '0');
	}
	return PyLong_FromLongLong(negative ? -number : number);
}

static PyObject *float_of(terrace_slice slice)
{
	const unsigned char *at = slice.data;
	uint64_t bits = 0;
	double number;

	if (slice.size != 8)
		return NULL;
	for (int i = 0; i < 8; i++)
		bits = bits << 8 | at[i];
	memcpy(&number, &bits, sizeof number);
	return PyFloat_FromDouble(number);
}

/* A function of Python on text or bytes; what it cannot read is as if it were not there. */
static PyObject *decoded_by(PyObject *function, PyObject *encoded)
{
	PyObject *result;

	if (!encoded)
		return NULL;
	result = PyObject_CallFunctionObjArgs(function, encoded, NULL);
	Py_DECREF(encoded);
	if (!result && !PyErr_ExceptionMatches(PyExc_MemoryError) &&
	    PyErr_ExceptionMatches(PyExc_Exception))
		PyErr_Clear();
	return result;
}

static PyObject *decode(terrace_slice value, int pickle, int depth);

static PyObject *tuple_of(terrace_slice slice, int pickle, int depth)
{
	const unsigned char *at = slice.data, *end = at + slice.size;
	PyObject *list = PyList_New(0), *tuple;

	while (list && at < end) {
		size_t size = 0;
		PyObject *item = NULL;

		for (int i = 0; i < 4 && end - at >= 4; i++)
			size = size << 8 | at[i];
		if (end - at >= 4 && (size_t)(end - at - 4) >= size)
			item = decode(terrace_bytes(at + 4, size), pickle, depth - 1);
		if (!item || PyList_Append(list, item) < 0)
			Py_CLEAR(list);
		Py_XDECREF(item);
		at += 4 + size;
	}
	if (!list)
		return NULL;
	tuple = PyList_AsTuple(list);
	Py_DECREF(list);
	return tuple;
}

static PyObject *new_reference(PyObject *object)
{
	Py_INCREF(object);
	return object;
}

static PyObject *decode(terrace_slice value, int pickle, int depth)
{
	terrace_slice rest;
	char kind;

	if (value.size == 0 || depth < 0)
		return NULL;
	kind = *(const char *)value.data;
	rest = terrace_bytes((const char *)value.data + 1, value.size - 1);
	switch (kind) {
	case VALUE_BYTES:
		return PyBytes_FromStringAndSize(rest.data, (Py_ssize_t)rest.size);
	case VALUE_STR:
		return text_of(rest);
	case VALUE_FLOAT:
		return float_of(rest);
	case VALUE_BIG:
		return number_of(rest, 16);
	case VALUE_TRUE:
		return new_reference(Py_True);
	case VALUE_FALSE:
		return new_reference(Py_False);
	case VALUE_NONE:
		return new_reference(Py_None);
	case VALUE_TUPLE:
		return tuple_of(rest, pickle, depth);
	case VALUE_JSON:
		return decoded_by(json_decode, text_of(rest));
	case VALUE_PICKLE:
		return pickle < 0 ?
		           NULL :
		           decoded_by(pickle_loads,
		                      PyBytes_FromStringAndSize(rest.data, (Py_ssize_t)rest.size));
	}
	return int_of(value);
}

PyObject *value_decode(terrace_slice value, int pickle)
{
	return decode(value, pickle, NESTED_MAX);
}

bool value_payload(terrace_slice value, terrace_slice *ret)
{
	const char *data = value.data;

	if (value.size == 0 || (*data != VALUE_BYTES && *data != VALUE_STR))
		return false;
	*ret = terrace_bytes(data + 1, value.size - 1);
	return true;
}

PyObject *key_decode(terrace_slice key, int pickle)
{
	const unsigned char *data = key.data;
	terrace_slice rest = terrace_bytes(data + 1, key.size - 1);

	if (data[0] >= KEY_PLAIN)
		return text_of(key);
	switch (data[0]) {
	case KEY_STR:
		return text_of(rest);
	case KEY_INT:
		return int_of(rest);
	case KEY_BYTES:
		return PyBytes_FromStringAndSize(rest.data, (Py_ssize_t)rest.size);
	case KEY_FLOAT:
		return float_of(rest);
	case KEY_OTHER:
		return value_decode(rest, pickle);
	}
	return NULL;
}
