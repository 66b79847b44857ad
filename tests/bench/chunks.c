/*
 * chunks.c - what plain 4 KiB chunks would make of a set of disks; and unique payload from them
 *
 * usage: chunks IMAGE...            counts: JSON on stdout
 *        chunks --payload OUT IMAGE...   also writes each distinct non-zero chunk, in order, to OUT
 *
 * The simplest store that deduplicates and compresses: every distinct non-zero 4 KiB chunk is kept
 * once, compressed by LZ4 alone, or raw when that saves less than an eighth.  Its ratio is what
 * tests/bench/reduction.sh compares weir with; what LZ4 over frames of 8 new chunks would make is
 * counted too, as the least that weir could hope for.  No metadata is counted: both are flattered.
 * The payload is what the write rows send: real data that no store can find a duplicate in.
 *
 * Distinct means: of a different XXH3-128.  That is good enough to count by, with no data at stake.
 * One thread.  The table of hashes grows by doubling, and is never more than half full.
 */
#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define CHUNK     4096u
#define FRAME     (8u * CHUNK)
#define READ_LEN  (1u << 20)
#define TABLE_MIN (1u << 20)

static struct {
	XXH128_hash_t *table; /* open addressing; all zero is free */
	uint64_t slots, used;
	uint64_t logical, nonzero, unique, lz4_all, lz4_unique, lz4_frames;
	char frame[FRAME]; /* new chunks that wait to be compressed together */
	unsigned frame_len;
	FILE *payload;
} cs;

static void fail(const char *what)
{
	fprintf(stderr, "chunks: %s: %s\n", what, strerror(errno));
	exit(1);
}

static bool table_put(XXH128_hash_t h)
{
	uint64_t i = h.low64 & (cs.slots - 1);

	for (; cs.table[i].low64 | cs.table[i].high64; i = (i + 1) & (cs.slots - 1))
		if (XXH128_isEqual(cs.table[i], h))
			return false;
	cs.table[i] = h;
	cs.used++;
	return true;
}

static void table_grow(void)
{
	XXH128_hash_t *old = cs.table;
	const uint64_t n = cs.slots;

	cs.slots = n ? n * 2 : TABLE_MIN;
	cs.table = calloc(cs.slots, sizeof(*cs.table));
	if (!cs.table)
		fail("memory");
	cs.used = 0;
	for (uint64_t i = 0; i < n; i++)
		if (old[i].low64 | old[i].high64)
			table_put(old[i]);
	free(old);
}

/* Bytes that a store would keep for these: packed, or as they are where that saves too little. */
static uint64_t packed_size(const char *data, unsigned len)
{
	static char packed[LZ4_COMPRESSBOUND(FRAME)];
	const int n = LZ4_compress_default(data, packed, (int)len, (int)sizeof(packed));

	return n > 0 && (unsigned)n <= len - len / 8 ? (unsigned)n : len;
}

static void frame_close(void)
{
	if (cs.frame_len)
		cs.lz4_frames += packed_size(cs.frame, cs.frame_len);
	cs.frame_len = 0;
}

static void frame_add(const char *chunk)
{
	memcpy(cs.frame + cs.frame_len, chunk, CHUNK);
	cs.frame_len += CHUNK;
	if (cs.frame_len == FRAME)
		frame_close();
}

static void chunk_add(const char *chunk)
{
	cs.logical += CHUNK;
	if (chunk[0] == 0 && memcmp(chunk, chunk + 1, CHUNK - 1) == 0)
		return;
	cs.nonzero += CHUNK;
	const uint64_t stored = packed_size(chunk, CHUNK);
	cs.lz4_all += stored;
	if (2 * cs.used >= cs.slots)
		table_grow();
	if (!table_put(XXH3_128bits(chunk, CHUNK)))
		return;
	cs.unique += CHUNK;
	cs.lz4_unique += stored;
	frame_add(chunk);
	if (cs.payload && fwrite(chunk, CHUNK, 1, cs.payload) != 1)
		fail("payload");
}

static void image_add(const char *path)
{
	static char buf[READ_LEN];
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		fail(path);
	for (off_t off = 0; off < st.st_size; off += READ_LEN) {
		memset(buf, 0, sizeof(buf));
		const ssize_t n = pread(fd, buf, sizeof(buf), off);
		if (n < 0)
			fail(path);
		for (ssize_t i = 0; i < n; i += CHUNK)
			chunk_add(buf + i);
	}
	frame_close();
	close(fd);
}

int main(int argc, char **argv)
{
	int i = 1;

	if (argc > 3 && strcmp(argv[1], "--payload") == 0) {
		cs.payload = fopen(argv[2], "wb");
		if (!cs.payload)
			fail(argv[2]);
		i = 3;
	}
	if (i >= argc || argv[i][0] == '-') {
		fprintf(stderr, "usage: chunks [--payload OUT] IMAGE...\n");
		return 2;
	}
	table_grow();
	for (; i < argc; i++)
		image_add(argv[i]);
	if (cs.payload && fclose(cs.payload) != 0)
		fail("payload");
	printf("{\"logical_bytes\": %llu, \"nonzero_bytes\": %llu, \"unique_bytes\": %llu, "
	       "\"lz4_bytes\": %llu, \"unique_lz4_bytes\": %llu, "
	       "\"unique_lz4_frames_bytes\": %llu}\n",
	        (unsigned long long)cs.logical, (unsigned long long)cs.nonzero,
	        (unsigned long long)cs.unique, (unsigned long long)cs.lz4_all,
	        (unsigned long long)cs.lz4_unique, (unsigned long long)cs.lz4_frames);
	free(cs.table);
	return 0;
}
