/*
 * confine.c - see confine.h
 *
 * Landlock by its system calls, for the C library has no wrappers.  Rights that an older kernel does
 * not know are left out, by the version that it says it has; with none of them the limits remain,
 * and that a reader is told by name which files to open (qemu-img.c) and images that refer to others
 * are refused before (disk-format.c).
 */
#include "tools/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From the kernel's include/uapi/linux/landlock.h, which not every system has. */
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule       445
#define SYS_landlock_restrict_self  446
#endif
#define RULESET_VERSION   1u
#define RULE_PATH_BENEATH 1

#define FS_EXECUTE    (1ull << 0)
#define FS_WRITE_FILE (1ull << 1)
#define FS_READ_FILE  (1ull << 2)
#define FS_READ_DIR   (1ull << 3)
#define FS_TRUNCATE   (1ull << 14)
#define FS_IOCTL_DEV  (1ull << 15)
#define NET_TCP       3ull /* bind, connect */
#define SCOPES        3ull /* abstract Unix sockets, signals */

struct ruleset {
	uint64_t fs, net, scoped;
};

struct rule {
	uint64_t allowed;
	int32_t fd;
} __attribute__((packed));

static int landlock_version(void)
{
	return (int)syscall(SYS_landlock_create_ruleset, NULL, 0, RULESET_VERSION);
}

bool confine_can(void)
{
	return landlock_version() > 0;
}

/* All rights that this version knows: each is denied where no rule gives it. */
static struct ruleset ruleset_of(int version, size_t *ret_len)
{
	static const unsigned bits[] = {0, 13, 14, 15, 15, 16};
	const unsigned known = (unsigned)MIN(version, (int)ARRAY_SIZE(bits) - 1);
	struct ruleset rs = {.fs = (1ull << bits[known]) - 1};

	*ret_len = sizeof(rs.fs);
	if (version >= 4) {
		rs.net = NET_TCP;
		*ret_len = sizeof(rs.fs) + sizeof(rs.net);
	}
	if (version >= 6) {
		rs.scoped = SCOPES;
		*ret_len = sizeof(rs);
	}
	return rs;
}

static int rule_add(int ruleset, int fd, uint64_t allowed)
{
	const struct rule rule = {.allowed = allowed, .fd = fd};

	return syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno
	                                                                                : 0;
}

/* What is not there is not needed. */
static int rule_add_path(int ruleset, const char *path, uint64_t allowed)
{
	struct stat st;
	const int fd = open(path, O_PATH | O_CLOEXEC);

	if (fd < 0)
		return 0;
	int r = fstat(fd, &st) < 0 ? -errno : 0;
	if (r == 0)
		r = rule_add(ruleset, fd, allowed | (S_ISDIR(st.st_mode) ? FS_READ_DIR : 0));
	close(fd);
	return r;
}

/* What every program needs to start. */
static int rules_add_system(int ruleset)
{
	static const char *const paths[] = {"/usr", "/lib", "/lib32", "/lib64", "/bin", "/opt",
	        "/nix/store", "/gnu/store", "/etc/ld.so.cache", "/etc/ld.so.preload"};
	int r = rule_add_path(ruleset, "/dev/null", FS_READ_FILE | FS_WRITE_FILE);

	for (unsigned i = 0; i < ARRAY_SIZE(paths) && r == 0; i++)
		r = rule_add_path(ruleset, paths[i], FS_READ_FILE | FS_EXECUTE);
	return r;
}

static int landlock_enter(const struct confine_limits *l)
{
	const int version = landlock_version();
	size_t len;

	if (version <= 0)
		return 0;
	const struct ruleset rs = ruleset_of(version, &len);
	const int fd = (int)syscall(SYS_landlock_create_ruleset, &rs, len, 0);
	if (fd < 0)
		return -errno;
	int r = rules_add_system(fd);
	if (r == 0 && l->read_fd >= 0)
		r = rule_add(fd, l->read_fd, (FS_READ_FILE | FS_IOCTL_DEV) & rs.fs);
	if (r == 0 && l->write_fd >= 0)
		r = rule_add(fd, l->write_fd, (FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE) & rs.fs);
	if (r == 0 && syscall(SYS_landlock_restrict_self, fd, 0) < 0)
		r = -errno;
	close(fd);
	return r;
}

static int limit(int resource, uint64_t n)
{
	/* A second more, for only at the lower one it is told why it dies (SIGXCPU). */
	const uint64_t grace = resource == RLIMIT_CPU ? 1 : 0;
	struct rlimit l;

	if (getrlimit(resource, &l) < 0)
		return -errno;
	l.rlim_max = MIN(n + grace, l.rlim_max);
	l.rlim_cur = MIN(n, l.rlim_max);
	return setrlimit(resource, &l) < 0 ? -errno : 0;
}

int confine_self(const struct confine_limits *l)
{
	int r = limit(RLIMIT_CORE, 0);

	if (r == 0)
		r = limit(RLIMIT_AS, l->memory_bytes);
	if (r == 0)
		r = limit(RLIMIT_NOFILE, l->descriptors_max);
	if (r == 0 && l->cpu_seconds)
		r = limit(RLIMIT_CPU, l->cpu_seconds);
	if (r == 0 && l->file_bytes)
		r = limit(RLIMIT_FSIZE, l->file_bytes);
	if (r == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		r = -errno;
	return r == 0 ? landlock_enter(l) : r;
}
