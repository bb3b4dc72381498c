/* Pinned values, listings of keys, and sets of sources. */
#include "common.h"

#include <stdlib.h>
#include <structmember.h>

PyTypeObject *value_type, *keys_type, *sources_type;

/* --- a pinned value ------------------------------------------------------------------------- */

struct value_object {
	PyObject_HEAD terrace_value *pinned;
	int pickle;
	PyObject *expire_time, *tags, *idle; /* None where nobody asked */
};

PyObject *value_new(terrace_value *pinned, terrace_cache *cache, int pickle, bool facts)
{
	struct value_object *self = PyObject_New(struct value_object, value_type);
	terrace_info info = TERRACE_INFO_INIT;

	if (!self) {
		terrace_release(pinned);
		return NULL;
	}
	self->pinned = pinned;
	self->pickle = pickle;
	self->expire_time = self->tags = self->idle = NULL;
	if (facts) {
		int rc;

		UNLOCKED(rc = terrace_inspect_value(cache, pinned, &info)); /* looks at sources */
		if (rc != TERRACE_OK) {
			raise_status(rc);
			Py_DECREF(self);
			return NULL;
		}
	}
	self->expire_time = expire_time_of(&info);
	if (info.tag_count)
		self->tags = tags_to(info.tags, info.tag_count);
	if (info.idle_ms)
		self->idle = seconds_or_none(info.idle_ms);
	terrace_info_free(&info);
	if (PyErr_Occurred()) {
		Py_DECREF(self);
		return NULL;
	}
	return (PyObject *)self;
}

static void value_dealloc(PyObject *object)
{
	struct value_object *self = (struct value_object *)object;

	terrace_release(self->pinned);
	Py_XDECREF(self->expire_time);
	Py_XDECREF(self->tags);
	Py_XDECREF(self->idle);
	object_free(object);
}

/* The bytes of a str or bytes value themselves; what else is stored has no bytes to show. */
static int value_buffer(PyObject *object, Py_buffer *view, int flags)
{
	struct value_object *self = (struct value_object *)object;
	terrace_slice payload;

	if (!value_payload(terrace_slice_of(self->pinned), &payload)) {
		PyErr_SetString(PyExc_BufferError, "only bytes and str values can be viewed");
		view->obj = NULL;
		return -1;
	}
	return PyBuffer_FillInfo(view, object, (void *)(uintptr_t)payload.data,
	                         (Py_ssize_t)payload.size, 1, flags);
}

/* (value,), or () where this reader cannot read it. */
static PyObject *value_load(PyObject *object, PyObject *none)
{
	struct value_object *self = (struct value_object *)object;
	PyObject *value = value_decode(terrace_slice_of(self->pinned), self->pickle);

	(void)none;
	if (value)
		return Py_BuildValue("(N)", value);
	return PyErr_Occurred() ? NULL : PyTuple_New(0);
}

static PyObject *value_get_tier(PyObject *object, void *closure)
{
	(void)closure;
	return PyUnicode_FromString(
	    terrace_tier_name(terrace_value_tier(((struct value_object *)object)->pinned)));
}

static PyMethodDef value_methods[] = {
	{ "load", value_load, METH_NOARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyMemberDef value_members[] = {
	{ "expire_time", T_OBJECT, offsetof(struct value_object, expire_time), READONLY, NULL },
	{ "tags", T_OBJECT, offsetof(struct value_object, tags), READONLY, NULL },
	{ "idle", T_OBJECT, offsetof(struct value_object, idle), READONLY, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static PyGetSetDef value_getset[] = {
	{ "tier", value_get_tier, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot value_slots[] = {
	{ Py_tp_dealloc, value_dealloc },  { Py_tp_methods, value_methods },
	{ Py_tp_members, value_members },  { Py_tp_getset, value_getset },
	{ Py_bf_getbuffer, value_buffer }, { 0, NULL },
};

static PyType_Spec value_spec = { "terrace._terrace.Value", sizeof(struct value_object), 0,
	                          Py_TPFLAGS_DEFAULT, value_slots };

int value_setup(PyObject *module)
{
	value_type = type_add(module, &value_spec);
	return value_type ? 0 : -1;
}

/* --- keys ---------------------------------------------------------------------------------------- */

struct keys_object {
	PyObject_HEAD struct core *core;
	terrace_keys *keys;
	bool busy; /* a thread is at it, and may have given up the GIL */
	int pickle;
};

PyObject *keys_new(struct cache_object *cache, bool newest, PyObject *prefix)
{
	struct keys_object *self = PyObject_New(struct keys_object, keys_type);
	terrace_match match = { TERRACE_MATCH_ALL, { NULL, 0 } };
	char *text;
	Py_ssize_t size;
	int rc;

	if (!self)
		return NULL;
	self->core = NULL;
	self->keys = NULL;
	self->busy = false;
	self->pickle = cache->pickle;
	if (prefix != Py_None) {
		if (PyBytes_AsStringAndSize(prefix, &text, &size) < 0) {
			Py_DECREF(self);
			return NULL;
		}
		match.kind = TERRACE_MATCH_PREFIX;
		match.text = terrace_bytes(text, (size_t)size);
	}
	self->core = cache_acquire(cache);
	if (!self->core) {
		Py_DECREF(self);
		return NULL;
	}
	UNLOCKED(rc = (newest ? terrace_keys_open_newest : terrace_keys_open)(self->core->cache,
	                                                                      &match, &self->keys));
	if (rc != TERRACE_OK) {
		Py_DECREF(self);
		return raise_status(rc);
	}
	return (PyObject *)self;
}

static void keys_dealloc(PyObject *object)
{
	struct keys_object *self = (struct keys_object *)object;

	terrace_keys_close(self->keys);
	if (self->core)
		core_release(self->core);
	object_free(object);
}

/* A new reference; NULL without an exception at the end. */
static PyObject *next_readable(struct keys_object *self)
{
	PyObject *decoded = NULL;
	terrace_slice key;
	int rc;

	while (!decoded && !PyErr_Occurred()) {
		UNLOCKED(rc = terrace_keys_next(self->keys, &key));
		if (rc == TERRACE_MISS)
			return NULL;
		if (rc != TERRACE_OK)
			return raise_status(rc);
		decoded = key_decode(key, self->pickle);
	}
	return decoded;
}

static PyObject *keys_next(PyObject *object)
{
	struct keys_object *self = (struct keys_object *)object;
	PyObject *key;

	if (self->core->forks != atomic_load(&forks_seen)) {
		PyErr_SetString(PyExc_RuntimeError,
		                "this iterator was made before a fork; make another");
		return NULL;
	}
	/* As a generator has it. */
	if (self->busy) {
		PyErr_SetString(PyExc_ValueError, "another thread is using this iterator");
		return NULL;
	}
	self->busy = true;
	key = next_readable(self);
	self->busy = false;
	return key;
}

static PyObject *keys_iter(PyObject *self)
{
	Py_INCREF(self);
	return self;
}

static PyType_Slot keys_slots[] = {
	{ Py_tp_dealloc, keys_dealloc },
	{ Py_tp_iter, keys_iter },
	{ Py_tp_iternext, keys_next },
	{ 0, NULL },
};

static PyType_Spec keys_spec = { "terrace._terrace.Keys", sizeof(struct keys_object), 0,
	                         Py_TPFLAGS_DEFAULT, keys_slots };

int keys_setup(PyObject *module)
{
	keys_type = type_add(module, &keys_spec);
	return keys_type ? 0 : -1;
}

/* --- sources --------------------------------------------------------------------------------------- */

struct sources_object {
	PyObject_HEAD pthread_mutex_t lock; /* over the set; taken without the GIL */
	terrace_sources *sources;
};

terrace_sources *sources_hold(PyObject *object)
{
	struct sources_object *self = (struct sources_object *)object;

	if (!self)
		return NULL;
	pthread_mutex_lock(&self->lock);
	return self->sources;
}

void sources_let_go(PyObject *object)
{
	if (object)
		pthread_mutex_unlock(&((struct sources_object *)object)->lock);
}

/* One function for each kind of source, so that one way leads to all of them. */
typedef int add_fn(terrace_sources *sources, const char *what);

/* What is not there must stay so. Asked again where it came to be in between. */
static int add_file_as(terrace_sources *sources, const char *path, unsigned flags)
{
	for (int i = 0; i < 2; i++) {
		int rc = terrace_sources_file(sources, path, flags);

		if (rc == TERRACE_MISS)
			rc = terrace_sources_absent(sources, path);
		if (rc != TERRACE_EXISTS)
			return rc;
	}
	return terrace_fail(TERRACE_EINVAL,
	                    "the source %s is a link to nothing; name what it is to lead to", path);
}

static int add_file(terrace_sources *sources, const char *path)
{
	return add_file_as(sources, path, 0);
}

static int add_content(terrace_sources *sources, const char *path)
{
	return add_file_as(sources, path, TERRACE_SOURCE_CONTENT);
}

static int sources_add_one(struct sources_object *self, PyObject *what, add_fn *add)
{
	PyObject *encoded;
	const char *text;
	int rc;

	if (!PyUnicode_FSConverter(what, &encoded))
		return -1;
	text = PyBytes_AsString(encoded);
	/* Reads a file that is new, or a directory. */
	UNLOCKED(rc = add(sources_hold((PyObject *)self), text); sources_let_go((PyObject *)self));
	if (rc == TERRACE_MISS)
		PyErr_SetString(PyExc_FileNotFoundError, terrace_error_message());
	else if (rc != TERRACE_OK)
		raise_status(rc);
	Py_DECREF(encoded);
	return rc == TERRACE_OK ? 0 : -1;
}

static int sources_add_all(struct sources_object *self, PyObject *paths)
{
	PyObject *iterator, *path;
	int rc = 0;

	/* One path is the likeliest mistake, and means just what it says. */
	if (PyUnicode_Check(paths) || PyBytes_Check(paths) ||
	    PyObject_HasAttrString(paths, "__fspath__"))
		return sources_add_one(self, paths, add_file);
	iterator = PyObject_GetIter(paths);
	if (!iterator)
		return -1;
	while (rc == 0 && (path = PyIter_Next(iterator))) {
		rc = sources_add_one(self, path, add_file);
		Py_DECREF(path);
	}
	Py_DECREF(iterator);
	return PyErr_Occurred() ? -1 : rc;
}

static PyObject *sources_make(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "paths", NULL };
	allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	struct sources_object *self;
	PyObject *paths = NULL;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Sources", names, &paths))
		return NULL;
	self = (struct sources_object *)alloc(type, 0);
	if (!self)
		return NULL;
	pthread_mutex_init(&self->lock, NULL);
	if (terrace_sources_new(&self->sources) != TERRACE_OK) {
		Py_DECREF(self);
		return PyErr_NoMemory();
	}
	if (paths && sources_add_all(self, paths) < 0) {
		Py_DECREF(self);
		return NULL;
	}
	return (PyObject *)self;
}

static void sources_dealloc(PyObject *object)
{
	struct sources_object *self = (struct sources_object *)object;

	terrace_sources_free(self->sources);
	pthread_mutex_destroy(&self->lock);
	object_free(object);
}

static PyObject *sources_add(PyObject *object, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "path", "content", NULL };
	PyObject *path;
	int content = 0;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|p:add", names, &path, &content) ||
	    sources_add_one((struct sources_object *)object, path,
	                    content ? add_content : add_file) < 0)
		return NULL;
	Py_INCREF(path);
	return path;
}

static PyObject *sources_add_listing(PyObject *object, PyObject *listing)
{
	if (sources_add_one((struct sources_object *)object, listing, terrace_sources_listing) < 0)
		return NULL;
	Py_INCREF(listing);
	return listing;
}

static PyObject *sources_add_variable(PyObject *object, PyObject *name)
{
	if (sources_add_one((struct sources_object *)object, name, terrace_sources_variable) < 0)
		return NULL;
	Py_INCREF(name);
	return name;
}

static Py_ssize_t sources_len(PyObject *object)
{
	return (Py_ssize_t)terrace_sources_count(((struct sources_object *)object)->sources);
}

static PyMethodDef sources_methods[] = {
	{ "add", (PyCFunction)(void (*)(void))sources_add, METH_VARARGS | METH_KEYWORDS,
	  "add(path, content=False)\n\nAdd a file, before reading it; one that is missing must "
	  "stay so. With `content`, other times on the same bytes are no change. Returns the "
	  "path." },
	{ "add_listing", sources_add_listing, METH_O,
	  "add_listing(listing)\n\nAdd the names in a directory, before reading them: \"src\", "
	  "\"src/*.py\", or, with those below, \"src/**\", \"src/**/*.py\". Returns what it was "
	  "given." },
	{ "add_variable", sources_add_variable, METH_O,
	  "add_variable(name)\n\nAdd a variable of the environment: its value, or that it has "
	  "none, in the process that asks for the entry. Returns the name." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot sources_slots[] = {
	{ Py_tp_doc,
	  "Sources(paths=())\n\nWhat a value is made from: files, directory listings, "
	  "variables. A value stored with them is a hit only while each is as it was when it "
	  "was added." },
	{ Py_tp_new, sources_make },
	{ Py_tp_dealloc, sources_dealloc },
	{ Py_tp_methods, sources_methods },
	{ Py_mp_length, sources_len },
	{ 0, NULL },
};

static PyType_Spec sources_spec = { "terrace.Sources", sizeof(struct sources_object), 0,
	                            Py_TPFLAGS_DEFAULT, sources_slots };

int sources_setup(PyObject *module)
{
	sources_type = type_add(module, &sources_spec);
	return sources_type ? 0 : -1;
}
