/*
 * change-private.h - one change of one inode's stack, in the making; private to change*.c
 *
 * change.c does it; change-prepare.c says what it is to be: each prepare function checks the rules,
 * turns c->next into what is wanted, and adds a step for each link that is touched.
 */
#pragma once

#include "fs/filter/manager-private.h"

#define STEPS_MAX (2u * STACK_LINKS_MAX)

/* What happens to one link. */
struct step {
	const char *action; /* for the audit trail */
	uint64_t link;
	char type[32];
	char *old_row, *new_row;     /* owned; NULL: none */
	char *old_value, *new_value; /* owned; settings, for the audit trail */
	struct job job;
	char *job_row; /* owned; NULL: no job begins */
	bool job_ends;
};

struct change {
	struct manager *m;
	const struct filter_caller *who; /* NULL: the daemon itself */
	const struct target *t;
	struct filter_image *fi;     /* locked; NULL: a directory */
	struct image *img;           /* NULL: a directory, or its key is locked */
	struct manifest *now, *next; /* owned */
	bool has_data;
	bool needs_empty;   /* decided by has_data being false */
	struct step *steps; /* owned; room for STEPS_MAX */
	unsigned n;
};

/* What is asked for. */
struct wish {
	const char *action;
	const struct stage_type *type; /* attach */
	const char *name;              /* set, detach: "TYPE" or "TYPE:LINK" */
	const struct policy *policy;
	const char *const *settings;
	unsigned n;
	bool force, replace;
	uint64_t link;     /* finish */
	uint32_t from, to; /* domain */
};

typedef int prepare_fn(struct change *c, const struct wish *w, struct errmsg *em);
prepare_fn attach_prepare, set_prepare, detach_prepare;
/* For keys; for jobs. */
prepare_fn domain_prepare, finish_prepare;
prepare_fn policy_prepare;
