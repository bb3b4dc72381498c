/* The cache: what has to be fast, and what Python cannot reach without it. */
#include "common.h"

#include <stdlib.h>

/* --- the object --------------------------------------------------------------------------------- */

static PyObject *cache_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	struct cache_object *self = (struct cache_object *)alloc(type, 0);

	(void)args;
	(void)kwargs;
	if (!self)
		return NULL;
	pthread_mutex_init(&self->lock, NULL);
	self->pickle = -1;
	return (PyObject *)self;
}

static void cache_dealloc(PyObject *object)
{
	struct cache_object *self = (struct cache_object *)object;

	if (self->core)
		core_release(self->core);
	pthread_mutex_destroy(&self->lock);
	free(self->directory);
	free(self->name);
	object_free(object);
}

static PyObject *cache_close(PyObject *object, PyObject *none)
{
	struct cache_object *self = (struct cache_object *)object;
	struct core *core;

	(void)none;
	pthread_mutex_lock(&self->lock);
	core = self->core;
	self->core = NULL;
	pthread_mutex_unlock(&self->lock);
	if (core)
		core_release(core);
	Py_RETURN_NONE;
}

/*
 * _setup(directory, name, wait_ms, pickle, disk_bytes, inline_bytes, write_behind, check,
 * check_interval_ms, idle_ms): opened later.
 */
static PyObject *cache_setup_call(PyObject *object, PyObject *args)
{
	struct cache_object *self = (struct cache_object *)object;
	terrace_policy policy = TERRACE_POLICY_INIT;
	unsigned long long disk_bytes, inline_bytes;
	long long wait_ms, check_interval_ms, idle_ms;
	const char *name;
	PyObject *directory;
	char *directory_copy, *name_copy;
	int pickle, write_behind, check;

	if (!PyArg_ParseTuple(args, "O&sLiKKpiLL:_setup", PyUnicode_FSConverter, &directory, &name,
	                      &wait_ms, &pickle, &disk_bytes, &inline_bytes, &write_behind, &check,
	                      &check_interval_ms, &idle_ms))
		return NULL;
	directory_copy = strdup(PyBytes_AsString(directory));
	name_copy = strdup(name);
	Py_DECREF(directory);
	if (!directory_copy || !name_copy) {
		free(directory_copy);
		free(name_copy);
		return PyErr_NoMemory();
	}
	policy.disk_bytes = disk_bytes;
	policy.inline_bytes = inline_bytes;
	policy.write = write_behind ? TERRACE_WRITE_BEHIND : TERRACE_WRITE_DEFAULT;
	policy.check = (terrace_check)check;
	policy.check_interval_ms = check_interval_ms;
	policy.idle_ms = idle_ms;
	free(self->directory);
	free(self->name);
	self->setups++;
	self->directory = directory_copy;
	self->name = name_copy;
	self->wait_ms = wait_ms > 0 ? wait_ms : 1;
	self->policy = policy;
	self->pickle = pickle;
	return cache_close(object, NULL);
}

/* Open it now, so that what is wrong with the directory shows at once. */
static PyObject *cache_open(PyObject *object, PyObject *none)
{
	struct core *core = cache_acquire((struct cache_object *)object);

	(void)none;
	if (!core)
		return NULL;
	core_release(core);
	Py_RETURN_NONE;
}

/* --- one key ---------------------------------------------------------------------------------------- */

/* What a call on one key works with. */
struct call {
	struct cache_object *cache;
	struct core *core;
	struct bytes key;
};

static int call_begin(struct call *call, PyObject *object, PyObject *key)
{
	call->cache = (struct cache_object *)object;
	if (key_encode(key, call->cache->pickle, &call->key) < 0)
		return -1;
	call->core = cache_acquire(call->cache);
	if (call->core)
		return 0;
	bytes_done(&call->key);
	return -1;
}

static void call_end(struct call *call)
{
	core_release(call->core);
	bytes_done(&call->key);
}

/* Others were writing: again, unless a signal's handler raised something. */
static bool try_again(int rc, bool retry)
{
	return rc == TERRACE_EBUSY && retry && PyErr_CheckSignals() == 0;
}

/* The pinned value; TERRACE_MISS; or -1 with an exception. */
static int pin(PyObject *object, PyObject *key, bool facts, PyObject **ret, terrace_value **ret_raw)
{
	struct call call;
	terrace_value *value;
	int rc;

	if (call_begin(&call, object, key) < 0)
		return -1;
	UNLOCKED(rc = terrace_get(call.core->cache, bytes_slice(&call.key), &value));
	if (rc < 0)
		raise_status(rc);
	else if (rc == TERRACE_OK && ret)
		*ret = value_new(value, call.core->cache, call.cache->pickle, facts);
	else if (rc == TERRACE_OK)
		*ret_raw = value;
	call_end(&call);
	if (rc < 0 || (ret && rc == TERRACE_OK && !*ret))
		return -1;
	return rc;
}

/* A new reference; NULL without an exception for a miss. */
static PyObject *load(PyObject *object, PyObject *key)
{
	terrace_value *pinned;
	PyObject *value;

	if (pin(object, key, false, NULL, &pinned) != TERRACE_OK)
		return NULL;
	value = value_decode(terrace_slice_of(pinned), ((struct cache_object *)object)->pickle);
	terrace_release(pinned);
	return value;
}

static PyObject *get_more(PyObject *object, PyObject *key, PyObject *fallback, int read,
                          int expire_time, int tag)
{
	return PyObject_CallMethod(object, "_get_more", "OOiii", key, fallback, read, expire_time,
	                           tag);
}

static PyObject *cache_get(PyObject *object, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "key", "default", "read", "expire_time", "tag", "retry", NULL };
	int read = 0, expire_time = 0, tag = 0, retry = 0;
	PyObject *key, *fallback = Py_None, *value;

	if (!kwargs && PyTuple_Size(args) == 1)
		key = PyTuple_GetItem(args, 0);
	else if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|Opppp:get", names, &key, &fallback,
	                                      &read, &expire_time, &tag, &retry))
		return NULL;
	if (read || expire_time || tag)
		return get_more(object, key, fallback, read, expire_time, tag);
	value = load(object, key);
	if (!value && !PyErr_Occurred()) {
		Py_INCREF(fallback);
		value = fallback;
	}
	return value;
}

static PyObject *cache_subscript(PyObject *object, PyObject *key)
{
	PyObject *value = load(object, key), *wrapped;

	/* In a tuple, because a key that is one would be taken for the arguments. */
	if (!value && !PyErr_Occurred() && (wrapped = Py_BuildValue("(O)", key))) {
		PyErr_SetObject(PyExc_KeyError, wrapped);
		Py_DECREF(wrapped);
	}
	return value;
}

/* _pin(key, facts): a Value, or None. */
static PyObject *cache_pin(PyObject *object, PyObject *args)
{
	PyObject *key, *value;
	int facts, rc;

	if (!PyArg_ParseTuple(args, "Op:_pin", &key, &facts))
		return NULL;
	rc = pin(object, key, facts, &value, NULL);
	if (rc == TERRACE_MISS)
		Py_RETURN_NONE;
	return rc == TERRACE_OK ? value : NULL;
}

static int cache_contains(PyObject *object, PyObject *key)
{
	struct call call;
	int rc;

	if (call_begin(&call, object, key) < 0)
		return -1;
	UNLOCKED(rc = terrace_exists(call.core->cache, bytes_slice(&call.key)));
	if (rc < 0)
		raise_status(rc);
	call_end(&call);
	return rc < 0 ? -1 : rc == TERRACE_OK;
}

/* --- writing ------------------------------------------------------------------------------------------ */

struct put {
	PyObject *key, *value;
	struct put_asked asked;
	int retry, read;
	bool add;
};

/* 1: stored; 0: not; -1 with an exception. */
static int put_encoded(PyObject *object, const struct put *put, const struct bytes *value,
                       struct put_more *more)
{
	struct call call;
	int rc;

	if (call_begin(&call, object, put->key) < 0)
		return -1;
	do {
		UNLOCKED(rc = (put->add ? terrace_add :
		                          terrace_put)(call.core->cache, bytes_slice(&call.key),
		                                       bytes_slice(value), put_more_hold(more));
		         put_more_let_go(more));
	} while (try_again(rc, put->retry));
	if (rc < 0 && !is_not_kept(rc) && !PyErr_Occurred())
		raise_status(rc);
	call_end(&call);
	return PyErr_Occurred() ? -1 : rc == TERRACE_OK;
}

static int put_value(PyObject *object, const struct put *put)
{
	struct put_more more;
	struct bytes value;
	int rc = -1;

	if (value_encode(put->value, ((struct cache_object *)object)->pickle, &value) < 0)
		return -1;
	if (put_more_from(&more, &put->asked) == 0)
		rc = put_encoded(object, put, &value, &more);
	put_more_done(&more);
	bytes_done(&value);
	return rc;
}

static PyObject *put_method(PyObject *object, PyObject *args, PyObject *kwargs, bool add)
{
	static char *names[] = { "key",   "value",   "expire", "read", "tag",
		                 "retry", "sources", "idle",   NULL };
	struct put put = { .asked = { Py_None, Py_None, Py_None, Py_None }, .add = add };
	struct put_asked *asked = &put.asked;
	int rc;

	if (!kwargs && PyTuple_Size(args) == 2) {
		put.key = PyTuple_GetItem(args, 0);
		put.value = PyTuple_GetItem(args, 1);
	} else if (!PyArg_ParseTupleAndKeywords(
		       args, kwargs, add ? "OO|OpOpOO:add" : "OO|OpOpOO:set", names, &put.key,
		       &put.value, &asked->expire, &put.read, &asked->tag, &put.retry,
		       &asked->sources, &asked->idle)) {
		return NULL;
	}
	if (put.read)
		return PyObject_CallMethod(object, "_put_file", "OOOOOOi", put.key, put.value,
		                           asked->expire, asked->tag, asked->sources, asked->idle,
		                           add);
	rc = put_value(object, &put);
	return rc < 0 ? NULL : PyBool_FromLong(rc);
}

static PyObject *cache_set(PyObject *object, PyObject *args, PyObject *kwargs)
{
	return put_method(object, args, kwargs, false);
}

static PyObject *cache_add(PyObject *object, PyObject *args, PyObject *kwargs)
{
	return put_method(object, args, kwargs, true);
}

/* 1: it was there; 0: it was not; -1 with an exception. */
static int delete_key(PyObject *object, PyObject *key, bool retry)
{
	struct call call;
	int rc;

	if (call_begin(&call, object, key) < 0)
		return -1;
	do {
		UNLOCKED(rc = terrace_delete(call.core->cache, bytes_slice(&call.key)));
	} while (try_again(rc, retry));
	if (rc < 0 && !PyErr_Occurred())
		raise_status(rc);
	call_end(&call);
	return PyErr_Occurred() ? -1 : rc == TERRACE_OK;
}

static PyObject *cache_delete(PyObject *object, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "key", "retry", NULL };
	PyObject *key;
	int retry = 0, rc;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|p:delete", names, &key, &retry))
		return NULL;
	rc = delete_key(object, key, retry);
	return rc < 0 ? NULL : PyBool_FromLong(rc);
}

static int cache_assign(PyObject *object, PyObject *key, PyObject *value)
{
	struct put put = { .key = key, .value = value, .retry = 1 };
	PyObject *wrapped;
	int rc;

	if (value)
		return put_value(object, &put) < 0 ? -1 : 0;
	rc = delete_key(object, key, true);
	if (rc == 0 && (wrapped = Py_BuildValue("(O)", key))) {
		PyErr_SetObject(PyExc_KeyError, wrapped);
		Py_DECREF(wrapped);
	}
	return rc == 1 ? 0 : -1;
}

static PyObject *cache_touch(PyObject *object, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "key", "expire", "retry", NULL };
	PyObject *key, *expire = Py_None;
	int retry = 0, rc;
	struct call call;
	int64_t ttl_ms;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|Op:touch", names, &key, &expire,
	                                 &retry) ||
	    ttl_from(expire, &ttl_ms) < 0 || call_begin(&call, object, key) < 0)
		return NULL;
	do {
		UNLOCKED(rc = terrace_touch(call.core->cache, bytes_slice(&call.key), ttl_ms));
	} while (try_again(rc, retry));
	if (rc < 0 && !PyErr_Occurred())
		raise_status(rc);
	call_end(&call);
	return PyErr_Occurred() ? NULL : PyBool_FromLong(rc == TERRACE_OK);
}

/* _incr(key, delta, initial): the sum; ValueError where it takes more than 64 bits of whole number. */
static PyObject *cache_incr(PyObject *object, PyObject *args)
{
	long long delta, initial;
	struct call call;
	PyObject *key;
	int64_t sum;
	int rc;

	if (!PyArg_ParseTuple(args, "OLL:_incr", &key, &delta, &initial) ||
	    call_begin(&call, object, key) < 0)
		return NULL;
	UNLOCKED(rc = terrace_incr(call.core->cache, bytes_slice(&call.key), delta, initial, &sum));
	if (rc != TERRACE_OK)
		raise_status(rc);
	call_end(&call);
	return rc == TERRACE_OK ? PyLong_FromLongLong(sum) : NULL;
}

/* --- many --------------------------------------------------------------------------------------------- */

/* What removes many: how many it was. */
static PyObject *counted(PyObject *object, int (*remove)(struct core *core, uint64_t *ret))
{
	struct core *core = cache_acquire((struct cache_object *)object);
	uint64_t count = 0;
	int rc;

	if (!core)
		return NULL;
	UNLOCKED(rc = remove(core, &count));
	if (rc != TERRACE_OK)
		raise_status(rc);
	core_release(core);
	return rc == TERRACE_OK ? PyLong_FromUnsignedLongLong(count) : NULL;
}

static int remove_all(struct core *core, uint64_t *ret)
{
	return terrace_clear(core->cache, 0, ret);
}

static int remove_dead(struct core *core, uint64_t *ret)
{
	return terrace_cleanup(core->store, core->cache, ret);
}

static int remove_changed(struct core *core, uint64_t *ret)
{
	return terrace_check_sources(core->cache, ret);
}

static int write_waiting(struct core *core, uint64_t *ret)
{
	(void)ret;
	return terrace_flush(core->store);
}

static PyObject *cache_flush(PyObject *object, PyObject *none)
{
	PyObject *count = counted(object, write_waiting);

	(void)none;
	if (!count)
		return NULL;
	Py_DECREF(count);
	Py_RETURN_NONE;
}

static PyObject *cache_clear(PyObject *object, PyObject *none)
{
	(void)none;
	return counted(object, remove_all);
}

static PyObject *cache_cleanup(PyObject *object, PyObject *none)
{
	(void)none;
	return counted(object, remove_dead);
}

static PyObject *cache_check_sources(PyObject *object, PyObject *none)
{
	(void)none;
	return counted(object, remove_changed);
}

/* _evict(tag as stored) */
static PyObject *cache_evict(PyObject *object, PyObject *tag)
{
	terrace_match match = { TERRACE_MATCH_TAG, { NULL, 0 } };
	struct core *core;
	uint64_t count;
	char *text;
	Py_ssize_t size;
	int rc;

	if (PyBytes_AsStringAndSize(tag, &text, &size) < 0)
		return NULL;
	match.text = terrace_bytes(text, (size_t)size);
	core = cache_acquire((struct cache_object *)object);
	if (!core)
		return NULL;
	UNLOCKED(rc = terrace_invalidate(core->cache, &match, &count));
	if (rc != TERRACE_OK)
		raise_status(rc);
	core_release(core);
	return rc == TERRACE_OK ? PyLong_FromUnsignedLongLong(count) : NULL;
}

static Py_ssize_t cache_len(PyObject *object)
{
	PyObject *usage = cache_usage(object, NULL);
	Py_ssize_t count = usage ? PyLong_AsSsize_t(PyTuple_GetItem(usage, 0)) : -1;

	Py_XDECREF(usage);
	return count;
}

/* _keys(newest, prefix): an iterator. */
static PyObject *cache_keys(PyObject *object, PyObject *args)
{
	PyObject *prefix = Py_None;
	int newest;

	if (!PyArg_ParseTuple(args, "p|O:_keys", &newest, &prefix))
		return NULL;
	return keys_new((struct cache_object *)object, newest, prefix);
}

static PyObject *cache_lease(PyObject *object, PyObject *key)
{
	struct cache_object *self = (struct cache_object *)object;

	return lease_begin(self, key, self->wait_ms);
}

static PyObject *cache_writer(PyObject *object, PyObject *args)
{
	return writer_open((struct cache_object *)object, args);
}

static PyObject *cache_reader(PyObject *object, PyObject *key)
{
	return reader_open((struct cache_object *)object, key);
}

static PyObject *cache_subscribe(PyObject *object, PyObject *args)
{
	return subscription_begin((struct cache_object *)object, args);
}

static PyObject *cache_begin(PyObject *object, PyObject *none)
{
	(void)none;
	return transaction_begin((struct cache_object *)object);
}

/* --- the type --------------------------------------------------------------------------------------------- */

#define WITH_KEYWORDS(function) (PyCFunction)(void (*)(void)) function, METH_VARARGS | METH_KEYWORDS

static PyMethodDef cache_methods[] = {
	{ "get", WITH_KEYWORDS(cache_get),
	  "get(key, default=None, read=False, expire_time=False, tag=False, retry=False)\n\n"
	  "The value, or `default`. With expire_time or tag a tuple of it and those." },
	{ "set", WITH_KEYWORDS(cache_set),
	  "set(key, value, expire=None, read=False, tag=None, retry=False, sources=None, "
	  "idle=None)\n\nStore a value for `expire` seconds (None: for ever), or until nobody "
	  "gets it for `idle` seconds. True when it was kept." },
	{ "add", WITH_KEYWORDS(cache_add),
	  "add(key, value, expire=None, read=False, tag=None, retry=False, sources=None, "
	  "idle=None)\n\nAs set(), but only where no live entry is. True when it was stored." },
	{ "delete", WITH_KEYWORDS(cache_delete),
	  "delete(key, retry=False)\n\nTrue when there was one." },
	{ "touch", WITH_KEYWORDS(cache_touch),
	  "touch(key, expire=None, retry=False)\n\nLet a live entry expire `expire` seconds from "
	  "now (None: never). True when there was one." },
	{ "close", cache_close, METH_NOARGS,
	  "close()\n\nClose the store. The next call opens it again." },
	{ "_setup", cache_setup_call, METH_VARARGS, NULL },
	{ "_open", cache_open, METH_NOARGS, NULL },
	{ "_pin", cache_pin, METH_VARARGS, NULL },
	{ "_incr", cache_incr, METH_VARARGS, NULL },
	{ "_flush", cache_flush, METH_NOARGS, NULL },
	{ "_clear", cache_clear, METH_NOARGS, NULL },
	{ "_cleanup", cache_cleanup, METH_NOARGS, NULL },
	{ "_check_sources", cache_check_sources, METH_NOARGS, NULL },
	{ "_evict", cache_evict, METH_O, NULL },
	{ "_keys", cache_keys, METH_VARARGS, NULL },
	{ "_lease", cache_lease, METH_O, NULL },
	{ "_begin", cache_begin, METH_NOARGS, NULL },
	{ "_writer", cache_writer, METH_VARARGS, NULL },
	{ "_reader", cache_reader, METH_O, NULL },
	{ "_subscribe", cache_subscribe, METH_VARARGS, NULL },
	{ "_why", cache_why, METH_O, NULL },
	{ "_stats", cache_stats, METH_NOARGS, NULL },
	{ "_usage", cache_usage, METH_NOARGS, NULL },
	{ "_verify", cache_verify, METH_O, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot cache_slots[] = {
	{ Py_tp_new, cache_new },
	{ Py_tp_dealloc, cache_dealloc },
	{ Py_tp_methods, cache_methods },
	{ Py_mp_subscript, cache_subscript },
	{ Py_mp_ass_subscript, cache_assign },
	{ Py_mp_length, cache_len },
	{ Py_sq_contains, cache_contains },
	{ 0, NULL },
};

static PyType_Spec cache_spec = { "terrace._terrace.CacheBase", sizeof(struct cache_object), 0,
	                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, cache_slots };

static void in_child(void)
{
	atomic_fetch_add(&forks_seen, 1);
}

int cache_setup(PyObject *module)
{
	if (pthread_atfork(NULL, NULL, in_child) != 0) {
		PyErr_NoMemory();
		return -1;
	}
	return type_add(module, &cache_spec) ? 0 : -1;
}
