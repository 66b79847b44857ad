/*
 * ceiling.c - how fast this machine can hash and compress a file's data, on all its cores
 *
 * Every new chunk that a store like weir takes in costs one XXH3-128 over its 4 KiB, and one LZ4
 * over each run of 8 chunks.  This does that and nothing else: the payload is in memory, the
 * results are thrown away, and each core has a thread.  What it reaches is the rate that no such
 * store can pass on this machine, and what the row of fresh data is compared with.
 *
 * Threads: the payload is read-only; work is handed out by one atomic counter; each thread has its
 * own output buffer.
 */
#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define CHUNK       4096u
#define FRAME       (8u * CHUNK)
#define THREADS_MAX 256
#define BATCH       32u /* frames taken at a time */
#define RUN_NS      2000000000ull
#define NS_PER_S    1e9

static struct {
	const char *data;
	uint64_t frames;
	_Atomic uint64_t next;
	uint64_t end_ns;
} work;

struct worker {
	pthread_t thread;
	uint64_t in_bytes, out_bytes, sum;
};

static void fail(const char *what)
{
	fprintf(stderr, "ceiling: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void frame_do(struct worker *w, const char *frame, char *out, int out_len)
{
	for (unsigned i = 0; i < FRAME; i += CHUNK)
		w->sum ^= XXH3_128bits(frame + i, CHUNK).low64;
	const int n = LZ4_compress_default(frame, out, (int)FRAME, out_len);
	/* As in the store: a frame that does not shrink by an eighth is kept raw. */
	w->out_bytes += n > 0 && (unsigned)n <= FRAME - FRAME / 8 ? (unsigned)n : FRAME;
	w->in_bytes += FRAME;
}

static void *worker_run(void *arg)
{
	struct worker *w = arg;
	const int out_len = LZ4_compressBound((int)FRAME);
	char *out = malloc((size_t)out_len);

	if (!out)
		fail("memory");
	while (now_ns() < work.end_ns) {
		const uint64_t first = atomic_fetch_add(&work.next, BATCH);
		for (uint64_t i = first; i < first + BATCH; i++)
			frame_do(w, work.data + (i % work.frames) * FRAME, out, out_len);
	}
	free(out);
	return NULL;
}

static void payload_map(const char *path, uint64_t limit)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		fail(path);
	uint64_t len = (uint64_t)st.st_size;
	if (limit && limit < len)
		len = limit;
	work.frames = len / FRAME;
	if (!work.frames) {
		errno = ENODATA;
		fail(path);
	}
	work.data = mmap(NULL, work.frames * FRAME, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (work.data == MAP_FAILED)
		fail("mmap");
	close(fd);
}

int main(int argc, char **argv)
{
	static struct worker workers[THREADS_MAX];
	const long cores = sysconf(_SC_NPROCESSORS_ONLN);
	const int n = cores < 1 ? 1 : cores > THREADS_MAX ? THREADS_MAX : (int)cores;
	uint64_t in = 0, out = 0;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: ceiling PAYLOAD [BYTES]\n");
		return 2;
	}
	payload_map(argv[1], argc == 3 ? strtoull(argv[2], NULL, 10) : 0);
	const uint64_t start_ns = now_ns();
	work.end_ns = start_ns + RUN_NS;
	for (int i = 0; i < n; i++) {
		errno = pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]);
		if (errno)
			fail("thread");
	}
	for (int i = 0; i < n; i++) {
		pthread_join(workers[i].thread, NULL);
		in += workers[i].in_bytes;
		out += workers[i].out_bytes;
	}
	const double seconds = (double)(now_ns() - start_ns) / NS_PER_S;
	printf("{\"threads\": %d, \"bytes_per_second\": %.0f, \"lz4_ratio\": %.4f}\n", n,
	        (double)in / seconds, (double)in / (double)out);
	return 0;
}
