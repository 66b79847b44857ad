/*
 * sandbox.c - privileges, limits, system calls
 *
 * In this order, for each step needs what the next takes away.  System calls that are not on the
 * list fail with EPERM instead of killing: libraries probe for what the kernel has (hints to the
 * page cache, for instance) and live without.  No file can be opened, no process started, no socket
 * made, no memory made executable; what is open stays all that there is.
 */
#include "tools/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef HAVE_SECCOMP
#include <seccomp.h>
#endif

#define NOBODY 65534u

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LIMIT_MEMORY 0 /* their shadow takes terabytes of addresses */
#else
#define LIMIT_MEMORY 1
#endif

static int limit(int resource, uint64_t n)
{
	const struct rlimit l = {n, n};

	return setrlimit(resource, &l) < 0 ? -errno : 0;
}

static int become_nobody(void)
{
	if (geteuid() != 0)
		return 0;
	if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
	        setresuid(NOBODY, NOBODY, NOBODY) < 0)
		return -errno;
	return 0;
}

static int set_limits(const struct sandbox_limits *l)
{
	int r = limit(RLIMIT_CORE, 0);

	if (r == 0)
		r = limit(RLIMIT_CPU, l->cpu_seconds);
	if (r == 0)
		r = limit(RLIMIT_FSIZE, l->file_bytes);
	if (r == 0)
		r = limit(RLIMIT_NOFILE, (uint64_t)l->fds);
	if (r == 0 && LIMIT_MEMORY)
		r = limit(RLIMIT_AS, l->memory_bytes);
	return r;
}

#ifdef HAVE_SECCOMP
static int allow(scmp_filter_ctx ctx)
{
	static const int calls[] = {SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(write),
	        SCMP_SYS(pwrite64), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(munmap),
	        SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(close), SCMP_SYS(exit),
	        SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn), SCMP_SYS(clock_gettime),
	        SCMP_SYS(gettimeofday), SCMP_SYS(getrandom), SCMP_SYS(futex)};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(calls) && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	/* Memory, but none that can be executed. */
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
		        SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
		        SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	/* fstat() of newer C libraries: the descriptor's own, no path. */
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
		        SCMP_A3(SCMP_CMP_EQ, AT_EMPTY_PATH));
	return r;
}

static int filter_calls(bool *ret_filtered)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));

	if (!ctx)
		return -ENOMEM;
	int r = allow(ctx);
	if (r == 0)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	if (r == 0)
		*ret_filtered = true;
	return r;
}
#else
static int filter_calls(bool *ret_filtered)
{
	*ret_filtered = false;
	return 0;
}
#endif

int sandbox_enter(const struct sandbox_limits *limits, struct sandbox_state *ret_state)
{
	struct sandbox_state state = {0};

	if (close_range((unsigned)limits->fds, ~0u, 0) < 0)
		return -errno;
	int r = become_nobody();
	if (r == 0)
		r = set_limits(limits);
	if (r == 0 && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	                      prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0))
		r = -errno;
	state.unprivileged = geteuid() != 0;
	if (r == 0)
		r = filter_calls(&state.seccomp);
	if (r == 0)
		*ret_state = state;
	return r;
}
