/* The right to compute a key, alone among threads and processes. */
#include "common.h"

#include <pthread.h>

PyTypeObject *lease_type;

struct lease_object {
	PyObject_HEAD struct core *core;
	terrace_lease *lease; /* NULL: ended */
	pthread_t thread;     /* a lease ends where it began */
	int pickle;
};

/* (value,) when it is there; a lease; or None when this thread computes it already, further out. */
PyObject *lease_begin(struct cache_object *cache, PyObject *key, int64_t wait_ms)
{
	struct core *core;
	struct bytes encoded;
	terrace_lease *lease = NULL;
	terrace_value *pinned = NULL;
	struct lease_object *self;
	PyObject *value;
	int rc;

	if (key_encode(key, cache->pickle, &encoded) < 0)
		return NULL;
	core = cache_acquire(cache);
	if (!core) {
		bytes_done(&encoded);
		return NULL;
	}
	UNLOCKED(
	    rc = terrace_lease_begin(core->cache, bytes_slice(&encoded), wait_ms, &lease, &pinned));
	bytes_done(&encoded);
	if (rc == TERRACE_OK) {
		value = value_decode(terrace_slice_of(pinned), cache->pickle);
		terrace_release(pinned);
		core_release(core);
		if (value)
			return Py_BuildValue("(N)", value);
		if (!PyErr_Occurred())
			Py_RETURN_NONE; /* not for this reader: it computes for itself */
		return NULL;
	}
	self = rc == TERRACE_MISS ? PyObject_New(struct lease_object, lease_type) : NULL;
	if (!self) {
		terrace_lease_drop(lease);
		core_release(core);
		if (rc == TERRACE_MISS || PyErr_Occurred())
			return NULL;
		if (rc == TERRACE_EINVAL || rc == TERRACE_ENOMEM)
			return raise_status(rc);
		Py_RETURN_NONE; /* a cycle, or what a loader in C failed with */
	}
	self->core = core;
	self->lease = lease;
	self->thread = pthread_self();
	self->pickle = cache->pickle;
	return (PyObject *)self;
}

static bool is_mine(const struct lease_object *self)
{
	return self->core->forks == atomic_load(&forks_seen) &&
	       pthread_equal(self->thread, pthread_self());
}

static void lease_dealloc(PyObject *object)
{
	struct lease_object *self = (struct lease_object *)object;

	/* Elsewhere it cannot be ended; the owner's process gives it up when it ends. */
	if (self->lease && is_mine(self))
		terrace_lease_drop(self->lease);
	core_release(self->core);
	object_free(object);
}

static terrace_lease *take_lease(struct lease_object *self)
{
	terrace_lease *lease = self->lease;

	if (!lease)
		PyErr_SetString(PyExc_ValueError, "this lease has ended");
	else if (!is_mine(self))
		PyErr_SetString(PyExc_ValueError, "a lease ends on the thread where it began");
	else
		return lease;
	return NULL;
}

static PyObject *lease_put(PyObject *object, PyObject *args)
{
	struct lease_object *self = (struct lease_object *)object;
	struct put_asked asked;
	PyObject *value;
	terrace_lease *lease = take_lease(self);
	struct put_more more;
	struct bytes encoded;
	int rc;

	if (!lease ||
	    !PyArg_ParseTuple(args, "OOOOO:put", &value, &asked.expire, &asked.tag, &asked.sources,
	                      &asked.idle) ||
	    value_encode(value, self->pickle, &encoded) < 0)
		return NULL;
	if (put_more_from(&more, &asked) < 0) {
		put_more_done(&more);
		bytes_done(&encoded);
		return NULL;
	}
	UNLOCKED(rc = terrace_lease_put(lease, bytes_slice(&encoded), put_more_hold(&more), NULL);
	         put_more_let_go(&more));
	if (rc != TERRACE_EINVAL)
		self->lease = NULL;
	put_more_done(&more);
	bytes_done(&encoded);
	if (rc < 0)
		return raise_status(rc);
	Py_RETURN_NONE;
}

/* One that has ended already is fine. */
static PyObject *lease_drop(PyObject *object, PyObject *none)
{
	struct lease_object *self = (struct lease_object *)object;
	terrace_lease *lease;

	(void)none;
	if (!self->lease)
		Py_RETURN_NONE;
	lease = take_lease(self);
	if (!lease)
		return NULL;
	self->lease = NULL;
	UNLOCKED(terrace_lease_drop(lease));
	Py_RETURN_NONE;
}

static PyMethodDef lease_methods[] = {
	{ "put", lease_put, METH_VARARGS, NULL },
	{ "drop", lease_drop, METH_NOARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot lease_slots[] = {
	{ Py_tp_dealloc, lease_dealloc },
	{ Py_tp_methods, lease_methods },
	{ 0, NULL },
};

static PyType_Spec lease_spec = { "terrace._terrace.Lease", sizeof(struct lease_object), 0,
	                          Py_TPFLAGS_DEFAULT, lease_slots };

int lease_setup(PyObject *module)
{
	lease_type = type_add(module, &lease_spec);
	return lease_type ? 0 : -1;
}
