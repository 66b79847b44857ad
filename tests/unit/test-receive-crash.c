/*
 * test-receive-crash.c - kill -9 at each write, sync and unlink of receiving
 *
 * A child opens the datastore, receives a stream, and kills itself at call number n of those that
 * change the disk.  Then the target is as it was or as it is to be, with its snapshot; nothing
 * else is left but a hidden image with its record; and the same stream, sent again, is received.
 *
 * WEIR_CRASH_POINTS: how many points of each kind, spread over all there are; default 10.
 */
#include <signal.h>
#include <sys/wait.h>
#include <xxhash.h>

#include "meta/meta.h"
#include "receive-world.h"

/* Shared with the child. */
static struct shared {
	long left; /* calls until the end; negative: it only counts */
	long calls;
	bool done;
	int result;
} * shared;

static void point(void)
{
	__atomic_fetch_add(&shared->calls, 1, __ATOMIC_RELAXED);
	if (__atomic_fetch_sub(&shared->left, 1, __ATOMIC_RELAXED) == 0)
		kill(getpid(), SIGKILL);
}

int __real_io_sync(struct io_file *f);
int __wrap_io_sync(struct io_file *f);
int __wrap_io_sync(struct io_file *f)
{
	point();
	return __real_io_sync(f);
}

int __real_io_pwrite(struct io_file *f, const void *buf, size_t len, uint64_t off);
int __wrap_io_pwrite(struct io_file *f, const void *buf, size_t len, uint64_t off);
int __wrap_io_pwrite(struct io_file *f, const void *buf, size_t len, uint64_t off)
{
	point();
	return __real_io_pwrite(f, buf, len, off);
}

int __real_io_unlink(struct io *io, const char *name);
int __wrap_io_unlink(struct io *io, const char *name);
int __wrap_io_unlink(struct io *io, const char *name)
{
	point();
	return __real_io_unlink(io, name);
}

/* --- a datastore as it was, again and again --- */

static void shell(const char *format, const char *a, const char *b)
{
	char cmd[512];

	snprintf(cmd, sizeof(cmd), format, a, b);
	assert_int_equal(system(cmd), 0);
}

static void base_keep(void)
{
	char base[96];

	snprintf(base, sizeof(base), "%s-base", world_dir);
	manager_down();
	shell("rm -rf '%2$s' && cp -a '%1$s' '%2$s'", world_dir, base);
}

static void base_restore(void)
{
	char base[96];

	snprintf(base, sizeof(base), "%s-base", world_dir);
	shell("rm -rf '%1$s' && cp -a '%2$s' '%1$s'", world_dir, base);
}

static void base_drop(void)
{
	char base[96];

	snprintf(base, sizeof(base), "%s-base", world_dir);
	shell("rm -rf '%s'%s", base, "");
}

/* A description of its own: the child's position is not ours. */
static int opened_again(int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	const int again_fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(again_fd >= 0);
	return again_fd;
}

/* The datastore is closed.  Returns whether the child came to its end. */
static bool child_receives(int fd, const char *target, long n)
{
	int status;

	*shared = (struct shared){.left = -1};
	const pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		manager_up(false);
		const int own = opened_again(fd);
		shared->calls = 0;
		shared->left = n;
		shared->result = receive(own, target);
		if (shared->result == 0 && store_sync(ds->store) == 0)
			shared->done = true;
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	return shared->done;
}

static void complaint(void *arg, const char *text)
{
	fail_msg("%s", text);
}

static void all_well(void)
{
	assert_int_equal(orphans(), hidden());
	assert_true(hidden() <= 1);
	assert_int_equal(store_sync(ds->store), 0);
	assert_int_equal(meta_check(ds->meta, complaint, NULL), 0);
}

static uint64_t sum_of(const char *name)
{
	struct vnode *f;
	static char buf[MIB];
	const uint64_t ino = ino_of(TOP, name);
	uint64_t sum = size_of(ino);

	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	for (uint64_t off = 0, size = sum; off < size; off += MIB)
		sum = XXH3_64bits_withSeed(buf, get(f, off, buf, MIN(size - off, MIB)), sum);
	vfs_release(vfs, f);
	return sum;
}

static long points_wanted(void)
{
	const char *text = getenv("WEIR_CRASH_POINTS");

	return text ? atol(text) : 10;
}

/* --- the two kinds --- */

struct kind {
	int fd;
	uint64_t before; /* sum of b; 0: it is not there */
	uint64_t after;  /* of a, in the state that is sent */
	unsigned snapshots;
	unsigned n_before, n_after; /* found as it was, as it is to be */
};

static void verify(struct kind *k)
{
	manager_up(false);
	all_well();
	const bool there = ino_of(TOP, "b") != 0;
	const uint64_t sum = there ? sum_of("b") : 0;
	if (sum == k->after) {
		k->n_after++;
		assert_int_equal(count_list("b"), k->snapshots);
		assert_int_equal(hidden(), 0);
	} else {
		k->n_before++;
		assert_true(sum == k->before);
		assert_int_equal(there ? count_list("b") : 0, k->snapshots - 1);
		received(k->fd, "b");
	}
	assert_true(sum_of("b") == k->after);
	assert_int_equal(count_list("b"), k->snapshots);
	assert_int_equal(hidden(), 0);
	all_well();
	manager_down();
}

static void sweep(struct kind *k)
{
	base_keep();
	assert_true(child_receives(k->fd, "b", -1));
	const long all = shared->calls, wanted = MIN(points_wanted(), all);
	base_restore();
	for (long i = 0; i < wanted; i++) {
		const long n = i * all / wanted;
		print_message("\rcall %ld of %ld ", n, all);
		child_receives(k->fd, "b", n);
		verify(k);
		base_restore();
	}
	print_message(
	        "\rof %ld calls: %u times as before, %u as after\n", all, k->n_before, k->n_after);
	assert_true(k->n_before > 0);
	manager_up(false);
	base_drop();
}

static void a_whole_image_is_there_or_not(void **state)
{
	struct kind k = {.snapshots = 1};

	make_source();
	k.fd = sent("a", "s1", NULL);
	k.after = sum_of("a");
	sweep(&k);
	close(k.fd);
}

static void an_update_is_there_or_not(void **state)
{
	struct kind k = {.snapshots = 2};

	make_source();
	const int fd = sent("a", "s1", NULL);
	received(fd, "b");
	close(fd);
	k.before = sum_of("b");
	change_source();
	k.fd = sent("a", "s2", "s1");
	k.after = sum_of("a");
	sweep(&k);
	close(k.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        MANAGER_CASE(a_whole_image_is_there_or_not),
	        MANAGER_CASE(an_update_is_there_or_not),
	};

	shared = mmap(
	        NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	shared->left = -1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
