/*
 * dedupe.c - the dedupe index
 *
 * Three tables of the same kind (dedupe-table.h), which share the limit:
 *	window      13/16  all hashes, as they were inserted
 *	sample       2/16  one hash in 32; 8 bytes stand for 32 chunks, so it reaches five times as
 *	                   far back as the window
 *	neighbours   1/16  the hashes of segments that the sample pointed to
 * A lookup that misses the window asks the neighbours; if the hash is of the sampled kind, the
 * sample is asked as well, and a segment that it names is *listed*: its hash list, fetched through
 * list(), goes into the neighbours as a whole.  The duplicates that follow, the neighbours of
 * the first, then match exactly.  At the default limit of 256 MiB the neighbours hold the lists of
 * 1,024 segments; 64 MiB is the least for 256 lists, and at 1 MiB there are four.
 *
 * The lists form one table, not an LRU of separate arrays: it is asked for every new chunk, so it
 * must answer with one access and without a lock, and a table of words needs half the memory of
 * arrays with an index over them.  Being a FIFO, it needs help to keep what is in use: `recent`
 * remembers when a segment was listed, and a hit in a list that is past half its expected life
 * lists it again.  The same memory keeps a segment's 64 sampled hashes from listing it 64 times.
 *
 * Threads: everything here is atomic words; see dedupe-table.c.  Two threads may list one segment
 * at the same time, which costs a read.  list() is called with no lock held.
 */
#include "store/dedupe.h"

#include <errno.h>
#include <stdatomic.h>

#include "store/dedupe-file.h"
#include "store/dedupe-table.h"

#define LIMIT_MIN     (1ull << 20)
#define LIMIT_MAX     (HINT_BUCKETS_MAX * CACHELINE)
#define SAMPLE_MASK   31u
#define RECENT_WAYS   HINT_WAYS
#define SEGMENT_BITS  38
#define AGE_MASK      ((1ull << (64 - SEGMENT_BITS)) - 1)
#define AGE_UNIT_LOG2 8 /* ages count in 256 hashes, so that 26 bits last for 64 TiB of chunks */

struct dedupe {
	struct hint_table window, sample, neighbours;
	dedupe_list_fn *list; /* may be NULL */
	void *arg;
	uint64_t limit_bytes;
	/*
	 * When segments were listed: sets of words, age:26 | segment:38, newest first.  The age is
	 * what `listed` was, in units; a list is fresh for fresh_units.
	 */
	_Atomic uint64_t *recent;
	uint64_t n_recent_sets;
	uint64_t fresh_units;
	_Atomic uint64_t listed; /* hashes put into the neighbours so far */
	_Atomic uint64_t lookups, hits_window, hits_sample;
};

void dedupe_warm(struct dedupe *d, const _Atomic bool *stop)
{
	hints_warm(&d->window, stop);
}

static bool hash_sampled(struct hash128 hash)
{
	return (hash.lo & SAMPLE_MASK) == 0;
}

static void count(_Atomic uint64_t *n)
{
	atomic_fetch_add_explicit(n, 1, memory_order_relaxed);
}

/* --- segments listed of late --- */

static uint64_t age_now(struct dedupe *d)
{
	return atomic_load_explicit(&d->listed, memory_order_relaxed) >> AGE_UNIT_LOG2 & AGE_MASK;
}

static _Atomic uint64_t *recent_set(struct dedupe *d, uint64_t segment)
{
	const uint64_t h = segment * 0x9e3779b97f4a7c15ull >> 32;

	return &d->recent[(h * d->n_recent_sets >> 32) * RECENT_WAYS];
}

static uint64_t recent_segment(uint64_t word)
{
	return word & SEGMENT_ID_MAX;
}

static bool recent_is_fresh(struct dedupe *d, uint64_t segment)
{
	_Atomic uint64_t *set = recent_set(d, segment);

	for (unsigned i = 0; i < RECENT_WAYS; i++) {
		const uint64_t word = atomic_load_explicit(&set[i], memory_order_acquire);
		if (recent_segment(word) == segment)
			return ((age_now(d) - (word >> SEGMENT_BITS)) & AGE_MASK) < d->fresh_units;
	}
	return false;
}

/* Shifts like a bucket of hints; races lose a word, which costs another listing. */
static void recent_note(struct dedupe *d, uint64_t segment)
{
	_Atomic uint64_t *set = recent_set(d, segment);
	unsigned end = 0;

	while (end < RECENT_WAYS - 1 && recent_segment(atomic_load(&set[end])) != segment)
		end++;
	for (unsigned i = end; i > 0; i--)
		atomic_store_explicit(&set[i], atomic_load(&set[i - 1]), memory_order_release);
	atomic_store_explicit(&set[0], age_now(d) << SEGMENT_BITS | segment, memory_order_release);
}

/* --- hash lists --- */

static void list_insert(
        struct dedupe *d, uint64_t segment, const struct hash128 *hashes, unsigned n)
{
	unsigned inserted = 0;

	for (unsigned slot = 0; slot < n; slot++) {
		if (!hashes[slot].lo && !hashes[slot].hi)
			continue; /* a dead slot */
		hints_insert(&d->neighbours, hashes[slot], loc_make(segment, slot));
		inserted++;
	}
	atomic_fetch_add_explicit(&d->listed, inserted, memory_order_relaxed);
	recent_note(d, segment);
}

/* Sees to it that the segment's hashes are among the neighbours.  False: the segment is gone. */
static bool segment_list(struct dedupe *d, uint64_t segment)
{
	unsigned n = 0;

	if (!d->list || recent_is_fresh(d, segment))
		return true;
	CLEANUP(free_ptr) struct hash128 *hashes = malloc(SEGMENT_SLOTS * sizeof(*hashes));
	if (!hashes)
		return true; /* the sample's own hint is still good */
	const int r = d->list(d->arg, segment, hashes, &n);
	if (r < 0)
		return r != -ENOENT && r != -ESTALE;
	ASSERT(n <= SEGMENT_SLOTS);
	list_insert(d, segment, hashes, n);
	return true;
}

/* --- operations --- */

/* A hash of the sampled kind that the window does not have. */
static unsigned sample_lookup(
        struct dedupe *d, struct hash128 hash, uint64_t ret_locs[DEDUPE_CANDIDATES])
{
	uint64_t samples[DEDUPE_CANDIDATES];
	const unsigned n_samples = hints_find(&d->sample, hash, samples, 0, DEDUPE_CANDIDATES);

	for (unsigned i = 0; i < n_samples; i++)
		if (!segment_list(d, loc_segment(samples[i])))
			dedupe_remove(d, hash, samples[i]);
	const unsigned n = hints_find(&d->neighbours, hash, ret_locs, 0, DEDUPE_CANDIDATES);
	return hints_find(&d->sample, hash, ret_locs, n, DEDUPE_CANDIDATES);
}

void dedupe_prefetch(struct dedupe *d, struct hash128 hash)
{
	hints_prefetch(&d->window, hash);
}

unsigned dedupe_lookup(struct dedupe *d, struct hash128 hash, uint64_t ret_locs[DEDUPE_CANDIDATES])
{
	count(&d->lookups);
	hints_prefetch(&d->neighbours, hash);
	unsigned n = hints_find(&d->window, hash, ret_locs, 0, DEDUPE_CANDIDATES);
	if (n) {
		count(&d->hits_window);
		return n;
	}
	n = hash_sampled(hash) ? sample_lookup(d, hash, ret_locs)
	                       : hints_find(&d->neighbours, hash, ret_locs, 0, DEDUPE_CANDIDATES);
	if (n)
		count(&d->hits_sample);
	return n;
}

void dedupe_insert(struct dedupe *d, struct hash128 hash, uint64_t loc)
{
	ASSERT(hint_valid(loc) && loc == hint_loc(loc));
	hints_insert(&d->window, hash, loc);
	if (hash_sampled(hash))
		hints_insert(&d->sample, hash, loc);
}

void dedupe_remove(struct dedupe *d, struct hash128 hash, uint64_t loc)
{
	hints_remove(&d->window, hash, loc);
	hints_remove(&d->neighbours, hash, loc);
	if (hash_sampled(hash))
		hints_remove(&d->sample, hash, loc);
}

int dedupe_save(
        struct dedupe *d, struct io *io, const char *name, const uint8_t uuid[16], uint64_t txg)
{
	struct hint_table *const tables[INDEX_TABLES] = {&d->window, &d->sample};

	return index_file_save(tables, io, name, uuid, txg);
}

int dedupe_load(
        struct dedupe *d, struct io *io, const char *name, const uint8_t uuid[16], uint64_t txg)
{
	struct hint_table *const tables[INDEX_TABLES] = {&d->window, &d->sample};

	return index_file_load(tables, io, name, uuid, txg);
}

void dedupe_stats_get(struct dedupe *d, struct dedupe_stats *ret_stats)
{
	*ret_stats = (struct dedupe_stats){
	        .bytes = hints_resident_bytes(&d->window) + hints_resident_bytes(&d->sample) +
	                 hints_resident_bytes(&d->neighbours) + d->n_recent_sets * CACHELINE,
	        .limit_bytes = d->limit_bytes,
	        .entries = hints_count(&d->window) + hints_count(&d->sample),
	        .lookups = atomic_load(&d->lookups),
	        .hits_window = atomic_load(&d->hits_window),
	        .hits_sample = atomic_load(&d->hits_sample),
	};
}

static void dedupe_freep(struct dedupe **d)
{
	dedupe_free(*d);
}

int dedupe_create(uint64_t limit_bytes, dedupe_list_fn *list, void *arg, struct dedupe **ret_idx)
{
	CLEANUP(dedupe_freep) struct dedupe *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->list = list;
	d->arg = arg;
	d->limit_bytes = MIN(MAX(limit_bytes, LIMIT_MIN), LIMIT_MAX);
	const uint64_t share = d->limit_bytes / 16 / CACHELINE; /* buckets */
	int r = hints_init(&d->window, 13 * share);
	if (r == 0)
		r = hints_init(&d->sample, 2 * share);
	/* `recent` takes its memory from the neighbours' share: two words for each list. */
	d->n_recent_sets = DIV_UP(2 * share * HINT_WAYS / SEGMENT_SLOTS, RECENT_WAYS);
	if (r == 0)
		r = hints_init(&d->neighbours, share - d->n_recent_sets);
	if (r < 0)
		return r;
	d->recent = calloc(d->n_recent_sets * RECENT_WAYS, sizeof(*d->recent));
	if (!d->recent)
		return -ENOMEM;
	d->fresh_units = MAX(share * HINT_WAYS / 2 >> AGE_UNIT_LOG2, 1);
	*ret_idx = STEAL(d);
	return 0;
}

void dedupe_free(struct dedupe *d)
{
	if (!d)
		return;
	hints_release(&d->window);
	hints_release(&d->sample);
	hints_release(&d->neighbours);
	free((void *)d->recent);
	free(d);
}
