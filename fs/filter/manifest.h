/*
 * manifest.h - the attachments of an inode: rows to a stack plan and back
 *
 * A row RECORD_ATTACHMENT (owner: inode, id: link id) holds a JSON object, canonical (keys sorted, no
 * spaces):
 *
 *	type          name of the stage type
 *	version       of the type, when it was attached
 *	class         "inspect" .. "tier"
 *	capabilities  number, enum stage_capability
 *	settings      ["key=value"] as given, sorted by key
 *	state         "active", "converting in", "converting out"
 *	forced        true, false
 *	domain        crypto domain of what is stored (class encrypt only)
 *	hash          SHA-256 of the object without it, in hex
 *
 * The hash tells a row that was changed by something other than weir, or damaged.  What is stored
 * through such a stage cannot be trusted to be read right, so if it transforms or holds data the
 * image does not open; of an observer only the log tells.
 *
 * Threads: none of its own; reads of the namespace from any thread.
 */
#pragma once

#include "fs/datastore.h"
#include "stage/stack.h"

#define MANIFEST_CAPABILITY_MAX 0xffffu

struct manifest {
	struct stack_plan plan; /* sorted */
	uint32_t domain;        /* of its encrypt stage, whatever the state; 0: none */
	unsigned n_damaged;
	uint64_t damaged[STACK_LINKS_MAX]; /* links whose row is not as it was written */
};

/* Never -ENOENT: an inode without attachments has an empty one. */
int manifest_load(
        struct ns *ns, uint64_t ino, struct manifest **ret_m, struct errmsg *em) MUST_CHECK;
int manifest_copy(const struct manifest *from, struct manifest **ret_m) MUST_CHECK;
void manifest_free(struct manifest *m); /* accepts NULL */
void manifest_freep(struct manifest **m);

/* As stack_plan_check_open, and refuses damaged rows of stages that it depends on. */
int manifest_check_open(
        const struct manifest *m, unsigned *ret_missing, struct errmsg *em) MUST_CHECK;
/* Takes out of the plan what bytes can be read without.  Settings of chunk stages, too. */
void manifest_keep_needed(struct manifest *m);
/* How the image's chunks are to be stored. */
void manifest_policy(const struct manifest *m, struct image_policy *ret_policy);
bool manifest_is_damaged(const struct manifest *m, uint64_t link);
/* May that happen to an image with this stack, as far as settings alone say (stage_type.allows)? */
int manifest_allows(
        const struct manifest *m, const struct stage_event *event, struct errmsg *em) MUST_CHECK;

/* --- one row --- */
/* Takes ownership of item's memory; -E2BIG: too many. */
int manifest_add(struct manifest *m, struct stack_item *item) MUST_CHECK;
void manifest_remove(struct manifest *m, uint64_t link);
/* A new item of a type that is there, with these settings over the defaults; state active. */
int manifest_item_make(const struct stage_type *type, uint64_t link, const char *const *settings,
        unsigned n, struct stack_item *ret_item, struct errmsg *em) MUST_CHECK;
void manifest_item_release(struct stack_item *item);
/* The row's text, malloc'ed; NULL: no memory. */
char *manifest_item_encode(const struct stack_item *item, uint32_t domain);
/*
 * Any bytes.  -EUCLEAN: no such row can have been written; else *ret_damaged: the hash does not fit.  A
 * type that this program lacks, or whose settings do not parse (any more), leaves item->type NULL.
 */
int manifest_item_decode(uint64_t link, const void *value, size_t len, struct stack_item *ret_item,
        uint32_t *ret_domain, bool *ret_damaged) MUST_CHECK;

/*
 * Merges changes ("key=value") into the settings given so far ("key=value" lines, may be NULL):
 * *ret_texts is owned by the caller (one allocation), *ret_n of them, at most SETTINGS_MAX of one key
 * each.  "key=" takes what was given back to the default.  replace: only the changes count.
 * -EINVAL with em: no "key=value".
 */
int manifest_merge(const char *given, const char *const *changes, unsigned n_changes, bool replace,
        char ***ret_texts, unsigned *ret_n, struct errmsg *em) MUST_CHECK;

const char *manifest_state_name(enum stack_state state);
