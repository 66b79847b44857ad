/*
 * check-log.c - can the intent log be replayed, and is the saved dedupe index what it says
 *
 * The log is read as recovery would read it, from the committed tail on, without applying anything.
 * Records may refer to segments that no row names yet (large writes that went to segments first):
 * these are remembered, so that nobody takes their files for orphans.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "store/dedupe.h"
#include "store/ilog-format.h"
#include "tools/check.h"

#define INDEX_NAME        "index"
#define INDEX_CHECK_BYTES (16ull << 20)

static int log_segment_add(struct check *c, uint64_t segment)
{
	if (c->n_log_segments && c->log_segments[c->n_log_segments - 1] == segment)
		return 0;
	if (array_reserve(&c->log_segments, c->n_log_segments, &c->log_segments_cap,
	            sizeof(*c->log_segments)) < 0)
		return -ENOMEM;
	c->log_segments[c->n_log_segments++] = segment;
	return 0;
}

static int shares_take(void *arg, const struct ilog_record *rec)
{
	struct check *c = arg;

	if (rec->type == ILOG_SEALED)
		return check_sealed_record(c, rec, shares_take);
	if (rec->type != ILOG_SHARE)
		return 0;
	for (uint64_t at = 0; at + 8 <= rec->len; at += 8) {
		const uint64_t entry = get_u64((const uint8_t *)rec->data + at);

		if (entry_state(entry) != ENTRY_DATA)
			continue;
		const int r = log_segment_add(c, loc_segment(entry_loc(entry)));
		if (r < 0)
			return r;
	}
	return 0;
}

static int record_take(void *arg, const struct ilog_record *rec)
{
	struct check *c = arg;

	c->sum.log_records++;
	return shares_take(c, rec);
}

static int u64_compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* Its row stays, whatever it holds: what is wrong with it may be this program's ignorance. */
static int parked_take(void *arg, uint64_t image, uint64_t id, const void *blob, size_t len)
{
	struct check *c = arg;
	struct bytes_in in = {.data = blob, .len = len};
	struct ilog_record rec;
	int r = ilog_record_decode(&in, &rec);

	c->sum.parked_records++;
	if (r == 0 && (in.pos != len || rec.image != image))
		r = -EUCLEAN;
	if (r == 0)
		r = shares_take(c, &rec);
	if (r != -EUCLEAN)
		return r;
	check_locked_refs(c, 0, true);
	struct finding *fi = finding_add(&c->findings, FINDING_LOG, SEVERITY_LOSS,
	        "record %llu, which waits for a key, is damaged: what was flushed last before a "
	        "crash is lost, and the image stays locked",
	        (unsigned long long)id);
	fi->image = image;
	return 0;
}

int check_parked(struct check *c)
{
	const int r = c->meta->ops->parked_each(c->meta, 0, parked_take, c);

	if (r < 0 && r != -ENOMEM) {
		c->incomplete = true;
		finding_add(&c->findings, FINDING_METADATA, SEVERITY_LOSS,
		        "not all records that wait for a key can be read from meta.db: %s",
		        strerror(-r));
	}
	if (c->n_log_segments)
		qsort(c->log_segments, c->n_log_segments, sizeof(*c->log_segments), u64_compare);
	return r == -ENOMEM ? r : 0;
}

bool check_log_refers(const struct check *c, uint64_t segment)
{
	return c->n_log_segments &&
	       bsearch(&segment, c->log_segments, c->n_log_segments, sizeof(segment), u64_compare);
}

/* As recovery reads it, with the same code: what it refuses, a mount refuses. */
static int log_read(struct check *c, struct errmsg *em)
{
	struct ilog *log = NULL;
	uint64_t off = 0, seq = 0, ring_bytes = 0, used_bytes = 0;
	const uint64_t tail_off = c->state.log_tail_off;
	int r = ilog_open(c->io, c->state.uuid, true, &log, em);

	if (r < 0)
		return r;
	ilog_space(log, &ring_bytes, &used_bytes);
	r = ilog_replay(log, c->state.log_epoch, tail_off, c->state.log_tail_seq, record_take, c,
	        &off, &seq, em);
	if (r == 0)
		c->sum.log_bytes = off >= tail_off ? off - tail_off : ring_bytes - tail_off + off;
	ilog_close(log);
	return r;
}

/* One batch at ring offset off: read, decoded, verified.  buf holds ILOG_BATCH_MAX. */
static int batch_read(struct io_file *f, const struct ilog_hasher *h, uint64_t ring_bytes,
        uint64_t off, uint8_t *buf, struct ilog_batch *ret_batch)
{
	struct ilog_batch b;
	const uint64_t at = ILOG_HEADER_LEN + off;
	int r = io_pread_exact(f, buf, ILOG_BATCH_HEADER_LEN, at);

	if (r < 0)
		return r;
	r = ilog_batch_decode(h, buf, ring_bytes, &b);
	if (r < 0)
		return r;
	if (b.off != off)
		return -EUCLEAN;
	r = io_pread_exact(
	        f, buf + ILOG_BATCH_HEADER_LEN, b.payload_len, at + ILOG_BATCH_HEADER_LEN);
	if (r == 0)
		r = ilog_batch_verify(h, &b, buf);
	if (r == 0)
		*ret_batch = b;
	return r;
}

/* Follows the batches from the tail while they are good and consecutive. */
static void batches_follow(struct check *c, struct io_file *f, const struct ilog_header *h,
        uint8_t *buf, struct log_extent *e)
{
	struct ilog_hasher hasher;
	struct ilog_batch b;
	uint64_t seq = c->state.log_tail_seq;

	ilog_hasher_init(&hasher, h->salt);
	while (e->good_bytes < e->ring_bytes) {
		const uint64_t off = (e->tail_off + e->good_bytes) % e->ring_bytes;

		if (batch_read(f, &hasher, e->ring_bytes, off, buf, &b) < 0 ||
		        b.epoch != c->state.log_epoch || b.seq != seq)
			return;
		e->good_bytes += ilog_batch_size(&b, e->ring_bytes);
		seq++;
	}
	e->good_bytes = MIN(e->good_bytes, e->ring_bytes);
}

int log_extent_find(struct check *c, struct log_extent *ret_extent)
{
	CLEANUP(io_closep) struct io_file *f = NULL;
	CLEANUP(free_ptr) uint8_t *buf = malloc(ILOG_BATCH_MAX + ILOG_BATCH_HEADER_LEN);
	struct log_extent e = {.tail_off = c->state.log_tail_off};
	struct ilog_header h;
	uint64_t size = 0;

	if (!buf)
		return -ENOMEM;
	int r = io_open(c->io, ILOG_NAME, IO_READ, &f);
	if (r == 0)
		r = io_size(f, &size);
	if (r == 0)
		r = io_pread_exact(f, buf, ILOG_HEADER_LEN, 0);
	e.header_good = r == 0 && ilog_header_decode(buf, &h) == 0 &&
	                !memcmp(h.uuid, c->state.uuid, sizeof(h.uuid)) &&
	                size >= ILOG_HEADER_LEN + h.ring_bytes;
	if (e.header_good) {
		e.ring_bytes = h.ring_bytes;
		if (e.tail_off < e.ring_bytes)
			batches_follow(c, f, &h, buf, &e);
	} else if (size >= ILOG_BYTES_MIN && size <= ILOG_BYTES_MAX) {
		e.ring_bytes = size / IO_ALIGN * IO_ALIGN - ILOG_HEADER_LEN;
	}
	*ret_extent = e;
	return 0;
}

static void range_at_stake(struct check *c, const struct ilog_record *rec)
{
	struct finding range = {
	        .kind = FINDING_LOG,
	        .severity = SEVERITY_NOTE,
	        .image = rec->image,
	        .offset = rec->off,
	        .length = rec->type == ILOG_SHARE ? rec->len / 8 * CHUNK_SIZE : rec->len,
	        .segment = FINDING_NONE,
	        .slot = FINDING_NONE,
	        .text = (char *)"flushed, but behind the damage in the intent log: lost",
	};
	char path[PATH_MAX];

	if (rec->txg <= c->state.txg || rec->type == ILOG_ROWS || rec->type == ILOG_DELETE)
		return;
	if (rec->type == ILOG_SEALED) { /* where in the image is sealed as well */
		range.offset = FINDING_NONE;
		range.length = 0;
	}
	check_path(c, rec->image, path, sizeof(path));
	finding_add_range(&c->findings, &range, path);
}

static void batch_at_stake(struct check *c, const struct ilog_batch *b, const uint8_t *buf)
{
	struct bytes_in in = {.data = buf + ILOG_BATCH_HEADER_LEN, .len = b->payload_len};
	struct ilog_record rec;

	for (uint32_t i = 0; i < b->n_records; i++)
		if (ilog_record_decode(&in, &rec) == 0)
			range_at_stake(c, &rec);
}

/*
 * Good batches of this life of the log that lie behind the damage: they cannot be replayed, since
 * what came before them is missing, but they say which writes are lost.
 */
static int rest_report(struct check *c)
{
	CLEANUP(io_closep) struct io_file *f = NULL;
	CLEANUP(free_ptr) uint8_t *buf = malloc(ILOG_BATCH_MAX + ILOG_BATCH_HEADER_LEN);
	struct log_extent e;
	struct ilog_header h;
	struct ilog_hasher hasher;
	struct ilog_batch b;

	if (!buf)
		return -ENOMEM;
	int r = log_extent_find(c, &e);
	if (r < 0 || !e.header_good || io_open(c->io, ILOG_NAME, IO_READ, &f) < 0)
		return r;
	if (io_pread_exact(f, buf, ILOG_HEADER_LEN, 0) < 0 || ilog_header_decode(buf, &h) < 0)
		return 0;
	ilog_hasher_init(&hasher, h.salt);
	for (uint64_t at = e.good_bytes; at < e.ring_bytes;) {
		const uint64_t off = (e.tail_off + at) % e.ring_bytes;
		const bool good = batch_read(f, &hasher, e.ring_bytes, off, buf, &b) == 0 &&
		                  b.epoch == c->state.log_epoch && b.seq >= c->state.log_tail_seq;

		if (good)
			batch_at_stake(c, &b, buf);
		at += good ? ilog_batch_size(&b, e.ring_bytes) : IO_ALIGN;
	}
	return 0;
}

int check_log(struct check *c)
{
	struct errmsg em = {0};
	const int r = log_read(c, &em);

	if (c->n_log_segments)
		qsort(c->log_segments, c->n_log_segments, sizeof(*c->log_segments), u64_compare);
	if (r == 0 || r == -ENOMEM)
		return r;
	c->incomplete = true; /* what the rest refers to is not known */
	c->fix.log_damaged = true;
	finding_add(&c->findings, FINDING_LOG, SEVERITY_ERROR, "%s",
	        em.text[0] ? em.text : strerror(-r));
	return rest_report(c);
}

static int no_list(void *arg, uint64_t segment, struct hash128 *hashes, unsigned *ret_n)
{
	return -ENOENT;
}

int check_index(struct check *c)
{
	struct dedupe *d = NULL;
	int r = dedupe_create(INDEX_CHECK_BYTES, no_list, NULL, &d);

	if (r < 0)
		return r;
	r = dedupe_load(d, c->io, INDEX_NAME, c->state.uuid, c->state.txg);
	dedupe_free(d);
	if (r == -ENOMEM)
		return r;
	if (r == 0 || r == -ENOENT || r == -ESTALE) /* of an earlier group: not used, replaced */
		return 0;
	struct finding *fi = finding_add(&c->findings, FINDING_INDEX, SEVERITY_ERROR,
	        "the saved dedupe index is damaged: %s (a mount ignores it and makes a new one)",
	        r == -EUCLEAN ? "checksum" : strerror(-r));
	if (c->repair) {
		c->fix.remove_index = true;
		finding_mark_repaired(&c->findings, fi);
	}
	return 0;
}
