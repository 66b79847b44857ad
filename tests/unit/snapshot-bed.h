/*
 * snapshot-bed.h - short forms for the tests of the engine's snapshots
 */
#pragma once

#include "store-bed.h"
#include "store/snapshot.h"

#define IMG 7u

static inline int snapshot(struct bed *b, uint64_t id, uint64_t image)
{
	const struct snapshot_ref ref = {.id = id, .image = image};

	return store_snapshot_create(b->store, &ref, 1, NULL, NULL);
}

static inline int rollback(struct bed *b, uint64_t image, uint64_t id)
{
	const struct rollback_ref ref = {.image = image, .id = id};

	return store_snapshot_rollback(b->store, &ref, 1, NULL, NULL);
}

static inline int clone_of(struct bed *b, uint64_t source, uint64_t image)
{
	const struct clone_ref ref = {.source = source, .image = image};

	return store_clone(b->store, &ref, 1, NULL, NULL);
}

static inline int delete (struct bed *b, uint64_t id)
{
	return store_snapshot_delete(b->store, &id, 1, NULL, NULL);
}

static inline void expect(struct bed *b, uint64_t image, uint64_t off, size_t len, uint64_t seed)
{
	struct image *img = bed_image(b, image);

	bed_expect(img, off, len, seed);
	store_image_close(img);
}

static inline void write_to(struct bed *b, uint64_t image, uint64_t off, size_t len, uint64_t seed)
{
	struct image *img = bed_image(b, image);

	bed_write(img, off, len, seed);
	store_image_close(img);
}

static inline void gc(struct bed *b, struct gc_report *ret_report)
{
	assert_int_equal(store_gc(b->store, true, NULL, NULL, ret_report), 0);
}
