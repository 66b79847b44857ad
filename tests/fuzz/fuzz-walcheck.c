/*
 * fuzz-walcheck.c - a WAL of any bytes beside an empty database: an answer, and no read out of
 * bounds
 */
#include <errno.h>
#include <string.h>

#include "meta/walcheck.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct memory_file {
	struct io_file base;
	const uint8_t *data;
	size_t len;
};

static int memory_pread(struct io_file *file, void *buf, size_t len, uint64_t off, size_t *ret_n)
{
	const struct memory_file *f = (const struct memory_file *)file;
	const size_t n = off < f->len ? MIN(len, f->len - (size_t)off) : 0;

	if (n > 0)
		memcpy(buf, f->data + off, n);
	*ret_n = n;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct io_ops ops = {.pread = memory_pread};
	struct io io = {&ops};
	struct memory_file db = {.base = {&io}};
	struct memory_file wal = {.base = {&io}, .data = data, .len = size};
	struct errmsg em;
	const int r = wal_check(&db.base, &wal.base, &em);

	ASSERT(r == 0 || r == -EUCLEAN);
	return 0;
}
