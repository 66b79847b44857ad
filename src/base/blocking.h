/*
 * blocking.h - a thread says that it is about to wait
 *
 * A pool that keeps a fixed number of threads at work (fs/fuse/pool.c) lets another one take over
 * while one of its own waits for a disk, a flush or a throttle.  Code that waits brackets the wait;
 * in threads of no pool that does nothing.
 */
#pragma once

#include "base/compiler.h"

struct blocking_hooks {
	void (*begin)(void *arg);
	void (*end)(void *arg);
	void *arg;
};

/* Of this thread; NULL: none.  Not owned. */
void blocking_set(const struct blocking_hooks *hooks);
/* Pairs may be nested; only the outermost counts. */
void blocking_begin(void);
void blocking_end(void);
