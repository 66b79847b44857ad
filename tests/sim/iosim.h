/*
 * iosim.h - a simulated disk: struct io in RAM, with power loss and faults on demand
 *
 * The crash and fault tests of the whole engine run on it: segments, intent log, and SQLite through
 * its VFS.  What a program sees is an ordinary directory.  Behind it, the disk keeps apart what is
 * durable and what is only in the page cache:
 *
 *	writes, truncates, punches   pending until io_sync() of that file
 *	create, unlink, rename, mkdir  pending until io_sync_dir() of the directory; io_sync() of a
 *	                             new file does NOT keep its name
 *	rename                       old or new state, never neither; across directories, a sync of
 *	                             either makes it durable
 *
 * Power loss (iosim_crash) then decides what became of the pending things.  Steps: every mutating
 * call (write, sync, truncate, punch, create, unlink, rename, mkdir, sync_dir) that reaches the
 * disk is numbered from 1; opening an existing file, a mkdir of what exists, and calls refused for
 * their arguments are none.  A test counts the steps of a workload once, then cuts the power at
 * each of them:
 *
 *	for (step = 1; step <= n; step++) {
 *		iosim_create(seed, &sim);
 *		iosim_crash_at(sim, step);
 *		run the workload on iosim_io(sim), drop the process state (calls fail with -EIO)
 *		iosim_crash(sim, IOSIM_RANDOM, seed);
 *		reopen on iosim_io(sim), check
 *		iosim_free(sim);
 *	}
 *
 * To try many outcomes of one crash: iosim_clone() the disk that lost its power, crash each clone
 * with another seed.
 *
 * Everything follows from the seeds and the order of the calls.  Out of memory aborts.
 *
 * Threads: any function from any thread, one mutex; but drop the process state before iosim_crash:
 * its open files are dead for good (-EIO, closing is allowed and needed), calls by name are not.
 */
#pragma once

#include "base/io.h"

struct iosim;

void iosim_create(uint64_t seed, struct iosim **ret_sim);
/* All files must be closed.  Accepts NULL.  io_free(iosim_io(sim)) is the same. */
void iosim_free(struct iosim *sim);
void iosim_freep(struct iosim **sim);
struct io *iosim_io(struct iosim *sim);
/*
 * The same disk once more: content, pending things, step counter, faults, random state.  Open files
 * and unlinked files that only they hold are not cloned.  Cheap: pages are shared until written.
 */
void iosim_clone(struct iosim *sim, struct iosim **ret_sim);
/* Other dice from here on: for clones of one prepared disk that are to fail in different ways. */
void iosim_reseed(struct iosim *sim, uint64_t seed);
unsigned iosim_open_files(struct iosim *sim);

/* --- power --- */
enum iosim_crash_mode {
	IOSIM_LOSE,   /* power loss: nothing pending survives */
	IOSIM_KEEP,   /* kill -9: the page cache survives, pending things stay pending */
	IOSIM_RANDOM, /* power loss: see iosim_crash */
};

/*
 * The process dies, and with LOSE and RANDOM the machine; then the power is back.  Open files are
 * dead; a crash_at is spent; faults stay set.
 * RANDOM, for each file: of the pending writes each is dropped, kept, or torn (a prefix to a 512
 * byte boundary, any subset of its 512 byte sectors, a prefix to any byte, or only the file's
 * growth, reading as zeros), and they reach the disk in order or in any order.  Of each directory's
 * pending operations a prefix survives, or a subset in which none overtakes an earlier one on the
 * same name. After LOSE and RANDOM everything that is there is durable.
 */
void iosim_crash(struct iosim *sim, enum iosim_crash_mode mode, uint64_t seed);
/*
 * The power goes at this step (0: not at all): that call and all later ones, reads too, return
 * -EIO and nothing becomes durable any more.  What the step wanted may be pending, whole or in
 * part.
 */
void iosim_crash_at(struct iosim *sim, uint64_t step);
void iosim_power_off(struct iosim *sim);
bool iosim_is_off(struct iosim *sim);
/* Steps so far. */
uint64_t iosim_steps(struct iosim *sim);
/* Everything becomes durable, names too; no step. */
void iosim_sync_all(struct iosim *sim);
/* Forgets clean cached pages: what a failed sync lost is no longer readable either. */
void iosim_drop_caches(struct iosim *sim);

/* --- faults --- */
enum iosim_op {
	IOSIM_WRITE = BIT(0),
	IOSIM_SYNC = BIT(1),
	IOSIM_TRUNCATE = BIT(2),
	IOSIM_PUNCH = BIT(3),
	IOSIM_CREATE = BIT(4),
	IOSIM_UNLINK = BIT(5),
	IOSIM_RENAME = BIT(6), /* prefix: of either name */
	IOSIM_MKDIR = BIT(7),
	IOSIM_SYNC_DIR = BIT(8),
	IOSIM_READ = BIT(9), /* no step */
	IOSIM_MUTATING = BIT(9) - 1,
};

/*
 * Zero means any, in each field but err.  What a failed call leaves behind:
 *	write     nothing, a part, or all of it, visible and pending
 *	sync      of what was pending each write became durable, torn or not at all, and is no longer
 *	          pending: a repeated sync succeeds without it, though reads still show it (Linux marks
 *	          the pages clean) until iosim_drop_caches or a crash
 *	others    nothing done; names stay pending
 */
struct iosim_fault {
	const char *prefix; /* of the names, e.g. "segments/", "log", "meta.db"; copied */
	unsigned ops;       /* of enum iosim_op; 0: all that mutate */
	uint64_t step;      /* not before this step */
	uint64_t step_end;  /* nor from this step on */
	uint64_t skip;      /* lets this many matching calls pass first */
	uint64_t count;     /* fails at most this many */
	unsigned permille;  /* of the matching calls, at random */
	int err;            /* negative: -EIO, -ENOSPC .. */
};

#define IOSIM_FAULTS_MAX 16
/* Rules are tried in order, the first that fires decides. */
void iosim_fault(struct iosim *sim, const struct iosim_fault *fault);
void iosim_faults_clear(struct iosim *sim);
/* Calls failed by faults so far. */
uint64_t iosim_faults_fired(struct iosim *sim);
/* The usual ones, under the prefix (NULL: all names). */
void iosim_fail_at(struct iosim *sim, uint64_t step, uint64_t count, int err);
void iosim_fail_rate(struct iosim *sim, const char *prefix, unsigned permille, int err);
void iosim_fail_sync(struct iosim *sim, const char *prefix, uint64_t skip, uint64_t count);
void iosim_fail_read(struct iosim *sim, const char *prefix, unsigned permille);

/* Total bytes (allocated 4 KiB pages count); growing writes beyond get -ENOSPC.  0: no limit. */
void iosim_set_capacity(struct iosim *sim, uint64_t bytes);
uint64_t iosim_used(struct iosim *sim);
/* This share of reads and writes is cut short (IO_DIRECT: at IO_ALIGN). */
void iosim_set_short(struct iosim *sim, unsigned permille);
/* Every byte of the range, as far as the file reaches, changes on the disk.  -ENOENT: no file. */
int iosim_corrupt(struct iosim *sim, const char *name, uint64_t off, uint64_t len, uint64_t seed);

/* Called for each step, before its outcome is decided, locked: it must not call the disk. */
typedef void iosim_trace_fn(
        void *arg, uint64_t step, enum iosim_op op, const char *name, uint64_t off, uint64_t len);
void iosim_set_trace(struct iosim *sim, iosim_trace_fn *fn, void *arg);
const char *iosim_op_name(enum iosim_op op);
