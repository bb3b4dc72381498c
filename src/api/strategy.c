/* What programs say of keys that go together. */
#include "api/api.h"

#include "core/ahead.h"

int terrace_next_add(terrace_next *next, terrace_slice key)
{
	int rc = terrace__check_key(key);

	if (rc != TERRACE_OK)
		return rc;
	if (next->count == NEXT_KEYS || next->keys.size + key.size > NEXT_BYTES)
		return terrace_fail(TERRACE_EFULL,
		                    "no more than %d keys go with another one, or %d KiB",
		                    NEXT_KEYS, NEXT_BYTES >> 10);
	terrace__buf_sized(&next->keys, key.data, (uint32_t)key.size);
	next->count++;
	return TERRACE_OK;
}
