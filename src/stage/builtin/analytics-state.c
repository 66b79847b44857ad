/*
 * analytics-state.c - the numbers as they are kept with the image
 *
 *	u32 magic, u32 version
 *	u64 since_wall_ns, u64 row_bytes
 *	u32 rows, u32 bytes of the tally, u32 bytes of the sketches, u32 bytes of shards
 *	u64 totals[rows][read, write]
 *	tally: the u64s of struct tally_sum, in its order
 *	sketches: 2 x 4096 registers
 *	shards: see shards.c
 *
 * It is the daemon's own writing, in a transactional store, so it has no checksum; but a number that
 * is out of its range is refused, for all of it lies in sums and indices later.
 */
#include "stage/builtin/analytics.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

#define STATE_MAGIC   0x6e614157u /* "WAan" */
#define STATE_VERSION 1u
#define STATE_HEADER  40u
#define TALLY_NUMBERS (sizeof(struct tally_sum) / sizeof(uint64_t))
#define SKETCH_BYTES  (2 * WORKSET_REGISTERS)
#define COUNT_MAX     (1ull << 56) /* sums of these stay far from the end of 64 bits */
#define ROWS_MAX      1024u

static uint8_t *put_numbers(uint8_t *p, const uint64_t *numbers, size_t n)
{
	for (size_t i = 0; i < n; i++)
		put_u64(p + 8 * i, numbers[i]);
	return p + 8 * n;
}

static uint8_t *put_totals(uint8_t *p, const struct heat *h)
{
	for (uint32_t row = 0; row < heat_rows(h); row++)
		for (unsigned k = 0; k < 2; k++, p += 8)
			put_u64(p, heat_total(h, row, k));
	return p;
}

int analytics_encode(struct analytics_numbers *n, uint8_t **ret_buf, size_t *ret_len)
{
	const uint32_t rows = heat_rows(n->heat);
	uint8_t *buf = malloc(STATE_HEADER + rows * 16 + sizeof(struct tally_sum) + SKETCH_BYTES +
	                      shards_save_max(n->shards));
	struct tally_sum sum;

	if (!buf)
		return -ENOMEM;
	tally_sum(&n->tally, &sum);
	put_u32(buf, STATE_MAGIC);
	put_u32(buf + 4, STATE_VERSION);
	put_u64(buf + 8, n->since_wall_ns);
	put_u64(buf + 16, heat_row_bytes(n->heat));
	put_u32(buf + 24, rows);
	put_u32(buf + 28, sizeof(struct tally_sum));
	put_u32(buf + 32, SKETCH_BYTES);
	uint8_t *p = put_totals(buf + STATE_HEADER, n->heat);
	p = put_numbers(p, (const uint64_t *)&sum, TALLY_NUMBERS);
	workset_save(&n->workset, p);
	p += SKETCH_BYTES;
	const size_t shards_len = shards_save(n->shards, p);
	put_u32(buf + 36, (uint32_t)shards_len);
	*ret_buf = buf;
	*ret_len = (size_t)(p - buf) + shards_len;
	return 0;
}

static int get_tally(struct tally *t, const uint8_t *p)
{
	CLEANUP(free_ptr) uint64_t *numbers = malloc(sizeof(struct tally_sum));

	if (!numbers)
		return -ENOMEM;
	for (size_t i = 0; i < TALLY_NUMBERS; i++) {
		numbers[i] = get_u64(p + 8 * i);
		if (numbers[i] > COUNT_MAX)
			return -EBADMSG;
	}
	tally_restore(t, (const struct tally_sum *)numbers);
	return 0;
}

static int get_totals(struct heat *h, const uint8_t *p, uint32_t rows, uint64_t row_bytes)
{
	for (uint32_t row = 0; row < rows; row++)
		for (unsigned k = 0; k < 2; k++, p += 8) {
			const uint64_t n = get_u64(p);
			if (n > COUNT_MAX)
				return -EBADMSG;
			if (n)
				heat_add_total(h, row * row_bytes, k, n);
		}
	return 0;
}

int analytics_decode(struct analytics_numbers *n, const uint8_t *buf, size_t len)
{
	if (len < STATE_HEADER || get_u32(buf) != STATE_MAGIC || get_u32(buf + 4) != STATE_VERSION)
		return -EBADMSG;
	const uint64_t row_bytes = get_u64(buf + 16);
	const uint32_t rows = get_u32(buf + 24), shards_len = get_u32(buf + 36);
	const size_t fixed =
	        STATE_HEADER + (size_t)rows * 16 + sizeof(struct tally_sum) + SKETCH_BYTES;

	if (rows == 0 || rows > ROWS_MAX || row_bytes == 0 || row_bytes > 1ull << 44 ||
	        get_u32(buf + 28) != sizeof(struct tally_sum) ||
	        get_u32(buf + 32) != SKETCH_BYTES || len != fixed + shards_len)
		return -EBADMSG;
	const uint8_t *tally = buf + STATE_HEADER + (size_t)rows * 16;
	const uint8_t *sketches = tally + sizeof(struct tally_sum);

	int r = get_tally(&n->tally, tally);
	if (r == 0)
		r = get_totals(n->heat, buf + STATE_HEADER, rows, row_bytes);
	if (r == 0)
		r = workset_load(&n->workset, sketches);
	if (r == 0)
		r = shards_load(n->shards, sketches + SKETCH_BYTES, shards_len);
	if (r == 0)
		n->since_wall_ns = get_u64(buf + 8);
	return r;
}
