/* What a put carries besides its value, from what a program gives. */
#include "common.h"

#include <math.h>

/* Seconds as a number: 0; -1 with an exception. */
static int seconds_from(PyObject *object, const char *what, double *ret)
{
	*ret = PyFloat_AsDouble(object);
	if (*ret == -1 && PyErr_Occurred())
		return -1;
	if (!isnan(*ret))
		return 0;
	PyErr_Format(PyExc_ValueError, "%s is not a number of seconds", what);
	return -1;
}

static int64_t ms_from(double seconds)
{
	return seconds >= 1e15 ? TERRACE_TTL_FOREVER : (int64_t)ceil(seconds * 1000);
}

int ttl_from(PyObject *expire, int64_t *ret_ms)
{
	double seconds;

	*ret_ms = 0;
	if (!expire || expire == Py_None)
		return 0;
	if (seconds_from(expire, "expire", &seconds) < 0)
		return -1;
	*ret_ms = seconds <= 0 ? TERRACE_TTL_NONE : ms_from(seconds);
	return 0;
}

static int idle_from(PyObject *idle, int64_t *ret_ms)
{
	double seconds;

	*ret_ms = 0;
	if (!idle || idle == Py_None)
		return 0;
	if (seconds_from(idle, "idle", &seconds) < 0)
		return -1;
	if (seconds <= 0) {
		PyErr_SetString(PyExc_ValueError,
		                "idle is over 0 seconds; math.inf: however long nobody gets it");
		return -1;
	}
	*ret_ms = ms_from(seconds);
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

static bool is_given(PyObject *object)
{
	return object && object != Py_None;
}

int put_more_from(struct put_more *more, const struct put_asked *asked)
{
	terrace_put_options none = TERRACE_PUT_INIT;

	more->options = none;
	more->tags = more->sources = NULL;
	if (ttl_from(asked->expire, &more->options.ttl_ms) < 0 ||
	    idle_from(asked->idle, &more->options.idle_ms) < 0)
		return -1;
	if (is_given(asked->tag) && take_tags(more, asked->tag) < 0)
		return -1;
	if (!is_given(asked->sources))
		return 0;
	/* Paths are made a set here, as Sources(paths) does. */
	if (PyObject_TypeCheck(asked->sources, sources_type)) {
		Py_INCREF(asked->sources);
		more->sources = asked->sources;
	} else {
		more->sources = PyObject_CallFunctionObjArgs((PyObject *)sources_type,
		                                             asked->sources, NULL);
	}
	return more->sources ? 0 : -1;
}

void put_more_done(struct put_more *more)
{
	Py_XDECREF(more->tags);
	Py_XDECREF(more->sources);
}
