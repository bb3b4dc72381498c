/* What is known of a cache and its entries. */
#include "common.h"

static PyObject *strings(const char *const *items, size_t count)
{
	PyObject *list = PyList_New(0);

	for (size_t i = 0; i < count && list; i++) {
		PyObject *item = PyUnicode_DecodeFSDefault(items[i]);

		if (!item || PyList_Append(list, item) < 0)
			Py_CLEAR(list);
		Py_XDECREF(item);
	}
	return list;
}

/* Seconds since 1970, or None. */
static PyObject *seconds(int64_t ms)
{
	if (ms == 0)
		Py_RETURN_NONE;
	return PyFloat_FromDouble((double)ms / 1000);
}

static PyObject *info_dict(const terrace_info *info)
{
	const char *paths[256];
	size_t count = 0;
	PyObject *tags, *sources;

	for (; count < info->source_count && count < 256; count++)
		paths[count] = info->sources[count].path;
	tags = info->tag_count ? tags_to(info->tags, info->tag_count) : Py_BuildValue("");
	sources = strings(paths, count);
	if (!tags || !sources) {
		Py_XDECREF(tags);
		Py_XDECREF(sources);
		return NULL;
	}
	return Py_BuildValue(
	    "{s:s,s:K,s:K,s:N,s:N,s:N,s:N,s:K,s:K,s:N,s:N}", "tier", terrace_tier_name(info->tier),
	    "bytes", (unsigned long long)info->bytes, "stored_bytes",
	    (unsigned long long)info->stored_bytes, "created", seconds(info->created_ms), "stored",
	    seconds(info->stored_ms), "accessed", seconds(info->accessed_ms), "expire_time",
	    seconds(info->expires_ms), "hits", (unsigned long long)info->access_count, "cost_us",
	    (unsigned long long)info->cost_us, "tag", tags, "sources", sources);
}

/* (reason, when, detail, info), the last None when it is not there. */
PyObject *cache_why(PyObject *object, PyObject *key)
{
	struct cache_object *self = (struct cache_object *)object;
	terrace_why why = TERRACE_WHY_INIT;
	struct bytes encoded;
	struct core *core;
	PyObject *info, *detail;
	int rc;

	if (key_encode(key, self->pickle, &encoded) < 0)
		return NULL;
	core = cache_acquire(self);
	if (!core) {
		bytes_done(&encoded);
		return NULL;
	}
	UNLOCKED(rc = terrace_explain(core->cache, bytes_slice(&encoded), &why));
	bytes_done(&encoded);
	if (rc < 0)
		raise_status(rc);
	core_release(core);
	if (rc < 0)
		return NULL;
	info = rc == TERRACE_OK ? info_dict(&why.info) : Py_BuildValue("");
	terrace_info_free(&why.info);
	detail = PyUnicode_DecodeFSDefault(why.detail);
	if (!info || !detail) {
		Py_XDECREF(info);
		Py_XDECREF(detail);
		return NULL;
	}
	return Py_BuildValue("(sNNN)", terrace_reason_name(why.reason), seconds(why.when_ms),
	                     detail, info);
}

PyObject *cache_stats(PyObject *object, PyObject *none)
{
	terrace_stats *stats = PyMem_Malloc(sizeof *stats);
	struct core *core = stats ? cache_acquire((struct cache_object *)object) : NULL;
	PyObject *dict = NULL;
	int rc;

	(void)none;
	if (core) {
		*stats = terrace_stats_init();
		UNLOCKED(rc = terrace_cache_stats(core->cache, stats));
		if (rc != TERRACE_OK)
			raise_status(rc);
		else
			dict = PyDict_New();
		core_release(core);
	}
#define X(name, what)                                                         \
	if (dict) {                                                           \
		PyObject *number = PyLong_FromUnsignedLongLong(stats->name);  \
		if (!number || PyDict_SetItemString(dict, #name, number) < 0) \
			Py_CLEAR(dict);                                       \
		Py_XDECREF(number);                                           \
	}
	TERRACE_COUNTERS(X)
#undef X
	PyMem_Free(stats);
	return dict;
}

/* (entries, bytes) */
PyObject *cache_usage(PyObject *object, PyObject *none)
{
	struct core *core = cache_acquire((struct cache_object *)object);
	terrace_usage usage;
	int rc;

	(void)none;
	if (!core)
		return NULL;
	UNLOCKED(rc = terrace_cache_usage(core->cache, &usage));
	if (rc != TERRACE_OK)
		raise_status(rc);
	core_release(core);
	return rc != TERRACE_OK ? NULL :
	                          Py_BuildValue("(KK)", (unsigned long long)usage.entries,
	                                        (unsigned long long)usage.bytes);
}

static int add_fault(void *ctx, const terrace_fault *fault)
{
	PyObject *list = ctx, *text;
	PyGILState_STATE state = PyGILState_Ensure();
	int rc;

	text = PyUnicode_DecodeFSDefault(fault->detail ? fault->detail : "");
	rc = text ? PyList_Append(list, text) : -1;
	Py_XDECREF(text);
	PyGILState_Release(state);
	return rc;
}

/* The faults as a list of texts. */
PyObject *cache_verify(PyObject *object, PyObject *fix)
{
	struct core *core;
	int rc, repair = PyObject_IsTrue(fix);
	PyObject *list;

	if (repair < 0)
		return NULL;
	core = cache_acquire((struct cache_object *)object);
	list = core ? PyList_New(0) : NULL;
	if (list) {
		UNLOCKED(rc = terrace_verify(core->store, repair, add_fault, list, NULL));
		if (rc != TERRACE_OK && rc != TERRACE_ECORRUPT && !PyErr_Occurred())
			raise_status(rc);
		if (PyErr_Occurred())
			Py_CLEAR(list);
	}
	if (core)
		core_release(core);
	return list;
}
