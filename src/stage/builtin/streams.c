/*
 * streams.c - the table of ends
 *
 * Direct mapped by a hash of the end: one lookup finds the predecessor among hundreds of streams,
 * where a list of streams would be searched by each random request.  What a new end displaces is a
 * run that nobody continued lately; it is reported as ended.  The table is small on purpose: who is
 * remembered for long is met by chance.
 */
#include "stage/builtin/streams.h"

#define AHEAD_MAX 2u /* requests that may be missing in between */

static unsigned slot_of(uint64_t end)
{
	return (unsigned)(end * 0x9e3779b97f4a7c15ull >> 48) % STREAMS_SLOTS;
}

static uint64_t get(const _Atomic uint64_t *p)
{
	return atomic_load_explicit(p, memory_order_relaxed);
}

static void set(_Atomic uint64_t *p, uint64_t v)
{
	atomic_store_explicit(p, v, memory_order_relaxed);
}

/* Takes the run that ends exactly there out of the table; its bytes, or 0. */
static uint64_t run_take(struct streams *s, uint64_t end, uint64_t *ret_n)
{
	const unsigned i = slot_of(end);

	if (end < 2 || get(&s->slots[i].end) != end)
		return 0;
	set(&s->slots[i].end, 0);
	*ret_n = get(&s->slots[i].n);
	return get(&s->slots[i].run);
}

/* Requests of the run that ends a request or two before; 0: none. */
static uint64_t run_ahead(const struct streams *s, uint64_t off, uint64_t len, bool is_write)
{
	for (unsigned n = 1; n <= AHEAD_MAX && off > n * len; n++) {
		const uint64_t end = (off - n * len) << 1 | is_write;
		if (get(&s->slots[slot_of(end)].end) == end)
			return get(&s->slots[slot_of(end)].n);
	}
	return 0;
}

struct streams_note streams_note(struct streams *s, uint64_t off, uint64_t len, bool is_write)
{
	struct streams_note note = {0};
	uint64_t n = 0;
	const uint64_t run = run_take(s, off << 1 | is_write, &n);
	const uint64_t end = (off + len) << 1 | is_write;
	const unsigned i = slot_of(end);
	const uint64_t old = get(&s->slots[i].end);

	if (!run)
		n = run_ahead(s, off, len, is_write);
	n++;
	/* The third makes the two before it sequential, too; one that overtook leaves that to the
	 * one that it overtook. */
	note.joined = run && n == STREAMS_RUN ? STREAMS_RUN : n >= STREAMS_RUN;
	if (old) {
		note.ended = get(&s->slots[i].run);
		note.ended_is_write = old & 1;
	}
	set(&s->slots[i].n, n);
	set(&s->slots[i].run, run + len);
	set(&s->slots[i].end, end);
	return note;
}

void streams_each(
        const struct streams *s, void (*fn)(void *arg, uint64_t run, bool is_write), void *arg)
{
	for (unsigned i = 0; i < STREAMS_SLOTS; i++) {
		const uint64_t end = get(&s->slots[i].end), run = get(&s->slots[i].run);
		if (end && run)
			fn(arg, run, end & 1);
	}
}
