/* The module terrace._terrace: what the package in Python stands on. */
#include "common.h"

PyObject *error_type, *timeout_type;

void object_free(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);
	freefunc free_slot = (freefunc)PyType_GetSlot(type, Py_tp_free);

	free_slot(self);
	Py_DECREF(type);
}

PyTypeObject *type_add(PyObject *module, PyType_Spec *spec)
{
	PyObject *type = PyType_FromSpec(spec);

	if (!type)
		return NULL;
	Py_INCREF(type); /* ours; the module takes the other */
	if (PyModule_AddObject(module, strrchr(spec->name, '.') + 1, type) < 0) {
		Py_DECREF(type);
		Py_DECREF(type);
		return NULL;
	}
	return (PyTypeObject *)type;
}

PyObject *raise_status(int status)
{
	PyObject *type = error_type;
	const char *message = terrace_error_message();

	switch (status) {
	case TERRACE_EBUSY:
		type = timeout_type;
		break;
	case TERRACE_EINVAL:
	case TERRACE_ECONFIG:
		type = PyExc_ValueError;
		break;
	case TERRACE_EACCESS:
		type = PyExc_PermissionError;
		break;
	case TERRACE_ENOMEM:
		type = PyExc_MemoryError;
		break;
	}
	PyErr_SetString(type, *message ? message : terrace_status_name(status));
	return NULL;
}

static PyMethodDef module_methods[] = {
	{ "_configure", codec_configure, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static struct PyModuleDef module_def = {
	PyModuleDef_HEAD_INIT, "terrace._terrace", NULL, -1, module_methods, NULL, NULL, NULL, NULL,
};

static PyObject *exception_add(PyObject *module, const char *name, const char *doc, PyObject *base)
{
	PyObject *type = PyErr_NewExceptionWithDoc(name, doc, base, NULL);

	Py_XINCREF(type);
	if (type && PyModule_AddObject(module, strrchr(name, '.') + 1, type) < 0) {
		Py_DECREF(type);
		Py_CLEAR(type);
	}
	return type;
}

PyMODINIT_FUNC PyInit__terrace(void);

PyMODINIT_FUNC PyInit__terrace(void)
{
	PyObject *module = PyModule_Create(&module_def);

	if (!module)
		return NULL;
	error_type = exception_add(module, "terrace.Error",
	                           "The store could not do what was asked; the text says why.",
	                           NULL);
	timeout_type = error_type ?
	                   exception_add(module, "terrace.Timeout",
	                                 "Others were writing for longer than the timeout.",
	                                 error_type) :
	                   NULL;
	if (!timeout_type || value_setup(module) < 0 || keys_setup(module) < 0 ||
	    sources_setup(module) < 0 || lease_setup(module) < 0 || transaction_setup(module) < 0 ||
	    stream_setup(module) < 0 || subscription_setup(module) < 0 || cache_setup(module) < 0 ||
	    PyModule_AddStringConstant(module, "version", terrace_version()) < 0) {
		Py_DECREF(module);
		return NULL;
	}
	return module;
}
