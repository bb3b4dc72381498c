/* Values that are written and read piece by piece; terrace.Cache makes files of them. */
#include "common.h"

PyTypeObject *writer_type, *reader_type;

/* --- writing ------------------------------------------------------------------------ */

struct writer_object {
	PyObject_HEAD struct core *core;
	terrace_writer *writer;
	bool ended;
};

/* A writer, to which nothing is written yet. */
PyObject *writer_open(struct cache_object *cache, PyObject *args)
{
	struct put_asked asked;
	PyObject *key;
	struct core *core = NULL;
	struct writer_object *self = NULL;
	terrace_writer *writer = NULL;
	struct put_more more;
	struct bytes encoded;
	int rc = TERRACE_OK;

	if (!PyArg_ParseTuple(args, "OOOOO:_writer", &key, &asked.expire, &asked.tag,
	                      &asked.sources, &asked.idle) ||
	    key_encode(key, cache->pickle, &encoded) < 0)
		return NULL;
	if (put_more_from(&more, &asked) == 0)
		core = cache_acquire(cache);
	if (core) {
		UNLOCKED(rc = terrace_writer_open(core->cache, bytes_slice(&encoded),
		                                  put_more_hold(&more), &writer);
		         put_more_let_go(&more));
		if (rc == TERRACE_OK)
			self = PyObject_New(struct writer_object, writer_type);
		else
			raise_status(rc);
	}
	put_more_done(&more);
	bytes_done(&encoded);
	if (self) {
		self->core = core;
		self->writer = writer;
		self->ended = false;
		return (PyObject *)self;
	}
	if (core) {
		UNLOCKED(terrace_writer_drop(writer));
		core_release(core);
	}
	return NULL;
}

static void writer_dealloc(PyObject *object)
{
	struct writer_object *self = (struct writer_object *)object;

	if (!self->ended)
		UNLOCKED(terrace_writer_drop(self->writer));
	core_release(self->core);
	object_free(object);
}

/* The status; whether it is to be an exception is for commit to say. */
static PyObject *writer_write(PyObject *object, PyObject *bytes)
{
	struct writer_object *self = (struct writer_object *)object;
	terrace_slice slice;
	char *data;
	Py_ssize_t size;
	int rc;

	if (!PyBytes_Check(bytes)) {
		PyErr_SetString(PyExc_TypeError,
		                "read=True takes a file that is open for reading bytes");
		return NULL;
	}
	if (PyBytes_AsStringAndSize(bytes, &data, &size) < 0)
		return NULL;
	slice = terrace_bytes(data, (size_t)size);
	UNLOCKED(rc = terrace_writer_write(self->writer, slice));
	return PyBool_FromLong(rc == TERRACE_OK);
}

/* Was it stored? */
static PyObject *writer_commit(PyObject *object, PyObject *none)
{
	struct writer_object *self = (struct writer_object *)object;
	int rc;

	(void)none;
	if (self->ended) {
		PyErr_SetString(PyExc_ValueError, "this writer has ended");
		return NULL;
	}
	self->ended = true;
	UNLOCKED(rc = terrace_writer_commit(self->writer));
	if (rc < 0 && !is_not_kept(rc))
		return raise_status(rc);
	return PyBool_FromLong(rc == TERRACE_OK);
}

static PyMethodDef writer_methods[] = {
	{ "write", writer_write, METH_O, NULL },
	{ "commit", writer_commit, METH_NOARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot writer_slots[] = {
	{ Py_tp_dealloc, writer_dealloc },
	{ Py_tp_methods, writer_methods },
	{ 0, NULL },
};

static PyType_Spec writer_spec = { "terrace._terrace.Writer", sizeof(struct writer_object), 0,
	                           Py_TPFLAGS_DEFAULT, writer_slots };

/* --- reading ------------------------------------------------------------------------- */

struct reader_object {
	PyObject_HEAD struct core *core;
	pthread_mutex_t lock; /* over the reader, while the GIL is given up */
	terrace_reader *reader;
	PyObject *expire_time, *tags;
};

/* expire_time and tags, as they are with the value. */
static int take_facts(struct reader_object *self)
{
	terrace_info info = TERRACE_INFO_INIT;
	int rc;

	UNLOCKED(rc = terrace_inspect_reader(self->reader, &info)); /* looks at sources */
	if (rc != TERRACE_OK) {
		raise_status(rc);
		return -1;
	}
	self->expire_time = expire_time_of(&info);
	self->tags = info.tag_count ? tags_to(info.tags, info.tag_count) : Py_BuildValue("");
	terrace_info_free(&info);
	return self->expire_time && self->tags ? 0 : -1;
}

/* A reader; None for a miss. */
PyObject *reader_open(struct cache_object *cache, PyObject *key)
{
	struct reader_object *self;
	terrace_reader *reader;
	struct bytes encoded;
	struct core *core;
	int rc;

	if (key_encode(key, cache->pickle, &encoded) < 0)
		return NULL;
	core = cache_acquire(cache);
	if (!core) {
		bytes_done(&encoded);
		return NULL;
	}
	UNLOCKED(rc = terrace_reader_open(core->cache, bytes_slice(&encoded), &reader));
	bytes_done(&encoded);
	if (rc < 0)
		raise_status(rc);
	self = rc == TERRACE_OK ? PyObject_New(struct reader_object, reader_type) : NULL;
	if (!self) {
		if (rc == TERRACE_OK)
			terrace_reader_close(reader);
		core_release(core);
		if (rc != TERRACE_MISS)
			return NULL;
		Py_RETURN_NONE;
	}
	self->core = core;
	self->reader = reader;
	self->expire_time = self->tags = NULL;
	pthread_mutex_init(&self->lock, NULL);
	if (take_facts(self) < 0)
		Py_CLEAR(self);
	return (PyObject *)self;
}

static void reader_dealloc(PyObject *object)
{
	struct reader_object *self = (struct reader_object *)object;

	UNLOCKED(terrace_reader_close(self->reader));
	core_release(self->core);
	pthread_mutex_destroy(&self->lock);
	Py_XDECREF(self->expire_time);
	Py_XDECREF(self->tags);
	object_free(object);
}

/* read(offset, size): fewer bytes at the end alone. */
static PyObject *reader_read(PyObject *object, PyObject *args)
{
	struct reader_object *self = (struct reader_object *)object;
	unsigned long long offset;
	uint64_t left, whole;
	Py_ssize_t size;
	PyObject *bytes;
	char *data;
	size_t got;
	int rc;

	if (!PyArg_ParseTuple(args, "Kn:read", &offset, &size))
		return NULL;
	whole = terrace_reader_size(self->reader);
	left = offset < whole ? whole - offset : 0;
	if (size < 0 || (uint64_t)size > left)
		size = (Py_ssize_t)left;
	bytes = PyBytes_FromStringAndSize(NULL, size);
	if (!bytes)
		return NULL;
	data = PyBytes_AsString(bytes);
	UNLOCKED(pthread_mutex_lock(&self->lock);
	         rc = terrace_reader_read(self->reader, offset, data, (size_t)size, &got);
	         pthread_mutex_unlock(&self->lock));
	if (rc == TERRACE_OK)
		return bytes;
	Py_DECREF(bytes);
	return raise_status(rc);
}

static PyObject *reader_size(PyObject *object, void *closure)
{
	(void)closure;
	return PyLong_FromUnsignedLongLong(
	    terrace_reader_size(((struct reader_object *)object)->reader));
}

static PyObject *get_object(PyObject *object, void *closure)
{
	struct reader_object *self = (struct reader_object *)object;
	PyObject *what = closure ? self->tags : self->expire_time;

	Py_INCREF(what);
	return what;
}

static PyMethodDef reader_methods[] = {
	{ "read", reader_read, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef reader_getset[] = {
	{ "size", reader_size, NULL, NULL, NULL },
	{ "expire_time", get_object, NULL, NULL, NULL },
	{ "tags", get_object, NULL, NULL, (void *)1 },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot reader_slots[] = {
	{ Py_tp_dealloc, reader_dealloc },
	{ Py_tp_methods, reader_methods },
	{ Py_tp_getset, reader_getset },
	{ 0, NULL },
};

static PyType_Spec reader_spec = { "terrace._terrace.Reader", sizeof(struct reader_object), 0,
	                           Py_TPFLAGS_DEFAULT, reader_slots };

int stream_setup(PyObject *module)
{
	writer_type = type_add(module, &writer_spec);
	reader_type = type_add(module, &reader_spec);
	return writer_type && reader_type ? 0 : -1;
}
