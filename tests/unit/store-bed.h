/*
 * store-bed.h - a store on a simulated disk and a metadata store in memory, for the engine's tests
 *
 * Both lose power together: bed_crash().  Hooks: what bed.rows_of says is appended when rows of an
 * image are collected; rows replayed at recovery are gathered in bed.replayed.
 */
#pragma once

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "fake-meta.h"
#include "sim/iosim.h"
#include "store/store-priv.h"

#define BED_LOG_BYTES (32u << 20)
#define MIB           (1ull << 20)

struct bed {
	struct iosim *sim;
	struct fake_meta *meta;
	struct store *store;
	struct store_config cfg;
	uint64_t rows_of; /* collecting rows of this image appends "rowsN" with its number's last
	                     digit */
	char replayed[256];
	struct image_policy policy; /* of images below BED_SEALED; but for the domain, of all */
};

static inline void bed_collect(void *arg, uint64_t image)
{
	struct bed *b = arg;
	char row[6] = "rows0";

	if (!b->rows_of || image != b->rows_of)
		return;
	row[4] = (char)('0' + image % 10);
	assert_int_equal(store_rows_append(b->store, row, 5), 0);
}

static inline int bed_replay(void *arg, const void *rows, size_t len)
{
	struct bed *b = arg;

	strncat(b->replayed, rows, MIN(len, sizeof(b->replayed) - 1 - strlen(b->replayed)));
	return 0;
}

/* Images from BED_SEALED on are sealed, under domain image / BED_SEALED. */
#define BED_SEALED 1000u

static inline int bed_policy(void *arg, uint64_t image, struct image_policy *ret_policy)
{
	*ret_policy = ((struct bed *)arg)->policy;
	if (image >= BED_SEALED)
		ret_policy->domain = (uint32_t)(image / BED_SEALED);
	return 0;
}

static inline void bed_opened(void *arg, struct store *s)
{
	((struct bed *)arg)->store = s;
}

static inline int bed_try_open(struct bed *b)
{
	struct errmsg em = {{0}};

	b->cfg.io = iosim_io(b->sim);
	b->cfg.meta = fake_meta_port(b->meta);
	b->cfg.hooks = (struct store_hooks){b, bed_collect, NULL, bed_replay, bed_policy, NULL};
	b->cfg.opened = bed_opened;
	const int r = store_open(&b->cfg, &b->store, &em);
	if (r < 0)
		b->store = NULL; /* bed_opened may have set it */
	return r;
}

static inline void bed_open(struct bed *b)
{
	assert_int_equal(bed_try_open(b), 0);
}

static inline void bed_make(struct bed *b)
{
	struct store_state state;
	struct errmsg em = {{0}};

	log_set_level((enum log_level) - 1);
	*b = (struct bed){.cfg = {.overlay_bytes = 32 * MIB,
	                          .cache_bytes = 4 * MIB,
	                          .index_bytes = MIB,
	                          .map_bytes = 256 << 10,
	                          .threads = 1,
	                          .reserve_bytes = MIB,
	                          .manual = true}};
	iosim_create(1, &b->sim);
	b->meta = fake_meta_create();
	struct meta *m = fake_meta_port(b->meta);
	assert_int_equal(m->ops->state_get(m, &state), 0);
	assert_int_equal(store_create(iosim_io(b->sim), BED_LOG_BYTES, state.uuid, &em), 0);
	iosim_sync_all(b->sim);
}

/* The power goes; what is open is dropped. */
static inline void bed_crash(struct bed *b)
{
	iosim_power_off(b->sim);
	store_abandon(b->store);
	b->store = NULL;
	iosim_crash(b->sim, IOSIM_LOSE, 1);
	iosim_faults_clear(b->sim);
	fake_meta_crash(b->meta);
}

static inline void bed_free(struct bed *b)
{
	store_abandon(b->store);
	fake_meta_free(b->meta);
	iosim_free(b->sim);
}

static inline struct image *bed_image(struct bed *b, uint64_t id)
{
	struct image *img;

	assert_int_equal(store_image_open(b->store, id, &img), 0);
	return img;
}

/* Bytes that do not compress, the same for the same seed. */
static inline void bed_bytes(uint64_t seed, uint8_t *buf, size_t len)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;

	for (size_t i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		buf[i] = (uint8_t)(x >> 32);
	}
}

/* Writes content number `seed` (see bed_bytes). */
static inline void bed_write(struct image *img, uint64_t off, size_t len, uint64_t seed)
{
	uint8_t *buf = malloc(len);

	bed_bytes(seed, buf, len);
	store_enter(img->store);
	const int r = store_write(img, off, buf, len);
	store_leave(img->store);
	free(buf);
	assert_int_equal(r, 0);
}

static inline void bed_punch(struct image *img, uint64_t off, uint64_t len, bool zero)
{
	store_enter(img->store);
	const int r = store_punch(img, off, len, zero);
	store_leave(img->store);
	assert_int_equal(r, 0);
}

/* The range holds content number `seed`, from its start; 0: zeros. */
static inline void bed_expect(struct image *img, uint64_t off, size_t len, uint64_t seed)
{
	uint8_t *want = calloc(1, len), *got = malloc(len);

	if (seed)
		bed_bytes(seed, want, len);
	assert_int_equal(store_read(img, off, got, len), 0);
	const int different = memcmp(want, got, len);
	free(want);
	free(got);
	assert_int_equal(different, 0);
}
