#include "core/order.h"

#include "util/util.h"

#include <stdlib.h>

enum {
	NODES = 1 << 16,
	WAYS = 4,
	NEXT = 3,
	COUNT_MAX = 255,
	KEY_BYTES = 4 << 20, /* of all keys together */
};

struct node {
	uint64_t hash; /* 0: the place is free */
	uint8_t *key;
	uint32_t key_size;
	uint32_t asked; /* when it was last, on `clock` */
	uint64_t next[NEXT];
	uint8_t counts[NEXT];
};

struct order {
	uint32_t clock;
	size_t key_bytes;
	struct node nodes[NODES];
};

struct order *terrace__order_new(void)
{
	return calloc(1, sizeof(struct order));
}

void terrace__order_free(struct order *order)
{
	for (size_t i = 0; order && i < NODES; i++)
		free(order->nodes[i].key);
	free(order);
}

static struct node *places(struct order *order, uint64_t hash)
{
	return &order->nodes[(hash >> 20) % (NODES / WAYS) * WAYS];
}

static struct node *find(struct order *order, uint64_t hash)
{
	struct node *place = places(order, hash);

	for (unsigned i = 0; i < WAYS; i++) {
		if (place[i].hash == hash)
			return &place[i];
	}
	return NULL;
}

/* A place for it: a free one, or that of the one that was not asked for longest. */
static void take_place(struct order *order, uint64_t hash, terrace_slice key)
{
	struct node *place = places(order, hash), *oldest = place;
	uint8_t *copy;

	for (unsigned i = 0; i < WAYS && oldest->hash; i++) {
		if (!place[i].hash || order->clock - place[i].asked > order->clock - oldest->asked)
			oldest = &place[i];
	}
	if (key.size > ORDER_KEY_MAX || order->key_bytes - oldest->key_size + key.size > KEY_BYTES)
		return;
	copy = malloc(key.size);
	if (!copy)
		return;
	memcpy(copy, key.data, key.size);
	order->key_bytes += key.size - oldest->key_size;
	free(oldest->key);
	*oldest = (struct node){
		.hash = hash,
		.key = copy,
		.key_size = (uint32_t)key.size,
		.asked = order->clock,
	};
}

static void count_next(struct node *node, uint64_t next)
{
	unsigned weakest = 0;

	for (unsigned i = 0; i < NEXT; i++) {
		if (node->counts[i] && node->next[i] == next) {
			if (++node->counts[i] < COUNT_MAX)
				return;
			/* What was long ago counts for less. */
			for (unsigned k = 0; k < NEXT; k++)
				node->counts[k] /= 2;
			return;
		}
		if (node->counts[i] < node->counts[weakest])
			weakest = i;
	}
	if (node->counts[weakest]) {
		node->counts[weakest]--;
		return;
	}
	node->next[weakest] = next;
	node->counts[weakest] = 1;
}

void terrace__order_learn(struct order *order, uint64_t before, uint64_t hash, terrace_slice key)
{
	struct node *node = find(order, hash);

	order->clock++;
	if (node)
		node->asked = order->clock;
	else
		take_place(order, hash, key);
	node = before && before != hash ? find(order, before) : NULL;
	if (node)
		count_next(node, hash);
}

bool terrace__order_next(struct order *order, uint64_t hash, unsigned least, uint64_t *ret_hash,
                         terrace_slice *ret_key)
{
	struct node *node = find(order, hash), *next;
	unsigned best = 0, all = 0;

	if (!node)
		return false;
	for (unsigned i = 0; i < NEXT; i++) {
		all += node->counts[i];
		if (node->counts[i] > node->counts[best])
			best = i;
	}
	if (node->counts[best] < least || 2u * node->counts[best] < all)
		return false;
	next = find(order, node->next[best]);
	if (!next)
		return false;
	*ret_hash = next->hash;
	*ret_key = terrace_bytes(next->key, next->key_size);
	return true;
}
