/*
 * mount-options.c - the options of a mount: "-o cache=2G,allow_other,noatime"
 *
 * One static table says what each name means.  Commas inside a value cannot be written: no option
 * of ours needs one.
 */
#include "tools/mount-options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "tools/cmd.h"
#include "tools/print.h"

enum option_kind {
	KIND_SIZE,    /* ours: a size */
	KIND_NUMBER,  /* ours: a whole number */
	KIND_SECONDS, /* ours: seconds, a decimal fraction allowed */
	KIND_TYPES,   /* ours: names of filter types, added to those named before */
	KIND_KEY,     /* ours: NAME:FILE, one more to unlock */
	KIND_FLAG,    /* ours: takes no value */
	KIND_FUSE,    /* passed on */
	KIND_DROP,    /* for mount(8), fstab, systemd; or the default anyway */
};

/* Order of the values within an option's kind. */
enum {
	OPT_OVERLAY,
	OPT_CACHE,
	OPT_INDEX,
	OPT_MAP,
	OPT_THREADS,
	OPT_TXG,
	OPT_RO,
	OPT_RW,
	OPT_ALLOW_OTHER,
	OPT_DEFAULT_PERMISSIONS,
};

struct option_rule {
	const char *name; /* with '=' when a value follows */
	enum option_kind kind;
	int which;         /* OPT_*, of our own */
	uint64_t min, max; /* of a value; bytes, number or ns */
};

#define MIB (1ull << 20)
#define TIB (1ull << 40)

static const struct option_rule rules[] = {
        {"cache=", KIND_SIZE, OPT_CACHE, MIB, 16 * TIB},
        {"index=", KIND_SIZE, OPT_INDEX, MIB, TIB},
        {"overlay=", KIND_SIZE, OPT_OVERLAY, 16 * MIB, TIB},
        {"map=", KIND_SIZE, OPT_MAP, MIB, TIB},
        {"threads=", KIND_NUMBER, OPT_THREADS, 1, 256},
        {"txg=", KIND_SECONDS, OPT_TXG, NS_PER_SEC / 10, 60 * NS_PER_SEC},
        {"without=", KIND_TYPES},
        {"key=", KIND_KEY},
        {"ro", KIND_FLAG, OPT_RO},
        {"rw", KIND_FLAG, OPT_RW},
        {"allow_other", KIND_FLAG, OPT_ALLOW_OTHER},
        {"default_permissions", KIND_FLAG, OPT_DEFAULT_PERMISSIONS},
        {"allow_root", KIND_FUSE},
        {"suid", KIND_FUSE},
        {"nosuid", KIND_FUSE},
        {"dev", KIND_FUSE},
        {"nodev", KIND_FUSE},
        {"exec", KIND_FUSE},
        {"noexec", KIND_FUSE},
        {"sync", KIND_FUSE},
        {"async", KIND_FUSE},
        {"dirsync", KIND_FUSE},
        {"atime", KIND_FUSE},
        {"noatime", KIND_FUSE},
        {"max_read=", KIND_FUSE},
        {"context=", KIND_FUSE},
        {"fscontext=", KIND_FUSE},
        {"defcontext=", KIND_FUSE},
        {"rootcontext=", KIND_FUSE},
        {"defaults", KIND_DROP},
        {"auto", KIND_DROP},
        {"noauto", KIND_DROP},
        {"nofail", KIND_DROP},
        {"_netdev", KIND_DROP},
        {"user", KIND_DROP},
        {"user=", KIND_DROP},
        {"users", KIND_DROP},
        {"nouser", KIND_DROP},
        {"owner", KIND_DROP},
        {"group", KIND_DROP},
        {"comment=", KIND_DROP},
        {"diratime", KIND_DROP},
        {"nodiratime", KIND_DROP},
        {"relatime", KIND_DROP},
        {"norelatime", KIND_DROP},
        {"strictatime", KIND_DROP},
        {"nostrictatime", KIND_DROP},
        {"lazytime", KIND_DROP},
        {"nolazytime", KIND_DROP},
        {"silent", KIND_DROP},
        {"loud", KIND_DROP},
};

static const struct option_rule *rule_find(const char *word)
{
	const size_t len = strcspn(word, "=") + (strchr(word, '=') ? 1 : 0);

	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		if (strlen(rules[i].name) == len && !strncmp(rules[i].name, word, len))
			return &rules[i];
	return NULL;
}

/* The rule of the same name that does, or does not, take a value. */
static const struct option_rule *rule_find_other(const char *word)
{
	const size_t len = strcspn(word, "=");

	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		if (strcspn(rules[i].name, "=") == len && !strncmp(rules[i].name, word, len))
			return &rules[i];
	return NULL;
}

static int refuse_unknown(const char *word, struct errmsg *em)
{
	const struct option_rule *other = rule_find_other(word);
	const char *names[ARRAY_SIZE(rules) + 1];
	char name[32], shown[64];

	if (other && strchr(word, '='))
		return errmsg_set(em, -EINVAL, "mount option '%s' takes no value", other->name);
	if (other)
		return errmsg_set(em, -EINVAL, "mount option '%s' needs a value, as in '%s...'",
		        word, other->name);
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(word, "=") + (strchr(word, '=') ? 1 : 0),
	        word);
	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		names[i] = rules[i].name;
	names[ARRAY_SIZE(rules)] = NULL;
	const char *near = word_near(name, names);
	text_name(shown, sizeof(shown), word);
	if (near)
		return errmsg_set(
		        em, -EINVAL, "unknown mount option '%s', did you mean '%s'?", shown, near);
	return errmsg_set(em, -EINVAL, "unknown mount option '%s'", shown);
}

static int size_value(
        const struct option_rule *rule, const char *text, uint64_t *ret, struct errmsg *em)
{
	char a[TEXT_LEN], b[TEXT_LEN];
	uint64_t bytes = 0;

	if (size_parse(text, &bytes) < 0)
		return errmsg_set(em, -EINVAL,
		        "mount option '%s%s' is not a size such as 512M or 4G", rule->name, text);
	if (bytes < rule->min || bytes > rule->max)
		return errmsg_set(em, -EINVAL, "mount option '%s%s' is out of range, use %s to %s",
		        rule->name, text, text_size(a, rule->min), text_size(b, rule->max));
	*ret = bytes;
	return 0;
}

/* A decimal number, in units of which `unit` make one: 1, or ns a second. */
static int number_value(const struct option_rule *rule, const char *text, uint64_t unit,
        uint64_t *ret, struct errmsg *em)
{
	char *end = NULL;
	const size_t plain = strspn(text, unit == 1 ? "0123456789" : "0123456789.");
	const double number = strtod(text, &end) * (double)unit;

	if (plain == 0 || text[plain] || *end || number < (double)rule->min ||
	        number > (double)rule->max)
		return errmsg_set(em, -EINVAL, "mount option '%s%s' is not a number from %g to %g",
		        rule->name, text, (double)rule->min / (double)unit,
		        (double)rule->max / (double)unit);
	*ret = (uint64_t)number;
	return 0;
}

static void flag_set(struct mount_list *list, int which)
{
	switch (which) {
	case OPT_RO:
		list->opt.store.read_only = true;
		break;
	case OPT_RW:
		list->opt.store.read_only = false;
		break;
	case OPT_ALLOW_OTHER:
		list->opt.allow_other = true;
		break;
	default:
		list->opt.default_permissions = true;
		break;
	}
}

static void value_set(struct mount_list *list, int which, uint64_t value)
{
	switch (which) {
	case OPT_OVERLAY:
		list->opt.store.overlay_bytes = value;
		break;
	case OPT_CACHE:
		list->opt.store.cache_bytes = value;
		break;
	case OPT_INDEX:
		list->opt.store.index_bytes = value;
		break;
	case OPT_MAP:
		list->opt.store.map_bytes = value;
		break;
	case OPT_THREADS:
		list->opt.store.threads = (unsigned)value;
		break;
	default:
		list->opt.store.txg_ns = value;
		break;
	}
}

/* Adds a word to a list that is ours, and where the options point to it. */
static int word_add(char **list, const char **option, const char *word, struct errmsg *em)
{
	char *joined = NULL;

	if (asprintf(&joined, "%s%s%s", *list ? *list : "", *list ? "," : "", word) < 0)
		return errmsg_set(em, -ENOMEM, "out of memory");
	free(*list);
	*list = joined;
	*option = joined;
	return 0;
}

/* Whether there is such a type is found out by the daemon, which has them. */
static int type_add(struct mount_list *list, const char *name, struct errmsg *em)
{
	if (!*name)
		return errmsg_set(em, -EINVAL, "mount option 'without=' needs a filter type");
	return word_add(&list->without, &list->opt.without, name, em);
}

/* The file's path is made absolute: the daemon works in another directory. */
static int key_add(struct mount_list *list, const char *value, struct errmsg *em)
{
	const char *file = strchr(value, ':');
	const unsigned n = list->opt.n_keys;

	if (!file || file == value || !file[1])
		return errmsg_set(em, -EINVAL,
		        "mount option 'key=%s' is not NAME:FILE, as in 'key=vms:/etc/weir/vms.key'",
		        value);
	CLEANUP(free_ptr) char *path = realpath(file + 1, NULL);
	if (!path)
		return errmsg_set(
		        em, -EINVAL, "cannot read key file '%s': %s", file + 1, strerror(errno));
	char **keys = realloc(list->keys, (n + 1) * sizeof(*keys));
	if (!keys)
		return errmsg_set(em, -ENOMEM, "out of memory");
	list->keys = keys;
	list->opt.keys = (const char *const *)keys;
	if (asprintf(&keys[n], "%.*s:%s", (int)(file - value), value, path) < 0)
		return errmsg_set(em, -ENOMEM, "out of memory");
	list->opt.n_keys++;
	return 0;
}

static int word_take(struct mount_list *list, const char *word, struct errmsg *em)
{
	const struct option_rule *rule = rule_find(word);
	const char *value = word + strcspn(word, "=") + 1;
	uint64_t number = 0;
	int r = 0;

	if (!strncmp(word, "x-", 2) || !strncmp(word, "X-", 2))
		return 0;
	if (!rule)
		return list->sloppy ? 0 : refuse_unknown(word, em);
	switch (rule->kind) {
	case KIND_DROP:
		return 0;
	case KIND_FUSE:
		return word_add(&list->fuse, &list->opt.fuse_options, word, em);
	case KIND_TYPES:
		return type_add(list, value, em);
	case KIND_KEY:
		return key_add(list, value, em);
	case KIND_FLAG:
		flag_set(list, rule->which);
		return 0;
	case KIND_SIZE:
		r = size_value(rule, value, &number, em);
		break;
	case KIND_NUMBER:
		r = number_value(rule, value, 1, &number, em);
		break;
	case KIND_SECONDS:
		r = number_value(rule, value, NS_PER_SEC, &number, em);
		break;
	}
	if (r == 0)
		value_set(list, rule->which, number);
	return r;
}

int mount_list_parse(struct mount_list *list, const char *text, struct errmsg *em)
{
	CLEANUP(free_ptr) char *copy = strdup(text);
	char *save = NULL;

	if (!copy)
		return errmsg_set(em, -ENOMEM, "out of memory");
	for (char *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		const int r = word_take(list, word, em);
		if (r < 0)
			return r;
	}
	return 0;
}

void mount_list_release(struct mount_list *list)
{
	free(list->fuse);
	free(list->without);
	for (unsigned i = 0; i < list->opt.n_keys; i++)
		free(list->keys[i]);
	free(list->keys);
	*list = (struct mount_list){0};
}
