/* What a put carries besides its value, from what a program gives. */
#include "common.h"

#include <math.h>

int ttl_from(PyObject *expire, int64_t *ret_ms)
{
	double seconds;

	*ret_ms = 0;
	if (!expire || expire == Py_None)
		return 0;
	seconds = PyFloat_AsDouble(expire);
	if (seconds == -1 && PyErr_Occurred())
		return -1;
	if (isnan(seconds)) {
		PyErr_SetString(PyExc_ValueError, "expire is not a number of seconds");
		return -1;
	}
	if (seconds <= 0)
		*ret_ms = TERRACE_TTL_NONE;
	else if (seconds >= 1e15)
		*ret_ms = TERRACE_TTL_FOREVER;
	else
		*ret_ms = (int64_t)ceil(seconds * 1000);
	return 0;
}

static int take_tags(struct put_more *more, PyObject *tag)
{
	Py_ssize_t count;

	more->tags = tags_from(tag);
	if (!more->tags)
		return -1;
	count = PyTuple_Size(more->tags);
	if (count > TAGS_AT_ONCE) {
		PyErr_Format(PyExc_ValueError, "an entry takes at most %d tags, not %zd",
		             TAGS_AT_ONCE, count);
		return -1;
	}
	for (Py_ssize_t i = 0; i < count; i++) {
		char *text;

		/* Refuses a text with a zero byte in it. */
		if (PyBytes_AsStringAndSize(PyTuple_GetItem(more->tags, i), &text, NULL) < 0)
			return -1;
		more->texts[i] = text;
	}
	more->options.tags = more->texts;
	more->options.tag_count = (size_t)count;
	return 0;
}

int put_more_from(struct put_more *more, PyObject *expire, PyObject *tag, PyObject *sources)
{
	terrace_put_options none = TERRACE_PUT_INIT;

	more->options = none;
	more->tags = more->sources = NULL;
	if (ttl_from(expire, &more->options.ttl_ms) < 0)
		return -1;
	if (tag && tag != Py_None && take_tags(more, tag) < 0)
		return -1;
	if (!sources || sources == Py_None)
		return 0;
	/* Paths are made a set here, as Sources(paths) does. */
	if (PyObject_TypeCheck(sources, sources_type)) {
		Py_INCREF(sources);
		more->sources = sources;
	} else {
		more->sources = PyObject_CallFunctionObjArgs((PyObject *)sources_type, sources,
		                                             NULL);
	}
	return more->sources ? 0 : -1;
}

void put_more_done(struct put_more *more)
{
	Py_XDECREF(more->tags);
	Py_XDECREF(more->sources);
}
