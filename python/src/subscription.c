/* Events of a cache, given to a function of Python on a thread of the library's. */
#include "common.h"

PyTypeObject *subscription_type;

struct subscription_object {
	PyObject_HEAD struct core *core;              /* NULL: ended */
	_Atomic(terrace_subscription *) subscription; /* NULL: ended. Has a reference to this */
	PyObject *function;                           /* NULL: ended */
	PyObject *make;                               /* an event from its parts */
	PyObject *unknown;                            /* a key that this reader cannot read */
	int pickle;
};

/* --- on the library's thread ---------------------------------------------------------------- */

static PyObject *key_of(const struct subscription_object *self, const terrace_event *event)
{
	PyObject *key = Py_None;

	if (event->key.size) {
		key = key_decode(event->key, self->pickle);
		if (key || PyErr_Occurred())
			return key;
		key = self->unknown;
	}
	Py_INCREF(key);
	return key;
}

static PyObject *event_new(const struct subscription_object *self, const terrace_event *event)
{
	PyObject *key = key_of(self, event), *statistics = NULL, *detail = NULL;

	if (key)
		detail = PyUnicode_DecodeFSDefault(event->detail);
	if (detail)
		statistics = event->statistics ? stats_dict(event->statistics) : Py_BuildValue("");
	if (!statistics) {
		Py_XDECREF(key);
		Py_XDECREF(detail);
		return NULL;
	}
	return PyObject_CallFunction(
	    self->make, "ssNzKNNKN", terrace_event_name(event->kind), event->cache, key,
	    event->tier ? terrace_tier_name(event->tier) : NULL, (unsigned long long)event->count,
	    detail, seconds_or_none(event->when_ms), (unsigned long long)event->lost, statistics);
}

static void deliver(void *ctx, const terrace_event *event)
{
	struct subscription_object *self = ctx;
	PyObject *function, *made, *result = NULL;
	PyGILState_STATE state = PyGILState_Ensure();

	/* Of our own: the function may end the subscription. */
	Py_INCREF(self);
	function = self->function;
	if (function) {
		Py_INCREF(function);
		made = event_new(self, event);
		if (made)
			result = PyObject_CallFunctionObjArgs(function, made, NULL);
		/* There is no caller to raise it to. */
		if (!result)
			PyErr_WriteUnraisable(function);
		Py_XDECREF(result);
		Py_XDECREF(made);
		Py_DECREF(function);
	}
	Py_DECREF(self);
	PyGILState_Release(state);
}

/* --- beginning and ending --------------------------------------------------------------------- */

PyObject *subscription_begin(struct cache_object *cache, PyObject *args)
{
	terrace_subscribe_options options = TERRACE_SUBSCRIBE_INIT;
	terrace_subscription *subscription = NULL;
	struct subscription_object *self;
	PyObject *function, *make, *unknown;
	unsigned long long queue;
	long long statistics_ms;
	struct core *core;
	int rc;

	if (!PyArg_ParseTuple(args, "OOOIKL:_subscribe", &function, &make, &unknown, &options.kinds,
	                      &queue, &statistics_ms))
		return NULL;
	options.queue = (size_t)queue;
	options.statistics_ms = statistics_ms;
	core = cache_acquire(cache);
	self = core ? PyObject_New(struct subscription_object, subscription_type) : NULL;
	if (!self) {
		if (core)
			core_release(core);
		return NULL;
	}
	self->core = core;
	atomic_init(&self->subscription, NULL);
	self->function = function;
	self->make = make;
	self->unknown = unknown;
	self->pickle = cache->pickle;
	Py_INCREF(function);
	Py_INCREF(make);
	Py_INCREF(unknown);
	Py_INCREF(self);
	UNLOCKED(rc = terrace_subscribe(core->cache, &options, deliver, self, &subscription));
	atomic_store(&self->subscription, subscription);
	if (!subscription)
		Py_DECREF(
		    self); /* a failure; or a store that is disabled, of which nothing is told */
	if (rc == TERRACE_OK)
		return (PyObject *)self;
	raise_status(rc);
	Py_DECREF(self);
	return NULL;
}

static PyObject *subscription_close(PyObject *object, PyObject *none)
{
	struct subscription_object *self = (struct subscription_object *)object;
	terrace_subscription *subscription = atomic_exchange(&self->subscription, NULL);
	struct core *core;

	(void)none;
	if (!subscription)
		Py_RETURN_NONE;
	core = self->core;
	self->core = NULL;
	/* In a forked child its thread is not there. */
	if (core->forks == atomic_load(&forks_seen))
		UNLOCKED(terrace_unsubscribe(subscription));
	core_release(core);
	Py_CLEAR(self->function);
	Py_DECREF(self); /* the subscription's */
	Py_RETURN_NONE;
}

static void subscription_dealloc(PyObject *object)
{
	struct subscription_object *self = (struct subscription_object *)object;

	if (self->core)
		core_release(self->core);
	Py_XDECREF(self->function);
	Py_DECREF(self->make);
	Py_DECREF(self->unknown);
	object_free(object);
}

static PyMethodDef subscription_methods[] = {
	{ "close", subscription_close, METH_NOARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot subscription_slots[] = {
	{ Py_tp_dealloc, subscription_dealloc },
	{ Py_tp_methods, subscription_methods },
	{ 0, NULL },
};

static PyType_Spec subscription_spec = { "terrace._terrace.SubscriptionBase",
	                                 sizeof(struct subscription_object), 0, Py_TPFLAGS_DEFAULT,
	                                 subscription_slots };

int subscription_setup(PyObject *module)
{
	subscription_type = type_add(module, &subscription_spec);
	return subscription_type ? 0 : -1;
}
