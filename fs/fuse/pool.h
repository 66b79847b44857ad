/*
 * pool.h - the threads that serve a FUSE session
 *
 * As many as there are cores read and answer requests; more only wake each other up in turn for
 * nothing [4 KiB cached reads at depth 32 took the daemon 4.0 us each with 2 threads on 2 cores,
 * 5.6 with 8, 7.5 with 24].  One that has to wait (base/blocking.h) lets a spare one read
 * meanwhile, so slow requests do not hold up fast ones.
 */
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "base/compiler.h"

struct pool;

/* threads_max: most threads at all; 0: default. */
int pool_create(struct fuse_session *fuse, unsigned threads_max, struct pool **ret_pool) MUST_CHECK;
/* All of its threads are gone.  Accepts NULL. */
void pool_free(struct pool *p);
/*
 * Serves on threads of its own until the session ends; returns when they are gone, and every request
 * is answered.
 */
int pool_serve(struct pool *p) MUST_CHECK;
/* Any thread: makes pool_serve return, whether requests keep coming or not. */
void pool_end(struct pool *p);
