/*
 * Keys and values as bytes. The format is documented in docs/PYTHON.md, so that
 * other languages can read what Python wrote.
 */
#ifndef PYTHON_CODEC_H
#define PYTHON_CODEC_H

#include "common.h"

/* The first byte of a value; whole numbers of 64 bits are plain decimal text. */
enum {
	VALUE_BYTES = 'b',
	VALUE_STR = 's',
	VALUE_FLOAT = 'f',
	VALUE_BIG = 'x',
	VALUE_TRUE = 'T',
	VALUE_FALSE = 'F',
	VALUE_NONE = 'N',
	VALUE_TUPLE = '(',
	VALUE_JSON = 'j',
	VALUE_PICKLE = 'p',
};

/* The first byte of a key that is no text. */
enum {
	KEY_STR = 1, /* text that is empty, or begins with a control character */
	KEY_INT = 2,
	KEY_BYTES = 3,
	KEY_FLOAT = 4,
	KEY_OTHER = 5, /* then as a value */
	KEY_PLAIN = 32,
};

enum { NESTED_MAX = 200 };

/* Functions of Python, set by codec_configure(). */
extern PyObject *json_decode, *pickle_loads;

#endif
