/*
 * repair-log.c - an intent log whose rest cannot be read, replaced by one that ends before it
 *
 * The new file has the same ring, the same header (so the same key of checksums) and, at the same
 * places, the good batches from the committed tail on; all else is zeros.  So the state row need
 * not change, and the rename alone is the change: a power cut before it leaves the old log, after
 * it the new one.  Where the header itself is lost, its key is, and nothing of the ring can be
 * verified: the new log is empty.
 *
 * The file is made inside segments/ (as a file there, it is in nobody's way if a crash leaves it),
 * because ilog_create has one name for what it makes.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "store/ilog-format.h"
#include "tools/check.h"

#define COPY_BYTES (1u << 20)
#define MADE_IN    "segments"

/* Copies [off, off+len) of the file, headers included. */
static int range_copy(
        struct io_file *from, struct io_file *to, uint64_t off, uint64_t len, uint8_t *buf)
{
	while (len > 0) {
		const size_t n = (size_t)MIN(len, COPY_BYTES);
		int r = io_pread_exact(from, buf, n, off);

		if (r == 0)
			r = io_pwrite(to, buf, n, off);
		if (r < 0)
			return r;
		off += n;
		len -= n;
	}
	return 0;
}

static int good_part_copy(struct check *c, struct io *made, const struct log_extent *e)
{
	CLEANUP(io_closep) struct io_file *from = NULL;
	CLEANUP(io_closep) struct io_file *to = NULL;
	CLEANUP(free_ptr) uint8_t *buf = malloc(COPY_BYTES);
	const uint64_t to_end = MIN(e->good_bytes, e->ring_bytes - e->tail_off);

	if (!buf)
		return -ENOMEM;
	int r = io_open(c->io, ILOG_NAME, IO_READ, &from);
	if (r == 0)
		r = io_open(made, ILOG_NAME, IO_WRITE, &to);
	if (r == 0)
		r = range_copy(from, to, 0, ILOG_HEADER_LEN, buf);
	if (r == 0)
		r = range_copy(from, to, ILOG_HEADER_LEN + e->tail_off, to_end, buf);
	if (r == 0)
		r = range_copy(from, to, ILOG_HEADER_LEN, e->good_bytes - to_end, buf);
	if (r == 0)
		r = io_sync(to);
	return r;
}

static int count_record(void *arg, const struct ilog_record *rec)
{
	++*(uint64_t *)arg;
	return 0;
}

/* The new log must be one that recovery takes. */
static int made_verify(struct check *c, struct io *made, uint64_t *ret_records, struct errmsg *em)
{
	struct ilog *log = NULL;
	uint64_t off = 0, seq = 0, n = 0;
	int r = ilog_open(made, c->state.uuid, true, &log, em);

	if (r < 0)
		return r;
	r = ilog_replay(log, c->fix.state.log_epoch, c->fix.state.log_tail_off,
	        c->fix.state.log_tail_seq, count_record, &n, &off, &seq, em);
	ilog_close(log);
	if (r == 0)
		*ret_records = n;
	return r;
}

static int log_make(struct check *c, struct io *made, const struct log_extent *e,
        uint64_t *ret_records, struct errmsg *em)
{
	int r = ilog_create(
	        made, c->state.uuid, e->ring_bytes + ILOG_HEADER_LEN, c->state.log_epoch, em);

	if (r == 0 && e->header_good && e->good_bytes)
		r = good_part_copy(c, made, e);
	if (r == 0)
		r = made_verify(c, made, ret_records, em);
	return r;
}

static int log_replace(struct check *c)
{
	int r = io_rename(c->io, MADE_IN "/" ILOG_NAME, ILOG_NAME);

	if (r == 0)
		r = io_sync_dir(c->io, "");
	if (r == 0)
		r = io_sync_dir(c->io, MADE_IN);
	return r;
}

static int extent_plan(struct check *c, struct log_extent *e)
{
	struct meta_info info;
	int r = log_extent_find(c, e);

	if (r < 0)
		return r;
	if (e->ring_bytes == 0) { /* there is no file, or its length is not a log's */
		r = meta_info_get(c->meta, &info);
		if (r < 0)
			return r;
		e->ring_bytes =
		        MAX(info.log_bytes, ILOG_BYTES_MIN) / IO_ALIGN * IO_ALIGN - ILOG_HEADER_LEN;
	}
	if (e->tail_off >= e->ring_bytes) {
		e->tail_off = e->good_bytes = 0;
		c->fix.state.log_tail_off = 0;
		c->fix.state_changed = true;
	}
	return 0;
}

int repair_log(struct check *c)
{
	CLEANUP(io_freep) struct io *made = NULL;
	CLEANUP(free_ptr) char *dir = NULL;
	struct log_extent e = {0};
	struct errmsg em = {0};
	uint64_t records = 0;

	if (!c->fix.log_damaged)
		return 0;
	if (asprintf(&dir, "%s/%s", c->dir, MADE_IN) < 0)
		return -ENOMEM;
	int r = extent_plan(c, &e);
	if (r == 0)
		r = io_posix_open(dir, &made, &em);
	if (r == 0)
		r = log_make(c, made, &e, &records, &em);
	if (r == 0)
		r = log_replace(c);
	if (r < 0) {
		finding_add(&c->findings, FINDING_LOG, SEVERITY_ERROR,
		        "the intent log could not be replaced: %s",
		        em.text[0] ? em.text : strerror(-r));
		return r == -ENOMEM ? r : 0;
	}
	findings_mark_kind(&c->findings, FINDING_LOG);
	finding_add(&c->findings, FINDING_LOG, SEVERITY_NOTE,
	        "the intent log was cut: %llu records are kept; what was flushed after them and "
	        "not yet "
	        "committed is lost",
	        (unsigned long long)records);
	return 0;
}
