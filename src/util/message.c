#include "util/message.h"

#include <stdio.h>
#include <string.h>

static _Thread_local char message[512];

const char *terrace__message(void)
{
	return message;
}

void terrace__message_vset(const char *format, va_list args)
{
	/* Formatted apart, because an argument may be the message itself. */
	char text[sizeof message];

	vsnprintf(text, sizeof text, format, args);
	for (char *c = text; *c; c++) {
		if (*c == '\n' || *c == '\r')
			*c = ' ';
	}
	memcpy(message, text, sizeof message);
}

void terrace__message_set(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	terrace__message_vset(format, args);
	va_end(args);
}
