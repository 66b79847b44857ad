/*
 * dedupe-file.c - saving and loading the dedupe index's tables
 *
 * Saving writes NAME.tmp, syncs it, renames it over NAME and syncs the directory.  A power cut
 * before the rename is durable leaves the old file (or none), after it the new one, whole: its
 * content was durable before its name.  Whatever fails, NAME is one of the two, and a NAME.tmp that
 * a crash left behind is overwritten next time.  The header is written last, but that is
 * convenience (it has the totals), not safety.
 *
 * Loading reads the file twice: once to check all of it, then to take it over.  So a damaged file
 * changes nothing, however late the damage comes, and no second table is needed.  The second
 * reading checks again, since it may see other bytes than the first.  Hints are added behind those
 * that are there: what was inserted since the mount is newer than anything in the file.
 */
#include "store/dedupe-file.h"

#include <errno.h>
#include <stdio.h>

#define NAME_LEN_MAX 256

/* --- saving --- */

struct saver {
	struct io_file *file;
	uint8_t *buf; /* INDEX_PIECE_MAX */
	uint64_t seed, off, n_pieces;
	struct index_piece_out piece;
};

static int piece_write(struct saver *s)
{
	if (s->piece.len == INDEX_PIECE_HEADER_LEN)
		return 0;
	index_piece_end(&s->piece, s->seed);
	const int r = io_pwrite(s->file, s->piece.buf, s->piece.len, s->off);
	if (r < 0)
		return r;
	s->off += s->piece.len;
	s->n_pieces++;
	return 0;
}

static int table_write(struct saver *s, const struct hint_table *t, enum index_table which)
{
	uint64_t words[HINT_WAYS];

	index_piece_begin(&s->piece, s->buf, which);
	for (uint64_t b = 0; b < t->n_buckets; b++) {
		const unsigned n = hints_bucket_get(t, b, words);
		if (!n || index_piece_add(&s->piece, b, words, n))
			continue;
		const int r = piece_write(s);
		if (r < 0)
			return r;
		index_piece_begin(&s->piece, s->buf, which);
		const bool fits = index_piece_add(&s->piece, b, words, n);
		ASSERT(fits);
	}
	return piece_write(s);
}

static int file_write(
        struct hint_table *const tables[INDEX_TABLES], struct io_file *f, struct index_header *h)
{
	CLEANUP(free_ptr) uint8_t *buf = malloc(INDEX_PIECE_MAX);
	struct saver s = {
	        .file = f,
	        .buf = buf,
	        .seed = index_seed(h->uuid, h->txg),
	        .off = INDEX_HEADER_LEN,
	};

	if (!buf)
		return -ENOMEM;
	for (unsigned i = 0; i < INDEX_TABLES; i++) {
		h->n_buckets[i] = tables[i]->n_buckets;
		const int r = table_write(&s, tables[i], (enum index_table)i);
		if (r < 0)
			return r;
	}
	h->n_pieces = s.n_pieces;
	h->file_bytes = s.off;
	index_header_encode(h, buf);
	const int r = io_pwrite(f, buf, INDEX_HEADER_LEN, 0);
	return r < 0 ? r : io_sync(f);
}

static int tmp_write(struct hint_table *const tables[INDEX_TABLES], struct io *io, const char *tmp,
        struct index_header *h)
{
	CLEANUP(io_closep) struct io_file *f = NULL;
	const int r = io_open(io, tmp, IO_WRITE | IO_CREATE | IO_TRUNC, &f);

	return r < 0 ? r : file_write(tables, f, h);
}

int index_file_save(struct hint_table *const tables[INDEX_TABLES], struct io *io, const char *name,
        const uint8_t uuid[16], uint64_t txg)
{
	struct index_header h = {.txg = txg};
	char tmp[NAME_LEN_MAX];

	if ((size_t)snprintf(tmp, sizeof(tmp), "%s.tmp", name) >= sizeof(tmp))
		return -ENAMETOOLONG;
	memcpy(h.uuid, uuid, sizeof(h.uuid));
	int r = tmp_write(tables, io, tmp, &h);
	if (r == 0)
		r = io_rename(io, tmp, name);
	if (r < 0) {
		/* Not needed any more, and its space may be; if that fails too, the next save
		 * overwrites it. */
		const int unlinked = io_unlink(io, tmp);
		(void)unlinked;
		return r;
	}
	return io_sync_dir(io, "");
}

/* --- loading --- */

struct loader {
	struct hint_table *const *tables;
	struct io_file *file;
	struct index_header h;
	uint64_t seed;
	uint8_t *buf; /* INDEX_PIECE_MAX */
	struct index_piece piece;
};

static void bucket_load(void *arg, uint64_t bucket, const uint64_t *words, unsigned n)
{
	const struct loader *l = arg;
	const enum index_table which = l->piece.table;

	hints_bucket_adopt(l->tables[which], bucket, l->h.n_buckets[which], words, n);
}

/* What ends early is damaged. */
static int read_exact(struct loader *l, void *buf, size_t len, uint64_t off)
{
	const int r = io_pread_exact(l->file, buf, len, off);

	return r == -ENODATA ? -EUCLEAN : r;
}

/* Reads and checks the piece at *off, and moves *off behind it. */
static int piece_read(struct loader *l, uint64_t *off)
{
	int r = read_exact(l, l->buf, INDEX_PIECE_HEADER_LEN, *off);

	if (r < 0)
		return r;
	r = index_piece_header_decode(l->buf, &l->h, &l->piece);
	if (r < 0)
		return r;
	r = read_exact(l, l->buf + INDEX_PIECE_HEADER_LEN, l->piece.payload_len,
	        *off + INDEX_PIECE_HEADER_LEN);
	if (r < 0)
		return r;
	*off += INDEX_PIECE_HEADER_LEN + l->piece.payload_len;
	return index_piece_check(l->buf, &l->piece, l->seed);
}

/* Walks all pieces; they must be in order of table and bucket, and end where the file ends. */
static int pieces_read(struct loader *l, bool take_over)
{
	uint64_t off = INDEX_HEADER_LEN, next = 0;
	enum index_table table = INDEX_WINDOW;

	for (uint64_t i = 0; i < l->h.n_pieces; i++) {
		const int r = piece_read(l, &off);
		if (r < 0)
			return r;
		const struct index_piece *p = &l->piece;
		if (p->table < table || (p->table == table && p->first < next))
			return -EUCLEAN;
		table = p->table;
		next = p->first + p->n_buckets;
		if (take_over)
			index_payload_walk(l->buf + INDEX_PIECE_HEADER_LEN, p, bucket_load, l);
	}
	return off == l->h.file_bytes ? 0 : -EUCLEAN;
}

static int header_read(struct loader *l, const uint8_t uuid[16], uint64_t txg)
{
	uint8_t buf[INDEX_HEADER_LEN];
	uint64_t size;
	int r = read_exact(l, buf, sizeof(buf), 0);

	if (r < 0)
		return r;
	r = index_header_decode(buf, &l->h);
	if (r < 0)
		return r;
	if (memcmp(l->h.uuid, uuid, sizeof(l->h.uuid)) != 0 || l->h.txg != txg)
		return -ESTALE;
	r = io_size(l->file, &size);
	if (r < 0)
		return r;
	return size == l->h.file_bytes ? 0 : -EUCLEAN;
}

int index_file_load(struct hint_table *const tables[INDEX_TABLES], struct io *io, const char *name,
        const uint8_t uuid[16], uint64_t txg)
{
	CLEANUP(io_closep) struct io_file *f = NULL;
	int r = io_open(io, name, IO_READ, &f);

	if (r < 0)
		return r;
	CLEANUP(free_ptr) uint8_t *buf = malloc(INDEX_PIECE_MAX);
	if (!buf)
		return -ENOMEM;
	struct loader l = {.tables = tables, .file = f, .seed = index_seed(uuid, txg), .buf = buf};
	r = header_read(&l, uuid, txg);
	if (r == 0)
		r = pieces_read(&l, false);
	if (r == 0)
		r = pieces_read(&l, true);
	return r;
}
