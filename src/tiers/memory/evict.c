#include "tiers/memory/evict.h"

#include "util/util.h"

#include <string.h>

static const struct evict_ops *const policies[] = {
	&terrace__evict_hits,
	&terrace__evict_cost,
	&terrace__evict_bytes,
};

const struct evict_ops *terrace__evict_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(policies); i++) {
		if (strcmp(policies[i]->name, name) == 0)
			return policies[i];
	}
	return NULL;
}
