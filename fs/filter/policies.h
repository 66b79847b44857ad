/*
 * policies.h - named stacks: saved from an image or a directory, applied to others
 *
 * A row RECORD_POLICY (owner 0, id: a number), JSON {name, saved_ns, stages: [{type, settings:
 * ["key=value"]}]}, stages in the order of the stack.
 */
#pragma once

#include <jansson.h>

#include "fs/datastore.h"
#include "stage/stack.h"

#define POLICY_NAME_MAX 63u

struct policy_stage {
	const char *type;
	const char *settings[SETTINGS_MAX];
	unsigned n_settings;
};
struct policy {
	uint64_t id;
	const char *name;
	uint64_t saved_ns;
	unsigned n;
	struct policy_stage stages[STACK_LINKS_MAX];
	json_t *json; /* owned; the texts are in it */
};

/* -ENOENT with em. */
int policy_load(
        struct ns *ns, const char *name, struct policy **ret_p, struct errmsg *em) MUST_CHECK;
void policy_free(struct policy *p); /* accepts NULL */
/* Any bytes.  -EUCLEAN; -ENOMEM. */
int policy_decode(uint64_t id, const void *value, size_t len, struct policy **ret_p) MUST_CHECK;
