/*
 * frame-read.c - see frame-read.h
 *
 * A frame is taken as what the map means only if the check of each entry that leads to it agrees with the
 * chunk's hash in the frame, as with every read.
 */
#include "store/frame-read.h"

#include <errno.h>

#include "base/log.h"
#include "store/store-priv.h"

int store_snapshot_entries(struct image *img, uint64_t first, unsigned n, uint64_t *ret_entries)
{
	ASSERT(image_is_snapshot(img));
	return image_locked(img) ? -ENOKEY : map_get(img->map, first, n, ret_entries);
}

static int loc_compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

struct packed_read {
	uint64_t locs[LEAF_CHUNKS]; /* ascending, without doubles */
	uint16_t checks[LEAF_CHUNKS];
	unsigned n;
	store_packed_fn *fn;
	void *arg;
	int result; /* of fn, or what is wrong with a frame */
};

static void packed_frame(void *arg, const struct frame_info *f, const uint8_t *payload)
{
	struct packed_read *p = arg;

	if (p->result)
		return;
	for (unsigned i = 0; i < f->n; i++) {
		const uint64_t loc = loc_make(f->segment, f->slots[i]);
		const uint64_t *at = bsearch(&loc, p->locs, p->n, sizeof(loc), loc_compare);
		if (!at || p->checks[at - p->locs] == hash_check(f->hashes[i]))
			continue;
		log_error("a map entry does not match chunk %llu:%u",
		        (unsigned long long)f->segment, f->slots[i]);
		p->result = -EIO;
		return;
	}
	p->result = p->fn(p->arg, f, payload);
}

/* The check is in the high bits, so sorting by location sorts it along. */
static void locs_fill(struct packed_read *p, const uint64_t *entries, unsigned n)
{
	uint64_t keys[LEAF_CHUNKS]; /* location, then check: 50 + 12 bits */

	for (unsigned i = 0; i < n; i++) {
		ASSERT(entry_state(entries[i]) == ENTRY_DATA);
		keys[i] = entry_loc(entries[i]) << 12 | entry_check(entries[i]);
	}
	qsort(keys, n, sizeof(keys[0]), loc_compare);
	for (unsigned i = 0; i < n; i++) {
		const uint64_t loc = keys[i] >> 12;
		if (p->n && p->locs[p->n - 1] == loc)
			continue;
		p->locs[p->n] = loc;
		p->checks[p->n++] = keys[i] & 0xfff;
	}
}

int store_snapshot_frames(
        struct image *img, const uint64_t *entries, unsigned n, store_packed_fn *fn, void *arg)
{
	struct packed_read p = {.fn = fn, .arg = arg};

	ASSERT(image_is_snapshot(img) && n <= LEAF_CHUNKS);
	if (image_locked(img))
		return -ENOKEY;
	locs_fill(&p, entries, n);
	const int r = segments_read_packed(img->store->segments, p.locs, p.n, packed_frame, &p);
	if (p.result)
		return p.result;
	return r == -ESTALE || r == -EUCLEAN ? -EIO : r;
}
