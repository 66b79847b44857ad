/*
 * fuzz-dedupe-index.c - any bytes as the dedupe index's file
 *
 * Loaded twice: as they are, and sealed, that is with the checksums, the length and the count of
 * pieces made good, without which nearly nothing would get past the header.  Loading must either
 * refuse the file and leave the index empty, or leave only hints that may be handed out.
 */
#include <errno.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"
#include "store/dedupe-file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct memory_io {
	struct io io;
	struct io_file file;
	const uint8_t *data;
	size_t size;
};

static int memory_open(struct io *io, const char *name, unsigned flags, struct io_file **ret_file)
{
	struct memory_io *m = CONTAINER_OF(io, struct memory_io, io);

	m->file.io = io;
	*ret_file = &m->file;
	return 0;
}

static void memory_close(struct io_file *f)
{
}

static int memory_pread(struct io_file *f, void *buf, size_t len, uint64_t off, size_t *ret_n)
{
	const struct memory_io *m = CONTAINER_OF(f, struct memory_io, file);

	*ret_n = off < m->size ? MIN(len, m->size - off) : 0;
	if (*ret_n)
		memcpy(buf, m->data + off, *ret_n);
	return 0;
}

static int memory_size(struct io_file *f, uint64_t *ret_size)
{
	*ret_size = CONTAINER_OF(f, struct memory_io, file)->size;
	return 0;
}

static const struct io_ops memory_ops = {
        .open = memory_open,
        .close = memory_close,
        .pread = memory_pread,
        .size = memory_size,
};

static void table_check(const struct hint_table *t, bool empty)
{
	uint64_t words[HINT_WAYS];

	for (uint64_t b = 0; b < t->n_buckets; b++) {
		const unsigned n = hints_bucket_get(t, b, words);
		ASSERT(!empty || n == 0);
		for (unsigned i = 0; i < n; i++)
			ASSERT(hint_valid(words[i]));
	}
}

static void file_load(const uint8_t *data, size_t size)
{
	struct memory_io m = {.io.ops = &memory_ops, .data = data, .size = size};
	struct hint_table window = {0}, sample = {0};
	struct hint_table *const tables[INDEX_TABLES] = {&window, &sample};
	uint8_t uuid[16] = {0};
	uint64_t txg = 0;

	if (size >= INDEX_HEADER_LEN) {
		memcpy(uuid, data + 16, sizeof(uuid));
		txg = get_u64(data + 32);
	}
	if (hints_init(&window, 13) < 0 || hints_init(&sample, 2) < 0)
		abort();
	const int r = index_file_load(tables, &m.io, "index", uuid, txg);
	ASSERT(r == 0 || r == -EUCLEAN || r == -ESTALE);
	table_check(&window, r < 0);
	table_check(&sample, r < 0);
	hints_release(&window);
	hints_release(&sample);
}

/* Makes the checksums of pieces good, as far as they follow each other; returns how many. */
static uint64_t pieces_seal(uint8_t *data, size_t size)
{
	uint8_t uuid[16];
	uint64_t n = 0;

	memcpy(uuid, data + 16, sizeof(uuid));
	const uint64_t seed = index_seed(uuid, get_u64(data + 32));
	for (size_t off = INDEX_HEADER_LEN; size - off >= INDEX_PIECE_HEADER_LEN; n++) {
		uint8_t *p = data + off;
		const size_t len = get_u32(p + 20);
		if (len > size - off - INDEX_PIECE_HEADER_LEN)
			break;
		const uint64_t head = XXH3_64bits_withSeed(p, 24, seed);
		put_u64(p + 24, XXH3_64bits_withSeed(p + INDEX_PIECE_HEADER_LEN, len, head));
		off += INDEX_PIECE_HEADER_LEN + len;
	}
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	file_load(data, size);
	if (size < INDEX_HEADER_LEN)
		return 0;
	CLEANUP(free_ptr) uint8_t *sealed = malloc(size);
	if (!sealed)
		abort();
	memcpy(sealed, data, size);
	put_u64(sealed + 56, pieces_seal(sealed, size));
	put_u64(sealed + 64, size);
	/* Tables of any size, but not so large that adopting them takes long. */
	put_u64(sealed + 40, get_u64(sealed + 40) & 0xffff);
	put_u64(sealed + 48, get_u64(sealed + 48) & 0xffff);
	put_u64(sealed + 120, XXH3_64bits(sealed, 120));
	file_load(sealed, size);
	return 0;
}
