/*
 * replay.c - writes real data into a file with O_DIRECT, and measures it
 *
 * fio cannot take the payload of its writes from a disk image (its buffer_pattern repeats one short
 * pattern), and a store that deduplicates and compresses can only be measured with real data.  So
 * writes are made here: 4 KiB at random or 1 MiB in sequence, at a depth, the bytes taken from a
 * payload file that is mapped and was read into memory before the clock starts.  Reads stay with
 * fio.
 *
 * Where data comes from: the block written at offset X of the target holds the payload at X (plus
 * --shift), so that neighbours on the target are neighbours in a real image, as they are in life.
 * With --stamp each 4 KiB block's first 8 bytes are replaced by a counter: such a block has never
 * been stored before, though it compresses as real data does.  Random order visits each block of
 * the area once a pass (a Feistel permutation with cycle walking), so a burst of the area's size
 * writes all of it and nothing twice.
 *
 * The clock runs from the first submission to the end of the final fsync (fio's end_fsync=1); the
 * time at which the last write was acknowledged is reported too.  The kernel's native AIO is used,
 * by direct system calls: it is no slower here than io_uring, which containers often forbid.  One
 * thread, no locks.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/aio_abi.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BLOCK       4096u
#define DEPTH_MAX   256u
#define HIST_SUB    32u /* buckets an octave: 3 % resolution */
#define HIST_COUNT  (64u * HIST_SUB)
#define NS_PER_S    1000000000ull
#define FEISTEL_RND 4u

struct load {
	const char *path, *payload_path;
	uint64_t bs, depth, area, offset, bytes, shift, seconds, seed;
	bool random, stamp, fdatasync, verify;
};

struct slot {
	struct iocb cb;
	uint64_t start_ns;
	char *buf; /* owned; only used when the payload must be stamped */
};

struct run {
	const struct load *load;
	int fd;
	const char *payload;
	uint64_t payload_len;
	aio_context_t aio;
	struct slot slots[DEPTH_MAX];
	uint64_t hist[HIST_COUNT];
	uint64_t issued, done, stamp;
	uint64_t start_ns, acked_ns, end_ns;
	double start_cpu_s;
};

static void fail(const char *what)
{
	fprintf(stderr, "replay: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Log-linear: an octave of the value, and HIST_SUB steps within it. */
static unsigned hist_bucket(uint64_t ns)
{
	if (ns < HIST_SUB)
		return (unsigned)ns;
	const unsigned octave = 63 - (unsigned)__builtin_clzll(ns);
	return (octave - 4) * HIST_SUB + (unsigned)((ns >> (octave - 5)) & (HIST_SUB - 1));
}

/* The smallest latency of the bucket that holds the given share of all. */
static uint64_t hist_percentile(const struct run *r, double share)
{
	const uint64_t want = (uint64_t)((double)r->done * share);
	uint64_t seen = 0;

	for (unsigned b = 0; b < HIST_COUNT; b++) {
		seen += r->hist[b];
		if (seen > want || (seen == r->done && seen)) {
			if (b < HIST_SUB)
				return b;
			const unsigned octave = b / HIST_SUB + 4;
			return (1ull << octave) + ((uint64_t)(b % HIST_SUB) << (octave - 5));
		}
	}
	return 0;
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

/* The i-th of n numbers in an order that looks random; a permutation of 0..n-1 for each seed. */
static uint64_t permute(uint64_t i, uint64_t n, uint64_t seed)
{
	unsigned half = 1;

	while ((1ull << (2 * half)) < n)
		half++;
	const uint64_t mask = (1ull << half) - 1;
	do {
		uint64_t l = i >> half, r = i & mask;
		for (unsigned k = 0; k < FEISTEL_RND; k++) {
			const uint64_t t = l ^ (mix(r + seed * 31 + k) & mask);
			l = r;
			r = t;
		}
		i = l << half | r;
	} while (i >= n);
	return i;
}

/* Offset within the area of the k-th operation. */
static uint64_t op_position(const struct load *l, uint64_t k)
{
	const uint64_t per_pass = l->area / l->bs;
	const uint64_t i = k % per_pass;

	return (l->random ? permute(i, per_pass, l->seed + k / per_pass) : i) * l->bs;
}

/* The bytes for a position: in the payload itself, or stamped in the slot's buffer. */
static const char *op_data(struct run *r, struct slot *s, uint64_t pos)
{
	const struct load *l = r->load;
	const char *data = r->payload + (pos + l->shift) % r->payload_len;

	if (!l->stamp)
		return data;
	memcpy(s->buf, data, l->bs);
	for (uint64_t b = 0; b < l->bs; b += BLOCK) {
		const uint64_t stamp = mix(l->seed) + r->stamp++;
		memcpy(s->buf + b, &stamp, sizeof(stamp));
	}
	return s->buf;
}

static bool more(const struct run *r)
{
	if (r->load->bytes && r->issued * r->load->bs >= r->load->bytes)
		return false;
	return !r->load->seconds || now_ns() - r->start_ns < r->load->seconds * NS_PER_S;
}

static void account(struct run *r, const struct slot *s, int64_t result)
{
	const unsigned b = hist_bucket(now_ns() - s->start_ns);

	if (result != (int64_t)r->load->bs) {
		errno = result < 0 ? (int)-result : EIO;
		fail("write");
	}
	r->hist[b < HIST_COUNT ? b : HIST_COUNT - 1]++;
	r->done++;
}

static void submit(struct run *r, struct slot *s)
{
	const uint64_t pos = op_position(r->load, r->issued++);
	struct iocb *cb = &s->cb;

	memset(cb, 0, sizeof(*cb));
	cb->aio_data = (uintptr_t)s;
	cb->aio_lio_opcode = IOCB_CMD_PWRITE;
	cb->aio_fildes = (uint32_t)r->fd;
	cb->aio_buf = (uintptr_t)op_data(r, s, pos);
	cb->aio_nbytes = r->load->bs;
	cb->aio_offset = (int64_t)(r->load->offset + pos);
	s->start_ns = now_ns();
	if (syscall(SYS_io_submit, r->aio, 1, &cb) != 1)
		fail("io_submit");
}

static void run_deep(struct run *r)
{
	struct io_event ev[DEPTH_MAX];
	uint64_t flying = 0;

	if (syscall(SYS_io_setup, DEPTH_MAX, &r->aio) < 0)
		fail("io_setup");
	for (; flying < r->load->depth && more(r); flying++)
		submit(r, &r->slots[flying]);
	while (flying) {
		const long n = syscall(SYS_io_getevents, r->aio, 1, DEPTH_MAX, ev, NULL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			fail("io_getevents");
		for (long i = 0; i < n; i++) {
			struct slot *s = (struct slot *)(uintptr_t)ev[i].data;
			account(r, s, ev[i].res);
			if (more(r))
				submit(r, s);
			else
				flying--;
		}
	}
	syscall(SYS_io_destroy, r->aio);
}

/* One write at a time, each made durable before the next: what a database's log does. */
static void run_synced(struct run *r)
{
	while (more(r)) {
		struct slot *s = &r->slots[0];
		const uint64_t pos = op_position(r->load, r->issued++);
		const char *data = op_data(r, s, pos);
		s->start_ns = now_ns();
		const ssize_t n = pwrite(r->fd, data, r->load->bs, (off_t)(r->load->offset + pos));
		if (n == (ssize_t)r->load->bs && fdatasync(r->fd) < 0)
			fail("fdatasync");
		account(r, s, n < 0 ? -errno : n);
	}
}

/* Reads back what an unstamped run has written; a server that loses data wins no race. */
static void run_verify(struct run *r)
{
	char *buf = r->slots[0].buf;

	for (; r->issued * r->load->bs < r->load->bytes; r->issued++) {
		const uint64_t pos = op_position(r->load, r->issued);
		if (pread(r->fd, buf, r->load->bs, (off_t)(r->load->offset + pos)) !=
		        (ssize_t)r->load->bs)
			fail("read back");
		if (memcmp(buf, r->payload + (pos + r->load->shift) % r->payload_len,
		            r->load->bs) != 0) {
			fprintf(stderr, "replay: '%s' differs from what was written at %llu\n",
			        r->load->path, (unsigned long long)(r->load->offset + pos));
			exit(1);
		}
	}
}

static void payload_map(struct run *r)
{
	const struct load *l = r->load;
	const int fd = open(l->payload_path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		fail(l->payload_path);
	/* A whole number of operations, so that none runs over the end. */
	r->payload_len = (uint64_t)st.st_size / l->bs * l->bs;
	if (!r->payload_len) {
		errno = ENODATA;
		fail(l->payload_path);
	}
	r->payload = mmap(NULL, r->payload_len, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (r->payload == MAP_FAILED)
		fail("mmap");
	close(fd);
	for (uint64_t i = 0; i < l->depth; i++)
		if (posix_memalign((void **)&r->slots[i].buf, BLOCK, l->bs) != 0)
			fail("memory");
}

static double cpu_seconds(void)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	return (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
	       (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
}

static void report(const struct run *r)
{
	const double wall_s = (double)(r->end_ns - r->start_ns) / NS_PER_S;
	const double acked_s = (double)(r->acked_ns - r->start_ns) / NS_PER_S;
	const double bytes = (double)r->done * (double)r->load->bs;

	printf("{\"ops\": %llu, \"bytes\": %.0f, \"seconds\": %.6f, \"acked_seconds\": %.6f, "
	       "\"iops\": %.1f, \"acked_iops\": %.1f, \"bytes_per_second\": %.0f, "
	       "\"p50_ns\": %llu, \"p99_ns\": %llu, \"cpu_seconds\": %.6f}\n",
	        (unsigned long long)r->done, bytes, wall_s, acked_s, (double)r->done / wall_s,
	        (double)r->done / acked_s, bytes / wall_s,
	        (unsigned long long)hist_percentile(r, 0.50),
	        (unsigned long long)hist_percentile(r, 0.99), cpu_seconds() - r->start_cpu_s);
}

static int usage(void)
{
	fprintf(stderr, "usage: replay --file F --payload F --bs N [--depth N] [--area BYTES] "
	                "[--offset N]\n"
	                "  [--bytes N] [--seconds N] [--random] [--stamp] [--shift N] [--seed N]\n"
	                "  [--fdatasync] [--verify]\n");
	return 2;
}

/* A letter an option: the upper case ones are switches, the lower case ones take a value. */
static const struct option option_names[] = {{"file", 1, 0, 'f'}, {"payload", 1, 0, 'p'},
        {"bs", 1, 0, 'b'}, {"depth", 1, 0, 'd'}, {"area", 1, 0, 'a'}, {"offset", 1, 0, 'o'},
        {"bytes", 1, 0, 'n'}, {"seconds", 1, 0, 't'}, {"shift", 1, 0, 'h'}, {"seed", 1, 0, 'e'},
        {"random", 0, 0, 'R'}, {"stamp", 0, 0, 'S'}, {"fdatasync", 0, 0, 'Y'},
        {"verify", 0, 0, 'V'}, {0, 0, 0, 0}};

static int check(struct load *l)
{
	if (!l->area)
		l->area = l->bytes;
	const bool shape = l->bs && l->bs % BLOCK == 0 && l->area >= l->bs &&
	                   l->shift % l->bs == 0 && l->depth && l->depth <= DEPTH_MAX;
	const bool end = l->bytes || l->seconds;
	const bool verifiable = l->bytes && !l->stamp;
	return l->path && l->payload_path && shape && end && (!l->verify || verifiable) ? 0
	                                                                                : -EINVAL;
}

static int parse(int argc, char **argv, struct load *l)
{
	uint64_t *const numbers[128] = {['b'] = &l->bs,
	        ['d'] = &l->depth,
	        ['a'] = &l->area,
	        ['o'] = &l->offset,
	        ['n'] = &l->bytes,
	        ['t'] = &l->seconds,
	        ['h'] = &l->shift,
	        ['e'] = &l->seed};
	bool *const switches[128] = {
	        ['R'] = &l->random, ['S'] = &l->stamp, ['Y'] = &l->fdatasync, ['V'] = &l->verify};
	int c;

	while ((c = getopt_long(argc, argv, "", option_names, NULL)) != -1) {
		if (c == 'f')
			l->path = optarg;
		else if (c == 'p')
			l->payload_path = optarg;
		else if (numbers[c])
			*numbers[c] = strtoull(optarg, NULL, 10);
		else if (switches[c])
			*switches[c] = true;
		else
			return -EINVAL;
	}
	return check(l);
}

int main(int argc, char **argv)
{
	struct load l = {.depth = 1};
	static struct run r;

	if (parse(argc, argv, &l) < 0)
		return usage();
	r.load = &l;
	payload_map(&r);
	r.fd = open(l.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (r.fd < 0)
		fail(l.path);
	r.start_cpu_s = cpu_seconds();
	r.start_ns = now_ns();
	if (l.verify)
		run_verify(&r);
	else if (l.fdatasync)
		run_synced(&r);
	else
		run_deep(&r);
	r.acked_ns = now_ns();
	if (!l.verify && fsync(r.fd) < 0)
		fail("fsync");
	r.end_ns = now_ns();
	if (!l.verify)
		report(&r);
	if (close(r.fd) < 0)
		fail("close");
	return 0;
}
