/*
 * The buffer protocol for extensions on the stable ABI of Python 3.9.
 *
 * Python declares Py_buffer and the two type slots in its limited API from 3.11
 * on. The struct has had this layout since 3.3 and 3.11 froze it; PyType_FromSpec
 * takes the slots since 3.9. So what 3.11 declares is declared here for the two
 * versions before it, with its layout and numbers.
 */
#ifndef PYTHON_BUFFER_H
#define PYTHON_BUFFER_H

#include <Python.h>

#if Py_LIMITED_API + 0 < 0x030b0000

typedef struct {
	void *buf;
	PyObject *obj;
	Py_ssize_t len;
	Py_ssize_t itemsize;
	int readonly;
	int ndim;
	char *format;
	Py_ssize_t *shape;
	Py_ssize_t *strides;
	Py_ssize_t *suboffsets;
	void *internal;
} Py_buffer;

/* Py_LIMITED_API hides these from the headers, and not from the library. */
int PyBuffer_FillInfo(Py_buffer *view, PyObject *exporter, void *data, Py_ssize_t size,
                      int readonly, int flags);

#undef Py_bf_getbuffer
#define Py_bf_getbuffer 1

#endif
#endif
