/*
 * confine.h - limits for a program that reads what a stranger made
 *
 * The program may open the files that it is to work on, and read what programs and libraries are
 * installed; nothing else: no other file, whatever an image may name, no TCP connection (as far as
 * the kernel can, with Landlock: Linux 5.13, TCP from 6.7).  Its memory, CPU time and the size of
 * what it writes are limited.
 *
 * Call between fork and exec, in a process with one thread.
 */
#pragma once

#include "base/compiler.h"

struct confine_limits {
	int read_fd, write_fd; /* the files that may be opened again by their descriptors; or -1 */
	uint64_t memory_bytes; /* address space */
	unsigned cpu_seconds;  /* 0: no limit */
	uint64_t file_bytes;   /* largest file that it writes; 0: no limit */
	unsigned descriptors_max; /* that it has open */
};

/* Whether this kernel confines files. */
bool confine_can(void);
/* For good, for what is exec'ed, too.  0 or -errno; without Landlock only the limits are set. */
int confine_self(const struct confine_limits *limits) MUST_CHECK;
