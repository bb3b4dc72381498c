/* The thread's last message for people: one line, 512 bytes at most. */
#ifndef UTIL_MESSAGE_H
#define UTIL_MESSAGE_H

#include <stdarg.h>

const char *terrace__message(void);
void terrace__message_set(const char *format, ...) __attribute__((format(printf, 1, 2)));
void terrace__message_vset(const char *format, va_list args) __attribute__((format(printf, 1, 0)));

#endif
