/*
 * manager-private.h - what the parts of the manager share; private to fs/filter
 *
 * Lock order, outermost first (fs/vfs/vfs.c has the whole):
 *
 *	manager.lock          changes, one at a time
 *	what the vfs holds while it opens and closes a file
 *	filter_image.lock     an operation lock of one image: opening, closing, changing
 *	manager.record_lock   rows and audit entries, one writer at a time
 *	the gate
 *	manager.images_lock, filter_image.notes_lock, state tables, notices: state locks
 *	jobs.lock             nothing is entered while it is held
 */
#pragma once

#include <pthread.h>

#include "fs/filter/job.h"
#include "fs/filter/keys.h"
#include "fs/filter/manager.h"
#include "fs/filter/manifest.h"
#include "fs/filter/notice.h"
#include "fs/filter/policies.h"
#include "fs/filter/state.h"

#define FILTER_PATH_MAX      4096u
#define FILTER_IMAGE_BUCKETS 256u
#define AUDIT_MARKS_MAX      64u
#define RECEIVES_MAX         16u /* at a time; as many clients as there may be */

/* Types of links, for messages about a stage that is coming or going. */
struct link_note {
	uint64_t link;
	char type[32];
};

/*
 * What the manager knows of an image that is open, was open and has state that is on its way, or
 * could not be opened.
 */
struct filter_image {
	struct filter_image *next; /* images_lock */
	unsigned refs;             /* images_lock; 0: nobody holds it, it may be swept */
	bool gone;                 /* images_lock; the inode is removed */
	struct manager *m;
	uint64_t ino; /* or snapshot_image(): a file in a snapshot, which is only read */

	pthread_mutex_t lock;        /* guards what follows */
	struct manifest *manifest;   /* while pipeline */
	struct pipeline *pipeline;   /* owned */
	struct pipeline_below below; /* the vfs's */

	/* Set under lock and images_lock; stays until it is settled, also when the image is closed. */
	struct state_table *state;

	pthread_mutex_t notes_lock; /* guards what follows */
	char reason[ERRMSG_LEN];    /* why it did not open; "": it did, or nobody tried */
	bool locked;                /* that was its key */
	struct link_note notes[STACK_LINKS_MAX];
	unsigned next_note;
};

struct manager {
	struct datastore *ds; /* not owned */
	struct vfs *vfs;      /* not owned */
	bool read_only;
	struct stage_runtime *rt;
	struct keys *keys;
	struct jobs *jobs;
	struct notices *notices;
	struct schedules *schedules; /* fs/snapshot/schedule.h */

	pthread_mutex_t lock;
	pthread_mutex_t record_lock; /* guards the marks, too */
	/*
	 * Audit entries that are appended and not known to be durable, a ring: their hashes go to
	 * the log once they are, for one that a crash takes back must not be looked for later.
	 */
	struct audit_mark marks[AUDIT_MARKS_MAX];
	uint64_t marks_first, marks_end;
	pthread_mutex_t images_lock;
	struct filter_image *images[FILTER_IMAGE_BUCKETS];
	/* Hidden images that streams are being received into (fs/stream); 0: the place is free. */
	pthread_mutex_t receive_lock; /* innermost; guards them */
	uint64_t receiving[RECEIVES_MAX];
	/* For jobs; receive_lock.  NULL: nobody caches anything. */
	void (*invalidate)(void *arg, uint64_t ino, const char *name);
	void *invalidate_arg;
};

/*
 * manager: calls what manager_set_invalidate() set, if that is anything.  Nothing held: it may wait for
 * writes.
 */
void manager_invalidate(void *manager, uint64_t ino, const char *name);

/* --- rows --- */
/*
 * Brackets changes of rows with their audit entry: one gate section.  -EROFS, -ENOSPC, -EIO: not
 * begun.
 */
int rows_begin(struct manager *m, struct errmsg *em) MUST_CHECK;
/* The same for what must be recorded, or gives space back: a full disk does not stop it. */
int rows_begin_anyway(struct manager *m, struct errmsg *em) MUST_CHECK;
void rows_end(struct manager *m);
/* Makes rows durable (not content). */
int rows_flush(struct manager *m) MUST_CHECK;
/*
 * Between rows_begin and rows_end.  who NULL: the daemon itself; path: of the inode (target_path,
 * before the gate); the texts behind it may be NULL.
 */
int audit_note(struct manager *m, const struct filter_caller *who, const char *action, uint64_t ino,
        const char *path, const char *type, const char *old_value,
        const char *new_value) MUST_CHECK;

/* --- targets --- */
struct target {
	uint64_t ino;
	bool dir; /* the datastore, too */
	char path[FILTER_PATH_MAX];
};
/* A path in the mount; "" the datastore.  -ENOENT, -EINVAL (neither image nor directory) with em. */
int filter_target(
        struct ns *ns, const char *path, struct target *ret_t, struct errmsg *em) MUST_CHECK;
/* By inode number; the path as it is now, "" when there is none.  snapshot_image(): "PATH@NAME". */
void target_path(struct ns *ns, uint64_t ino, char path[FILTER_PATH_MAX]);

struct target_list {
	uint64_t *inos; /* owned; each once: directories and images */
	bool *dirs;     /* owned */
	size_t n_dirs;  /* they come first */
	size_t n, cap;
};
/* All that lies below a directory, and itself: directories, then images, each by number. */
int target_walk(struct ns *ns, uint64_t dir, struct target_list *ret_l) MUST_CHECK;
bool target_list_has(const struct target_list *l, uint64_t ino, bool dir);
void target_list_release(struct target_list *l);

/*
 * The attached item that "TYPE" or "TYPE:LINK" names; its index.  -ENOENT; -EINVAL with em: there
 * are several (names them).
 */
int item_find(const struct manifest *mf, const char *type, struct errmsg *em) MUST_CHECK;

/* --- images --- */
/* The image's entry, made if need be; NULL: no memory. */
struct filter_image *image_get(struct manager *m, uint64_t ino);
/* Only if it is there. */
struct filter_image *image_peek(struct manager *m, uint64_t ino);
void image_put(struct filter_image *fi);
/* With fi->lock held: the stages of a plan, for messages. */
void image_note_links(struct filter_image *fi, const struct stack_plan *plan);
void image_link_type(struct filter_image *fi, uint64_t link, char ret_type[32]);
void filter_images_free(struct manager *m);
/* The inode is removed, or the snapshot: ino as in struct filter_image. */
void image_gone(struct manager *m, uint64_t ino);
/* With fi->lock held: its state is in RAM from now on. */
int image_state_open(struct filter_image *fi, struct errmsg *em) MUST_CHECK;
/* Calls fn for each image that could not be opened. */
typedef void image_reason_fn(void *arg, uint64_t ino, const char *reason);
void images_unopenable(struct manager *m, image_reason_fn *fn, void *arg);

/* --- changes (change.c) --- */
/* What happened to one inode. */
struct change_result {
	uint64_t link;
	const char *state; /* "active", "converting in", "converting out", "gone" */
	bool sees_reads;   /* manager_invalidate() is due, once nothing is held */
};
/* With manager.lock held. */
int change_attach(struct manager *m, const struct filter_caller *who, const struct target *t,
        const struct stage_type *type, const char *const *settings, unsigned n, bool force,
        struct change_result *ret_res, struct errmsg *em) MUST_CHECK;
/*
 * "key=" goes back to its default; replace: so do settings that are not named.
 */
int change_set(struct manager *m, const struct filter_caller *who, const struct target *t,
        const char *type, const char *const *settings, unsigned n, bool replace,
        struct change_result *ret_res, struct errmsg *em) MUST_CHECK;
int change_detach(struct manager *m, const struct filter_caller *who, const struct target *t,
        const char *type, bool force, struct change_result *ret_res, struct errmsg *em) MUST_CHECK;
/* The whole stack becomes what the policy says, or nothing changes. */
int change_policy(struct manager *m, const struct filter_caller *who, const struct target *t,
        const struct policy *p, bool force, struct change_result *ret_res,
        struct errmsg *em) MUST_CHECK;
/*
 * For keys: the image or directory's encrypt attachment goes from domain `from` to `to`, and a reseal
 * job is queued for an image that holds data.  -ENOENT: it has none of that domain (any more).
 */
int change_domain(struct manager *m, const struct filter_caller *who, uint64_t ino, uint32_t from,
        uint32_t to, struct errmsg *em) MUST_CHECK;
/*
 * For jobs, takes manager.lock: the conversion of a link is done.  It becomes active or goes, and its
 * job row goes with it.
 */
int change_finish(struct manager *m, uint64_t ino, uint64_t link, struct errmsg *em) MUST_CHECK;
