/*
 * known.c - see known.h
 *
 * Why what is shared is there, and stays.
 * - Content at a location never changes, and locations are not used twice.  So what was read there is
 *   what is there, if it is there at all; that is asked inside the gate.
 * - Only committed slots count.  Those of a group that is being committed may be given up when that
 *   fails, while a reference made now would be of the next group.
 * - The collector.  It turns its barrier on with the gate closed and then commits a group: a
 *   reference made before is in the maps that it walks, one made after is marked.  From when it
 *   sweeps, gc_may_share() refuses what is not marked; who asked before that was inside the gate,
 *   and the commit that follows takes his reference along (gc.c, step 4).
 *
 * Of a segment that was rewritten, whether a slot was left out is in its table, which is read if need
 * be; finding a chunk has just done that, so inside the gate it is in RAM but for the rarest case.
 */
#include "store/known.h"

#include <errno.h>

#include "store/store-priv.h"

int store_hasher_get(struct store *s, uint32_t domain, struct chunk_hasher *ret_hasher)
{
	const struct crypto_domain *d = keyring_get(s->keyring, domain);

	if (!d)
		return -ENOKEY;
	*ret_hasher = d->hasher;
	keyring_put(s->keyring, d);
	return 0;
}

/* It is in a committed part of a segment of this domain, and was not left out since. */
static bool is_committed(struct store *s, uint64_t loc, uint32_t domain)
{
	const uint64_t segment = loc_segment(loc);
	struct segment_row row;

	return segments_list(s->segments, segment - 1, &row, 1) == 1 && row.id == segment &&
	       loc_slot(loc) < row.slots && segments_present(s->segments, loc, domain);
}

struct found {
	struct store *store;
	uint64_t loc;
	uint8_t *data;
	bool seen;
};

/* Its neighbours are likely to be asked for next. */
static void found_frame(
        void *arg, uint64_t loc, unsigned n, const uint8_t *chunks, const struct hash128 *hashes)
{
	struct found *f = arg;

	(void)hashes;
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *chunk = chunks + (size_t)i * CHUNK_SIZE;
		cache_insert(f->store->cache, loc + i, chunk, NULL);
		if (loc + i != f->loc)
			continue;
		memcpy(f->data, chunk, CHUNK_SIZE);
		f->seen = true;
	}
}

/* Damage is what the segments have logged; here it is a chunk that is not known. */
static int chunk_read(struct store *s, uint64_t loc, uint8_t *data)
{
	struct found f = {s, loc, data, false};
	struct cache_ref ref;

	if (cache_get(s->cache, loc, &ref)) {
		memcpy(data, ref.data, CHUNK_SIZE);
		cache_release(s->cache, &ref);
		return 0;
	}
	const int r = segments_read(s->segments, &loc, 1, found_frame, &f);
	if (r == -ENOKEY || r == -ENOMEM)
		return r;
	return f.seen ? 0 : -ENOENT;
}

/*
 * Who asks has the XXH3-128 only; how it is encrypted in a domain of encrypted images (keyring.h) is not told to
 * anybody.
 */
static int hash_take(struct store *s, uint32_t domain, struct hash128 *hash)
{
	const struct crypto_domain *d = keyring_get(s->keyring, domain);
	const int r = d ? domain_hashes(d, hash, 1) : -ENOKEY;

	keyring_put(s->keyring, d);
	return r;
}

int store_known_find(struct store *s, uint32_t domain, struct hash128 hash, known_same_fn *same,
        void *arg, uint64_t *ret_entry, void *ret_data)
{
	uint64_t locs[DEDUPE_CANDIDATES];
	int r = hash_take(s, domain, &hash);

	if (r < 0)
		return r;
	const unsigned n = dedupe_lookup(s->dedupe, hash, locs);
	for (unsigned i = 0; i < n; i++) {
		if (!is_committed(s, locs[i], domain))
			continue;
		r = chunk_read(s, locs[i], ret_data);
		if (r < 0 && r != -ENOENT)
			return r;
		if (r < 0 || !same(arg, ret_data))
			continue;
		*ret_entry = entry_data(locs[i], hash_check(hash));
		return 0;
	}
	return -ENOENT;
}

int store_known_share(struct image *img, uint64_t off, uint64_t entry)
{
	struct store *s = img->store;
	const uint32_t domain = image_policy(img).domain;
	const int r = image_refused(img);

	ASSERT(off % CHUNK_SIZE == 0 && off < IMAGE_SIZE_MAX);
	if (r < 0)
		return r;
	if (!gc_may_share(s, entry_loc(entry)) || !is_committed(s, entry_loc(entry), domain))
		return -ESTALE;
	gc_mark_entry(s, entry);
	atomic_fetch_add_explicit(
	        &s->groups[atomic_load(&s->txg_open) & 1].bytes, 1, memory_order_relaxed);
	return overlay_set(img, off / CHUNK_SIZE, entry);
}
