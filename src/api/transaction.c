#include "api/api.h"

static bool has_one(terrace *store)
{
	return store && !store->disabled && terrace__transaction_mine(store);
}

int terrace_begin(terrace *store, int64_t wait_ms)
{
	int rc = store ? terrace__check_store(store) : TERRACE_OK;

	if (rc != TERRACE_OK || !store || store->disabled)
		return rc;
	if (store->read_only)
		return terrace__check_writable(store);
	if (wait_ms < 0)
		return terrace_fail(TERRACE_EINVAL, "wait_ms is negative");
	if (has_one(store))
		return terrace_fail(TERRACE_EINVAL, "this thread has a transaction open already");
	return terrace__begin(store, wait_ms ? wait_ms : store->wait_ms);
}

int terrace_commit(terrace *store)
{
	int rc = store ? terrace__check_store(store) : TERRACE_OK;

	if (rc != TERRACE_OK || !store || store->disabled)
		return rc;
	if (!has_one(store))
		return terrace_fail(TERRACE_EINVAL, "this thread has no transaction open");
	return terrace__commit(store);
}

void terrace_rollback(terrace *store)
{
	if (store && terrace__check_store(store) == TERRACE_OK && has_one(store))
		terrace__rollback(store);
}
