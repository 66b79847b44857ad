/*
 * type.c - the stage types that this program has
 *
 * Filled once from stage_builtin[], then by stage_type_add().  A table that is wrong is refused here,
 * with the reason, so that everything behind can rely on it: which callbacks are there follows from
 * the class and the capabilities, and nobody has to ask again.
 *
 * Threads: any; types are constants that live as long as the program, so a pointer stays good after
 * the lock is gone, also that of a disabled type.
 */
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/log.h"
#include "stage/stack.h"

#define TYPES_MAX       64u
#define CONTEXT_MAX     256u
#define CAPABILITIES    (2u * STAGE_SEES_READS - 1)
#define TYPE_NAME_BYTES sizeof(((struct stack_item *)NULL)->type_name)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t filled = PTHREAD_ONCE_INIT;
static const struct stage_type *types[TYPES_MAX];
static unsigned n_types;

static const char *const class_names[STAGE_CLASSES] = {
        [STAGE_INSPECT] = "inspect",
        [STAGE_LIMIT] = "limit",
        [STAGE_PROTECT] = "protect",
        [STAGE_REPLICATE] = "replicate",
        [STAGE_CACHE] = "cache",
        [STAGE_TRANSFORM] = "transform",
        [STAGE_DEDUPE] = "dedupe",
        [STAGE_COMPRESS] = "compress",
        [STAGE_ENCRYPT] = "encrypt",
        [STAGE_INTEGRITY] = "integrity",
        [STAGE_TIER] = "tier",
};

const char *stage_class_name(enum stage_class class)
{
	ASSERT(class < STAGE_CLASSES);
	return class_names[class];
}

int stage_class_parse(const char *name, enum stage_class *ret_class)
{
	for (unsigned i = 0; i < STAGE_CLASSES; i++)
		if (strcmp(name, class_names[i]) == 0) {
			*ret_class = (enum stage_class)i;
			return 0;
		}
	return -EINVAL;
}

/* --- what a table must be like --- */

static bool name_is_good(const char *name)
{
	if (!name || !islower((unsigned char)*name) || strlen(name) >= TYPE_NAME_BYTES)
		return false;
	for (; *name; name++)
		if (!islower((unsigned char)*name) && !isdigit((unsigned char)*name) &&
		        *name != '-')
			return false;
	return true;
}

/* A reason, or NULL. */
static const char *chunk_type_wrong(const struct stage_type *t)
{
	if (t->class < STAGE_DEDUPE)
		return "works on chunks, in a class that sees requests";
	if (t->handles || t->pre || t->post || t->encode || t->decode)
		return "works on chunks and wants requests";
	return NULL;
}

static const char *host_driven_wrong(const struct stage_type *t)
{
	if (!t->encode || !t->decode)
		return "encodes and does not decode, or the other way round";
	if (t->pre || t->post || t->handles || t->context_size)
		return "has encode and decode, and wants requests besides";
	if (!(t->capabilities & STAGE_TRANSFORMS))
		return "has encode and decode, and is not a transform";
	return NULL;
}

static const char *request_type_wrong(const struct stage_type *t)
{
	if (t->class >= STAGE_DEDUPE)
		return "sees requests, in a class that works on chunks";
	if (!t->create || !t->destroy)
		return "has no create or no destroy";
	if (t->policy)
		return "sees requests and wants to make policy";
	if (t->encode || t->decode)
		return host_driven_wrong(t);
	if (t->handles && !t->pre)
		return "handles operations without pre()";
	if (t->handles & ~t->understands || t->understands & ~OPS_ALL)
		return "handles what it does not understand";
	return NULL;
}

static const char *type_wrong(const struct stage_type *t)
{
	if (!name_is_good(t->name))
		return "bad name";
	if (t->class >= STAGE_CLASSES || t->capabilities & ~CAPABILITIES)
		return "unknown class or capability";
	if (!t->summary || !t->settings || t->context_size > CONTEXT_MAX)
		return "no summary, no list of settings, or too large a context";
	return t->capabilities & STAGE_CHUNKS ? chunk_type_wrong(t) : request_type_wrong(t);
}

/* The table's own defaults must be values that it allows. */
static int check_defaults(const struct stage_type *t, struct errmsg *em)
{
	struct settings s;
	struct errmsg why = {0};
	unsigned n = 0;

	while (t->settings[n].key)
		n++;
	if (n > SETTINGS_MAX)
		return errmsg_set(em, -EINVAL, "filter type '%s' has too many settings", t->name);
	const int r = settings_parse(t->settings, NULL, 0, &s, &why);
	if (r < 0)
		return errmsg_set(em, r, "filter type '%s': %s", t->name, why.text);
	settings_release(&s);
	return 0;
}

/* --- the list --- */

/* Under the lock. */
static int index_of(const char *name)
{
	for (unsigned i = 0; i < n_types; i++)
		if (strcmp(types[i]->name, name) == 0)
			return (int)i;
	return -1;
}

static int add(const struct stage_type *t, struct errmsg *em)
{
	if (t->abi != STAGE_ABI || t->size != sizeof(*t))
		return errmsg_set(em, -EINVAL,
		        "filter type was built for another interface: version %u of %u bytes, "
		        "here version %u of %zu bytes",
		        t->abi, t->size, STAGE_ABI, sizeof(*t));
	const char *wrong = type_wrong(t);
	if (wrong)
		return errmsg_set(
		        em, -EINVAL, "filter type '%s': %s", t->name ? t->name : "", wrong);
	const int r = check_defaults(t, em);
	if (r < 0)
		return r;
	pthread_mutex_lock(&lock);
	const bool there = index_of(t->name) >= 0, full = n_types == TYPES_MAX;
	if (!there && !full)
		types[n_types++] = t;
	pthread_mutex_unlock(&lock);
	if (there)
		return errmsg_set(em, -EEXIST, "filter type '%s' is there already", t->name);
	if (full)
		return errmsg_set(em, -ENOSPC, "too many filter types, at most %u", TYPES_MAX);
	return 0;
}

static void fill(void)
{
	struct errmsg em = {0};

	for (unsigned i = 0; stage_builtin[i]; i++) {
		const int r = add(stage_builtin[i], &em);
		if (r < 0)
			log_error("bug: %s", em.text);
		ASSERT(r == 0);
	}
}

int stage_type_add(const struct stage_type *type, struct errmsg *em)
{
	pthread_once(&filled, fill);
	return add(type, em);
}

const struct stage_type *stage_type_find(const char *name)
{
	pthread_once(&filled, fill);
	pthread_mutex_lock(&lock);
	const int i = index_of(name);
	const struct stage_type *t = i < 0 ? NULL : types[i];
	pthread_mutex_unlock(&lock);
	return t;
}

int stage_type_disable(const char *name, struct errmsg *em)
{
	pthread_once(&filled, fill);
	pthread_mutex_lock(&lock);
	const int i = index_of(name);
	if (i >= 0) {
		n_types--;
		memmove(&types[i], &types[i + 1], (n_types - (unsigned)i) * sizeof(*types));
	}
	pthread_mutex_unlock(&lock);
	return i < 0 ? errmsg_set(em, -ENOENT, "no filter type '%s' (weir filter types)", name) : 0;
}

unsigned stage_type_count(void)
{
	pthread_once(&filled, fill);
	pthread_mutex_lock(&lock);
	const unsigned n = n_types;
	pthread_mutex_unlock(&lock);
	return n;
}

const struct stage_type *stage_type_at(unsigned i)
{
	pthread_once(&filled, fill);
	pthread_mutex_lock(&lock);
	const struct stage_type *t = i < n_types ? types[i] : NULL;
	pthread_mutex_unlock(&lock);
	return t;
}
