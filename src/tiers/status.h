/* What every tier and all above return when memory runs out. */
#ifndef TIERS_STATUS_H
#define TIERS_STATUS_H

#include "util/message.h"

#include <terrace/base.h>

/* TERRACE_ENOMEM, with the message that says for what. */
static inline int no_memory(const char *what)
{
	terrace__message_set("out of memory for %s", what);
	return TERRACE_ENOMEM;
}

#endif
