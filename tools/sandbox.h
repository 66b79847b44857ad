/*
 * sandbox.h - gives up everything that a process does not need to compute on what it holds
 */
#pragma once

#include "base/compiler.h"

struct sandbox_limits {
	uint64_t memory_bytes; /* address space */
	unsigned cpu_seconds;
	uint64_t file_bytes; /* largest file that it may write (a memfd) */
	int fds;             /* 0 .. fds-1 stay open, no other can be opened */
};

struct sandbox_state {
	bool seccomp;      /* system calls are filtered */
	bool unprivileged; /* not root (any more) */
};

/*
 * For good: closes other descriptors, becomes nobody when it is root, sets limits, forbids all
 * system calls but reading, writing, memory and exit.  0 or -errno: the process must end then.
 */
int sandbox_enter(const struct sandbox_limits *limits, struct sandbox_state *ret_state) MUST_CHECK;
