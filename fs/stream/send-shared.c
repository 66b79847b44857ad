/*
 * send-shared.c - which content was sent already, and where
 *
 * A table of fixed size, by location, in buckets of four of which the oldest entry goes first: 256 Ki entries, 1 GiB of
 * content that is remembered.  Losing an entry costs sending 4 KiB again, no more.
 */
#include <errno.h>

#include "fs/stream/send-private.h"

#define BUCKETS     (64u << 10)
#define BUCKET_SIZE 4u

struct shared {
	struct {
		uint64_t loc; /* 0: free */
		uint64_t chunk;
	} entries[BUCKETS][BUCKET_SIZE];
};

int shared_new(struct shared **ret_t)
{
	struct shared *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	*ret_t = t;
	return 0;
}

void shared_free(struct shared *t)
{
	free(t);
}

static size_t bucket_of(uint64_t loc)
{
	return (size_t)(loc * 0x9e3779b97f4a7c15ull >> 40) % BUCKETS;
}

void shared_add(struct shared *t, uint64_t loc, uint64_t chunk)
{
	const size_t b = bucket_of(loc);

	for (unsigned i = BUCKET_SIZE - 1; i > 0; i--)
		t->entries[b][i] = t->entries[b][i - 1];
	t->entries[b][0].loc = loc;
	t->entries[b][0].chunk = chunk;
}

bool shared_find(const struct shared *t, uint64_t loc, uint64_t *ret_chunk)
{
	const size_t b = bucket_of(loc);

	for (unsigned i = 0; i < BUCKET_SIZE; i++) {
		if (t->entries[b][i].loc != loc)
			continue;
		*ret_chunk = t->entries[b][i].chunk;
		return true;
	}
	return false;
}
