/* What is known of a cache and its entries. */
#include "common.h"

/* [(kind, path, changed), ...] */
static PyObject *source_list(const terrace_source_info *sources, size_t count)
{
	PyObject *list = PyList_New(0);

	for (size_t i = 0; i < count && list; i++) {
		PyObject *path = PyUnicode_DecodeFSDefault(sources[i].path), *item = NULL;

		if (path)
			item = Py_BuildValue("(sNN)", terrace_source_kind_name(sources[i].kind),
			                     path, PyBool_FromLong(sources[i].changed));
		if (!item || PyList_Append(list, item) < 0)
			Py_CLEAR(list);
		Py_XDECREF(item);
	}
	return list;
}

PyObject *seconds_or_none(int64_t ms)
{
	if (ms == 0)
		Py_RETURN_NONE;
	return PyFloat_FromDouble((double)ms / 1000);
}

PyObject *expire_time_of(const terrace_info *info)
{
	const bool by_idling = info->idle_ms && info->ttl_ms == TERRACE_TTL_FOREVER;

	return seconds_or_none(by_idling ? 0 : info->expires_ms);
}

static PyObject *info_dict(const terrace_info *info)
{
	PyObject *tags, *sources;

	tags = info->tag_count ? tags_to(info->tags, info->tag_count) : Py_BuildValue("");
	sources = source_list(info->sources, info->source_count);
	if (!tags || !sources) {
		Py_XDECREF(tags);
		Py_XDECREF(sources);
		return NULL;
	}
	return Py_BuildValue(
	    "{s:s,s:K,s:K,s:N,s:N,s:N,s:N,s:N,s:K,s:K,s:N,s:N}", "tier",
	    terrace_tier_name(info->tier), "bytes", (unsigned long long)info->bytes, "stored_bytes",
	    (unsigned long long)info->stored_bytes, "created", seconds_or_none(info->created_ms),
	    "stored", seconds_or_none(info->stored_ms), "accessed",
	    seconds_or_none(info->accessed_ms), "expire_time", expire_time_of(info), "idle",
	    seconds_or_none(info->idle_ms), "hits", (unsigned long long)info->access_count,
	    "cost_us", (unsigned long long)info->cost_us, "tag", tags, "sources", sources);
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
	return Py_BuildValue("(sNNN)", terrace_reason_name(why.reason),
	                     seconds_or_none(why.when_ms), detail, info);
}

PyObject *stats_dict(const terrace_stats *stats)
{
	PyObject *dict = PyDict_New();

#define X(name, what)                                                         \
	if (dict) {                                                           \
		PyObject *number = PyLong_FromUnsignedLongLong(stats->name);  \
		if (!number || PyDict_SetItemString(dict, #name, number) < 0) \
			Py_CLEAR(dict);                                       \
		Py_XDECREF(number);                                           \
	}
	TERRACE_COUNTERS(X)
#undef X
	return dict;
}

PyObject *cache_stats(PyObject *object, PyObject *none)
{
	struct core *core = cache_acquire((struct cache_object *)object);
	terrace_stats *stats = core ? PyMem_Malloc(sizeof *stats) : NULL;
	PyObject *dict = NULL;
	int rc;

	(void)none;
	if (!core)
		return NULL;
	if (stats) {
		*stats = terrace_stats_init();
		UNLOCKED(rc = terrace_cache_stats(core->cache, stats));
		dict = rc == TERRACE_OK ? stats_dict(stats) : raise_status(rc);
	} else {
		PyErr_NoMemory();
	}
	core_release(core);
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
