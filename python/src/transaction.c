/* A transaction that is open on this thread. */
#include "common.h"

PyTypeObject *transaction_type;

struct transaction_object {
	PyObject_HEAD struct core *core; /* NULL: ended */
	pthread_t thread;
};

PyObject *transaction_begin(struct cache_object *cache)
{
	struct core *core = cache_acquire(cache);
	struct transaction_object *self;
	int rc;

	if (!core)
		return NULL;
	UNLOCKED(rc = terrace_begin(core->store, cache->wait_ms));
	if (rc != TERRACE_OK) {
		raise_status(rc);
		core_release(core);
		return NULL;
	}
	self = PyObject_New(struct transaction_object, transaction_type);
	if (!self) {
		UNLOCKED(terrace_rollback(core->store));
		core_release(core);
		return NULL;
	}
	self->core = core;
	self->thread = pthread_self();
	return (PyObject *)self;
}

/* The handle, for the last time; NULL when there is nothing to end here. */
static struct core *take_core(struct transaction_object *self)
{
	struct core *core = self->core;

	if (!core || core->forks != atomic_load(&forks_seen) ||
	    !pthread_equal(self->thread, pthread_self()))
		return NULL;
	self->core = NULL;
	return core;
}

static PyObject *transaction_commit(PyObject *object, PyObject *none)
{
	struct core *core = take_core((struct transaction_object *)object);
	int rc;

	(void)none;
	if (!core) {
		PyErr_SetString(PyExc_RuntimeError,
		                "a transaction ends once, on the thread and in the process where "
		                "it began");
		return NULL;
	}
	UNLOCKED(rc = terrace_commit(core->store));
	if (rc != TERRACE_OK)
		raise_status(rc);
	core_release(core);
	if (rc != TERRACE_OK)
		return NULL;
	Py_RETURN_NONE;
}

static PyObject *transaction_rollback(PyObject *object, PyObject *none)
{
	struct core *core = take_core((struct transaction_object *)object);

	(void)none;
	if (core) {
		UNLOCKED(terrace_rollback(core->store));
		core_release(core);
	}
	Py_RETURN_NONE;
}

static void transaction_dealloc(PyObject *object)
{
	struct transaction_object *self = (struct transaction_object *)object;
	struct core *core = take_core(self);

	if (core) {
		UNLOCKED(terrace_rollback(core->store));
		core_release(core);
	}
	object_free(object);
}

static PyMethodDef transaction_methods[] = {
	{ "commit", transaction_commit, METH_NOARGS, NULL },
	{ "rollback", transaction_rollback, METH_NOARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot transaction_slots[] = {
	{ Py_tp_dealloc, transaction_dealloc },
	{ Py_tp_methods, transaction_methods },
	{ 0, NULL },
};

static PyType_Spec transaction_spec = { "terrace._terrace.Transaction",
	                                sizeof(struct transaction_object), 0, Py_TPFLAGS_DEFAULT,
	                                transaction_slots };

int transaction_setup(PyObject *module)
{
	transaction_type = type_add(module, &transaction_spec);
	return transaction_type ? 0 : -1;
}
