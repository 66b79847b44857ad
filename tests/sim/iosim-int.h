/*
 * iosim-int.h - the parts of the simulated disk, shared by its own files only
 *
 * content   sparse pages, shared copy-on-write between what is cached, what is durable, and clones
 * node      a file or a directory; files carry pending changes, the disk carries pending names
 * table     a directory's names; each directory has a visible one and a durable one
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "sim/iosim.h"
#include "sim/rng.h"

#define SIM_PAGE     4096u
#define SIM_SECTOR   512u
#define SIM_FILE_MAX (64ull << 30)
#define SIM_NAME_MAX 256 /* of a whole path */

/* --- content (iosim-content.c) --- */
struct page {
	atomic_uint refs;
	uint8_t data[SIM_PAGE];
};

struct content {
	struct page **pages; /* NULL: hole */
	size_t n_pages;      /* of the array */
	uint64_t size;
	uint64_t allocated; /* pages that are not NULL */
};

void *xcalloc(size_t n, size_t size);
size_t content_read(const struct content *c, void *buf, size_t len, uint64_t off);
/* data NULL: zeros (allocated). */
void content_write(struct content *c, const uint8_t *data, size_t len, uint64_t off);
void content_truncate(struct content *c, uint64_t size);
void content_punch(struct content *c, uint64_t off, uint64_t len);
/* Holes that a write there would fill. */
uint64_t content_holes(const struct content *c, size_t len, uint64_t off);
void content_copy(struct content *dst, const struct content *src);
void content_release(struct content *c);

/* --- changes of one file --- */
struct blob {
	atomic_uint refs;
	size_t len;
	uint8_t data[];
};

enum change_kind { CHANGE_WRITE, CHANGE_TRUNCATE, CHANGE_PUNCH };

struct change {
	enum change_kind kind;
	uint64_t off, len;
	struct blob *blob; /* of a write; NULL: zeros */
};

struct blob *blob_new(const uint8_t *data, size_t len); /* NULL when it is all zeros */
struct blob *blob_ref(struct blob *b);
void blob_unref(struct blob *b);
void change_apply(const struct change *ch, struct content *c);

/* --- nodes and names (iosim-node.c) --- */
struct node;

struct entry {
	char *name;
	struct node *node; /* a reference */
};

struct table {
	struct entry *entries;
	size_t n, cap;
};

struct node {
	unsigned refs;
	bool is_dir;
	unsigned links;    /* visible names */
	unsigned handles;  /* open files of this boot */
	struct node *twin; /* while cloning: its copy */
	bool seen;         /* while listing nodes */
	/* file */
	struct content cached, durable;
	struct change *changes; /* pending, in order */
	size_t n_changes, cap_changes;
	/* directory */
	struct table names, durable_names;
	uint64_t ops_left; /* in a crash: pending operations that may still survive */
	bool ops_subset;   /* .. any of them, not only the first */
};

struct node *node_new(bool is_dir);
struct node *node_ref(struct node *n);
void node_unref(struct node *n);
void node_change_add(struct node *n, const struct change *ch);
void node_changes_clear(struct node *n);
struct node *table_get(const struct table *t, const char *name);
void table_set(struct table *t, const char *name, struct node *n);
void table_del(struct table *t, const char *name);
void table_copy(struct table *dst, const struct table *src);
void table_release(struct table *t);

/* One pending operation on names: dir/name becomes node (or goes); a rename also drops its source.
 */
struct dir_op {
	struct node *dir; /* references, all */
	char *name;
	struct node *node;     /* NULL: unlinked */
	struct node *from_dir; /* NULL: no rename */
	char *from;
};

bool dir_op_touches(const struct dir_op *op, const struct node *dir);
/* They name the same thing, so the later must not overtake the earlier. */
bool dir_op_conflicts(const struct dir_op *a, const struct dir_op *b);
void dir_op_apply_durable(const struct dir_op *op);
void dir_op_release(struct dir_op *op);

/* --- the disk --- */
struct fault_rule {
	struct iosim_fault f;
	char prefix[SIM_NAME_MAX];
	uint64_t seen, fired;
};

struct iosim {
	struct io base;
	pthread_mutex_t lock; /* guards everything below and all nodes */
	struct rng rng;
	struct node *root;
	struct dir_op *dir_ops; /* pending, in order, all directories */
	size_t n_dir_ops, cap_dir_ops;
	unsigned boot; /* files opened in an earlier one are dead */
	unsigned n_open;
	bool is_off;
	uint64_t step, crash_step;
	struct fault_rule rules[IOSIM_FAULTS_MAX];
	unsigned n_rules;
	uint64_t faults_fired;
	uint64_t capacity_bytes; /* 0: no limit */
	uint64_t used_pages;
	unsigned short_permille;
	iosim_trace_fn *trace;
	void *trace_arg;
};

struct sim_file {
	struct io_file base;
	struct node *node;
	char name[SIM_NAME_MAX];
	unsigned flags;
	unsigned boot;
};

static inline struct iosim *sim_of(struct io *io)
{
	return CONTAINER_OF(io, struct iosim, base);
}

extern const struct io_ops iosim_ops;
/* Walks a path to a node; *ret_dir is where its last part is looked up, *ret_last that part. */
int sim_walk(struct iosim *s, const char *name, struct node **ret_dir, const char **ret_last);
/* NULL when there is none.  "" is the top. */
struct node *sim_find(struct iosim *s, const char *name);
/* What a failed or interrupted write of len bytes got done. */
size_t sim_partial(struct iosim *s, size_t len);
/* Outcome of a failed sync. */
void sim_sync_fail(struct iosim *s, struct node *n);
/* Every node that a visible, durable or pending name leads to, once; each a reference. */
struct node_list {
	struct node **nodes;
	size_t n, cap;
};
void sim_nodes(struct iosim *s, struct node_list *ret_list);
void sim_nodes_release(struct node_list *l);
/* Counts names and space anew, after the tables were replaced; no file is open. */
void sim_recount(struct iosim *s);
/* All pending operations on this directory become durable, and what they depend on. */
void sim_sync_names(struct iosim *s, struct node *dir);
/* The fate of a call: 0 to go on, else the error.  *ret_died: the power went at this step. */
int sim_fate(struct iosim *s, enum iosim_op op, const char *name, const char *name2, uint64_t off,
        uint64_t len, bool *ret_died);
