/*
 * stack.h - what a stack is made of, its order and its rules; no I/O, no threads
 *
 * A *plan* is the list of an image's stages as the administrator attached them (rows of the
 * metadata store, or inherited), each with a *link id* that stays its name for life.  Here it is
 * ordered, checked against the rules, and its settings are checked against the types.
 */
#pragma once

#include "stage/stage.h"

#define STACK_LINKS_MAX 48u

enum stack_state {
	STACK_ACTIVE,
	STACK_CONVERTING_IN,  /* attached; a job still transforms what was there */
	STACK_CONVERTING_OUT, /* being detached; a job undoes it */
};

/* One attached stage. */
struct stack_item {
	uint64_t link; /* id, unique in the datastore; 0: implicit (not attached, defaults) */
	const struct stage_type *type; /* NULL: this program does not have it */
	char type_name[32];
	uint32_t type_version;  /* as attached; differs from type->version: another one */
	unsigned capabilities;  /* as attached */
	enum stage_class class; /* as attached */
	enum stack_state state;
	bool forced;
	struct settings settings; /* defs NULL when the type is missing */
	char *given;              /* the settings as given: "key=value\nkey=value"; owned */
};
/* This program has the type, in the version that it was attached with. */
static inline bool stack_item_usable(const struct stack_item *item)
{
	return item->type && item->type->version == item->type_version;
}

/* Its state is about the content (stage_state_of).  What is not known may be. */
static inline bool stack_item_of_content(const struct stack_item *item)
{
	return !item->type || item->type->state_of == STAGE_STATE_OF_CONTENT;
}

struct stack_plan {
	unsigned n;
	struct stack_item items[STACK_LINKS_MAX]; /* in order of the stack after stack_plan_sort */
};

/* --- types --- */
/* The list of types that this program has: built in, and (tests) added. */
const struct stage_type *stage_type_find(const char *name); /* NULL: none */
/* Refuses another ABI, another size, a name that is there, nonsense in the table. */
int stage_type_add(const struct stage_type *type, struct errmsg *em) MUST_CHECK;
/* Forgets a type (mount option without=TYPE); before any pipeline is opened. */
int stage_type_disable(const char *name, struct errmsg *em) MUST_CHECK;
unsigned stage_type_count(void);
const struct stage_type *stage_type_at(unsigned i);
const char *stage_class_name(enum stage_class class); /* "inspect" .. "tier" */
int stage_class_parse(const char *name, enum stage_class *ret_class) MUST_CHECK;

/* --- settings --- */
/*
 * Fills settings from n "key=value" texts over the defaults of defs; keeps its own copy of every
 * text (settings_release).  -EINVAL with em: unknown key (names the nearest), bad value (says what
 * is allowed), a key given twice.
 */
int settings_parse(const struct setting_def *defs, const char *const *texts, unsigned n,
        struct settings *ret_settings, struct errmsg *em) MUST_CHECK;
/* Does the key of a "key=value" text exist?  -EINVAL with em (names the nearest). */
int settings_key_check(
        const struct setting_def *defs, const char *text, struct errmsg *em) MUST_CHECK;
void settings_release(struct settings *s);
int settings_copy(const struct settings *from, struct settings *ret_to) MUST_CHECK;
/* Every value the same, given or by default. */
bool settings_equal(const struct settings *a, const struct settings *b);
/* The given ones as "key=value" lines, sorted by key: what is stored and hashed; malloc'ed. */
char *settings_text(const struct settings *s);
/* A value for people: "64M", "10s", "on"; buf of at least 64 bytes, or the text itself. */
const char *setting_show(
        const struct setting_def *def, const struct setting *value, char *buf, size_t len);

/* --- plans --- */
void stack_plan_release(struct stack_plan *plan);
int stack_plan_copy(const struct stack_plan *from, struct stack_plan *ret_to) MUST_CHECK;
/* By class, then by link id. */
void stack_plan_sort(struct stack_plan *plan);
/* Index, or -1. */
int stack_plan_find(const struct stack_plan *plan, uint64_t link);
/* Of that type, the first from `from` on; or -1. */
int stack_plan_find_type(const struct stack_plan *plan, const char *type, int from);
/*
 * May `item` be added?  -EPERM where --force would let it (em says why and that), -EINVAL where
 * nothing would: too many, a second of a STAGE_SINGLE type, settings that the type refuses.
 * has_data: the image holds something already.
 */
int stack_plan_check_attach(const struct stack_plan *plan, const struct stack_item *item,
        bool has_data, bool force, struct errmsg *em) MUST_CHECK;
/* May the link be taken out now? */
int stack_plan_check_detach(const struct stack_plan *plan, uint64_t link, bool has_data, bool force,
        struct errmsg *em) MUST_CHECK;
/*
 * Can an image with this stack be opened by this program?  -EIO with em: a stage that transforms
 * or holds data is missing or of another version.  Observers that are missing are skipped:
 * *ret_missing counts them.
 */
int stack_plan_check_open(
        const struct stack_plan *plan, unsigned *ret_missing, struct errmsg *em) MUST_CHECK;
/* What the chunk stages of the plan, implicit ones included, make of the image's policy. */
void stack_plan_policy(const struct stack_plan *plan, struct image_policy *ret_policy);
