/*
 * walcheck.c - tells a WAL that a crash cut short from one that is damaged
 *
 * SQLite's recovery takes frames while their checksums chain and calls the first bad one the end:
 * right after a power cut, but silent loss of committed groups when a frame in the middle has
 * rotted. So the file is read once, at open, with SQLite's own rules
 * (https://sqlite.org/walformat.html).
 *
 * Each frame's checksum continues from the one stored in the frame before, so frames behind a bad
 * one can still be verified, from the stored value.  A transaction's frames are synced before the
 * next transaction writes any, by whoever finds them if not by whoever wrote them; failed ones and those of
 * a transaction cut off are scrubbed (dbvfs.c): a crash damages frames of
 * the last transaction only, and at most one commit frame stands at or behind the first bad frame.
 * Two mean that the first of them had been synced: damage.  (What cannot be told apart, damage
 * within the very last transaction, is treated as the crash it looks like.)
 *
 * The header is synced before any frame is written under it, and written anew only when everything
 * has been copied to the database.  So a bad header is harmless exactly if the last commit frame's
 * page is in the database as it is in the WAL.  A header of 32 zeros before something else is the
 * work of dbvfs_scrub(), or of a wipe that was cut off (dbvfs.c).
 *
 * Owns nothing; runs on the opening thread.
 */
#include "meta/walcheck.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "meta/dbvfs-private.h"

#define WAL_MAGIC      0x377f0682u
#define WAL_VERSION    3007000u
#define WAL_BATCH      32u /* frames a read */
#define WAL_SALTS_AT   16u
#define WAL_SALTS_LEN  8u
#define FRAME_SALTS_AT 8u
#define SECTOR_LEN     512u

struct sums {
	uint32_t a, b;
};

struct scan {
	struct io_file *db, *wal;
	uint8_t salts[WAL_SALTS_LEN];
	bool big_endian; /* words of the checksum */
	bool header_good;
	struct sums sums;
	bool broken;        /* a bad frame was seen */
	uint64_t first_bad; /* its number, from 1 */
	unsigned commits;   /* commit frames at or behind it */
	uint64_t frames;
	bool have_last;
	uint32_t last_page; /* of the last commit frame that chains */
	uint8_t last[DBVFS_PAGE_SIZE];
};

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static struct sums sums_of(const uint8_t *p)
{
	return (struct sums){be32(p), be32(p + 4)};
}

static struct sums sums_add(struct sums s, bool big_endian, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		s.a += (big_endian ? be32(p + i) : get_u32(p + i)) + s.b;
		s.b += (big_endian ? be32(p + i + 4) : get_u32(p + i + 4)) + s.a;
	}
	return s;
}

static bool sums_equal(struct sums x, struct sums y)
{
	return x.a == y.a && x.b == y.b;
}

static bool header_good(struct scan *s, const uint8_t h[WAL_HEADER_LEN])
{
	if ((be32(h) & ~1u) != WAL_MAGIC || be32(h + 4) != WAL_VERSION ||
	        be32(h + 8) != DBVFS_PAGE_SIZE)
		return false;
	s->sums = sums_add((struct sums){0, 0}, be32(h) & 1, h, 24);
	return sums_equal(s->sums, sums_of(h + 24));
}

/* Commit frames carry the size of the database. */
static bool is_commit(const struct scan *s, const uint8_t *f)
{
	return be32(f + 4) != 0 && !memcmp(f + FRAME_SALTS_AT, s->salts, WAL_SALTS_LEN);
}

static void scan_frame(struct scan *s, const uint8_t *f)
{
	const struct sums stored = sums_of(f + 16);
	struct sums sums = sums_add(s->sums, s->big_endian, f, 8);

	s->frames++;
	sums = sums_add(sums, s->big_endian, f + WAL_FRAME_HEADER_LEN, DBVFS_PAGE_SIZE);
	const bool good = be32(f) != 0 && sums_equal(sums, stored) &&
	                  !memcmp(f + FRAME_SALTS_AT, s->salts, WAL_SALTS_LEN);
	s->sums = stored;
	const bool first_bad = !good && !s->broken;
	if (first_bad) {
		s->broken = true;
		s->first_bad = s->frames;
	}
	if (s->broken && (good || first_bad) && is_commit(s, f))
		s->commits++;
	/* Behind a bad header the first frame has no seed to verify it with. */
	if ((good || (s->frames == 1 && !s->header_good)) && is_commit(s, f)) {
		s->have_last = true;
		s->last_page = be32(f);
		memcpy(s->last, f + WAL_FRAME_HEADER_LEN, DBVFS_PAGE_SIZE);
	}
}

static int scan_frames(struct scan *s)
{
	CLEANUP(free_ptr) uint8_t *buf = malloc((size_t)WAL_BATCH * WAL_FRAME_LEN);
	uint64_t off = WAL_HEADER_LEN;
	size_t n = 0;

	if (!buf)
		return -ENOMEM;
	do {
		const int r = io_pread(s->wal, buf, (size_t)WAL_BATCH * WAL_FRAME_LEN, off, &n);
		if (r < 0)
			return r;
		if (off == WAL_HEADER_LEN && n >= WAL_FRAME_LEN && !s->header_good)
			memcpy(s->salts, buf + FRAME_SALTS_AT, WAL_SALTS_LEN);
		for (size_t at = 0; at + WAL_FRAME_LEN <= n; at += WAL_FRAME_LEN)
			scan_frame(s, buf + at);
		off += n;
	} while (n == (size_t)WAL_BATCH * WAL_FRAME_LEN);
	return 0;
}

/* Behind a bad header: is what the WAL holds in the database already? */
static int check_copied(struct scan *s, struct errmsg *em)
{
	uint8_t page[DBVFS_PAGE_SIZE];
	size_t n = 0;

	if (!s->have_last)
		return 0;
	const int r = io_pread(
	        s->db, page, sizeof(page), (uint64_t)(s->last_page - 1) * DBVFS_PAGE_SIZE, &n);
	if (r < 0)
		return r;
	if (n == sizeof(page) && !memcmp(page, s->last, DBVFS_PAGE_SIZE - DBVFS_RESERVED))
		return 0;
	return errmsg_set(em, -EUCLEAN,
	        "'meta.db-wal' is damaged: its header is bad, and %llu frames behind it are not in "
	        "'meta.db'",
	        (unsigned long long)s->frames);
}

static bool is_zero(const uint8_t *p, size_t len)
{
	while (len > 0 && p[len - 1] == 0)
		len--;
	return len == 0;
}

int wal_check(struct io_file *db, struct io_file *wal, struct errmsg *em)
{
	uint8_t h[SECTOR_LEN];
	size_t n = 0;
	CLEANUP(free_ptr) struct scan *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->db = db;
	s->wal = wal;
	int r = io_pread(wal, h, sizeof(h), 0, &n);
	if (r < 0 || n < WAL_HEADER_LEN)
		return r;
	if (is_zero(h, WAL_HEADER_LEN) && !is_zero(h, n))
		return 0;
	s->header_good = header_good(s, h);
	s->big_endian = s->header_good ? be32(h) & 1 : __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;
	if (s->header_good)
		memcpy(s->salts, h + WAL_SALTS_AT, WAL_SALTS_LEN);
	r = scan_frames(s);
	if (r < 0)
		return r;
	if (!s->header_good)
		return check_copied(s, em);
	if (s->commits < 2)
		return 0;
	return errmsg_set(em, -EUCLEAN,
	        "'meta.db-wal' is damaged at frame %llu, and committed transactions follow it",
	        (unsigned long long)s->first_bad);
}
