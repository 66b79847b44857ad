/*
 * manifest.c - rows of attachments: encoding, decoding, merging of settings
 *
 * The canonical text is what jansson prints with sorted keys and no spaces.  Decoding takes the hash
 * out of the object that was read and prints the rest: so a row with another order, other spaces or
 * other fields than we write is told apart by the hash alone.
 *
 * A row that is no object at all cannot say what it was.  It counts as a transform that is missing:
 * an image does not open on a guess.
 */
#include "fs/filter/manifest.h"

#include <errno.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "meta/records.h"

#define HASH_BYTES 32u

static const char *const state_names[] = {
        [STACK_ACTIVE] = "active",
        [STACK_CONVERTING_IN] = "converting in",
        [STACK_CONVERTING_OUT] = "converting out",
};

const char *manifest_state_name(enum stack_state state)
{
	return state_names[state];
}

/* --- one row --- */

void manifest_item_release(struct stack_item *item)
{
	settings_release(&item->settings);
	free(item->given);
	*item = (struct stack_item){0};
}

/* Of the object as it is, in hex; -EIO: libcrypto failed. */
static int hash_of(const json_t *json, char ret_hex[2 * HASH_BYTES + 1])
{
	uint8_t sum[HASH_BYTES];
	CLEANUP(free_ptr) char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);

	if (!text)
		return -ENOMEM;
	if (EVP_Digest(text, strlen(text), sum, NULL, EVP_sha256(), NULL) != 1)
		return -EIO;
	for (unsigned i = 0; i < HASH_BYTES; i++)
		snprintf(ret_hex + 2 * i, 3, "%02x", sum[i]);
	return 0;
}

/* "key=value" lines as a list. */
static json_t *given_json(const char *given)
{
	json_t *list = json_array();

	while (given && *given && list) {
		const size_t n = strcspn(given, "\n");
		if (json_array_append_new(list, json_stringn(given, n)) < 0) {
			json_decref(list);
			return NULL;
		}
		given += n + (given[n] == '\n');
	}
	return list;
}

char *manifest_item_encode(const struct stack_item *item, uint32_t domain)
{
	char hex[2 * HASH_BYTES + 1];
	char *text = NULL;
	json_t *json = json_pack("{s:s, s:I, s:s, s:I, s:o, s:s, s:b}", "type", item->type_name,
	        "version", (json_int_t)item->type_version, "class", stage_class_name(item->class),
	        "capabilities", (json_int_t)item->capabilities, "settings", given_json(item->given),
	        "state", state_names[item->state], "forced", item->forced);
	bool good = json;

	if (good && item->class == STAGE_ENCRYPT)
		good = json_object_set_new(json, "domain", json_integer(domain)) == 0;
	good = good && hash_of(json, hex) == 0 &&
	       json_object_set_new(json, "hash", json_string(hex)) == 0;
	if (good)
		text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(json);
	return text;
}

static bool number_in(const json_t *json, const char *key, json_int_t max, json_int_t *ret)
{
	const json_t *value = json_object_get(json, key);

	if (!json_is_integer(value) || json_integer_value(value) < 0 ||
	        json_integer_value(value) > max)
		return false;
	*ret = json_integer_value(value);
	return true;
}

static bool state_parse(const char *name, enum stack_state *ret_state)
{
	for (unsigned i = 0; name && i < ARRAY_SIZE(state_names); i++) {
		if (!strcmp(name, state_names[i])) {
			*ret_state = (enum stack_state)i;
			return true;
		}
	}
	return false;
}

/* Texts of the settings list as pointers into json; false: nonsense. */
static bool texts_of(const json_t *list, const char **texts, unsigned *ret_n)
{
	const size_t n = json_array_size(list);

	if (!json_is_array(list) || n > SETTINGS_MAX)
		return false;
	for (size_t i = 0; i < n; i++) {
		texts[i] = json_string_value(json_array_get(list, i));
		if (!texts[i] || !strchr(texts[i], '=') || strchr(texts[i], '\n'))
			return false;
	}
	*ret_n = (unsigned)n;
	return true;
}

static char *texts_join(const char *const *texts, unsigned n)
{
	size_t len = 1;

	for (unsigned i = 0; i < n; i++)
		len += strlen(texts[i]) + 1;
	char *joined = malloc(len), *to = joined;
	if (!joined)
		return NULL;
	for (unsigned i = 0; i < n; i++)
		to += sprintf(to, "%s%s", i ? "\n" : "", texts[i]);
	*to = 0;
	return joined;
}

/* Everything of the object but the settings' meaning. */
static bool fields_decode(const json_t *json, struct stack_item *item, uint32_t *ret_domain)
{
	const char *type = json_string_value(json_object_get(json, "type"));
	const char *class = json_string_value(json_object_get(json, "class"));
	const char *state = json_string_value(json_object_get(json, "state"));
	const json_t *forced = json_object_get(json, "forced");
	json_int_t version, capabilities, domain = 0;

	if (!type || !*type || strlen(type) >= sizeof(item->type_name) || !class ||
	        !json_is_boolean(forced))
		return false;
	if (stage_class_parse(class, &item->class) < 0 || !state_parse(state, &item->state))
		return false;
	if (!number_in(json, "version", UINT32_MAX, &version) ||
	        !number_in(json, "capabilities", MANIFEST_CAPABILITY_MAX, &capabilities))
		return false;
	if (item->class == STAGE_ENCRYPT && !number_in(json, "domain", UINT32_MAX, &domain))
		return false;
	strcpy(item->type_name, type);
	item->type_version = (uint32_t)version;
	item->capabilities = (unsigned)capabilities;
	item->forced = json_is_true(forced);
	*ret_domain = (uint32_t)domain;
	return true;
}

static int item_decode(json_t *json, struct stack_item *item, uint32_t *ret_domain)
{
	const char *texts[SETTINGS_MAX];
	unsigned n;

	if (!fields_decode(json, item, ret_domain) ||
	        !texts_of(json_object_get(json, "settings"), texts, &n))
		return -EUCLEAN;
	item->given = texts_join(texts, n);
	if (!item->given)
		return -ENOMEM;
	item->type = stage_type_find(item->type_name);
	if (item->type && settings_parse(item->type->settings, texts, n, &item->settings, NULL) < 0)
		item->type = NULL;
	return 0;
}

int manifest_item_decode(uint64_t link, const void *value, size_t len, struct stack_item *ret_item,
        uint32_t *ret_domain, bool *ret_damaged)
{
	struct stack_item item = {.link = link};
	char expected[2 * HASH_BYTES + 1], hex[2 * HASH_BYTES + 1] = "";
	uint32_t domain = 0;
	json_t *json = json_loadb(value, len, JSON_REJECT_DUPLICATES, NULL);
	const char *hash = json_string_value(json_object_get(json, "hash"));

	if (!json_is_object(json) || !hash || strlen(hash) != 2 * HASH_BYTES) {
		json_decref(json);
		return -EUCLEAN;
	}
	strcpy(expected, hash);
	json_object_del(json, "hash");
	int r = hash_of(json, hex);
	if (!r)
		r = item_decode(json, &item, &domain);
	json_decref(json);
	if (r < 0) {
		manifest_item_release(&item);
		return r;
	}
	*ret_item = item;
	*ret_domain = domain;
	*ret_damaged = strcmp(hex, expected) != 0;
	return 0;
}

int manifest_item_make(const struct stage_type *type, uint64_t link, const char *const *settings,
        unsigned n, struct stack_item *ret_item, struct errmsg *em)
{
	struct stack_item item = {
	        .link = link,
	        .type = type,
	        .type_version = type->version,
	        .capabilities = type->capabilities,
	        .class = type->class,
	};
	int r = settings_parse(type->settings, settings, n, &item.settings, em);

	if (r < 0)
		return r;
	snprintf(item.type_name, sizeof(item.type_name), "%s", type->name);
	item.given = settings_text(&item.settings);
	if (!item.given) {
		manifest_item_release(&item);
		return errmsg_set(em, -ENOMEM, "out of memory");
	}
	*ret_item = item;
	return 0;
}

/* --- all rows of an inode --- */

void manifest_free(struct manifest *m)
{
	if (!m)
		return;
	stack_plan_release(&m->plan);
	free(m);
}

void manifest_freep(struct manifest **m)
{
	manifest_free(*m);
}

bool manifest_is_damaged(const struct manifest *m, uint64_t link)
{
	for (unsigned i = 0; i < m->n_damaged; i++)
		if (m->damaged[i] == link)
			return true;
	return false;
}

int manifest_allows(const struct manifest *m, const struct stage_event *event, struct errmsg *em)
{
	const uint64_t wall_ns = clock_wall_ns();
	int r = 0;

	for (unsigned i = 0; i < m->plan.n && !r; i++) {
		const struct stack_item *item = &m->plan.items[i];
		if (stack_item_usable(item) && item->type->allows)
			r = item->type->allows(&item->settings, event, wall_ns, em);
	}
	return r;
}

int manifest_add(struct manifest *m, struct stack_item *item)
{
	if (m->plan.n == STACK_LINKS_MAX)
		return -E2BIG;
	m->plan.items[m->plan.n++] = *item;
	*item = (struct stack_item){0};
	stack_plan_sort(&m->plan);
	return 0;
}

void manifest_remove(struct manifest *m, uint64_t link)
{
	const int at = stack_plan_find(&m->plan, link);

	if (at < 0)
		return;
	if (m->plan.items[at].class == STAGE_ENCRYPT)
		m->domain = 0;
	manifest_item_release(&m->plan.items[at]);
	m->plan.n--;
	memmove(&m->plan.items[at], &m->plan.items[at + 1],
	        (m->plan.n - (unsigned)at) * sizeof(m->plan.items[0]));
	m->plan.items[m->plan.n] = (struct stack_item){0};
}

struct loading {
	struct manifest *m;
	int error;
};

/* What cannot be read stands in the plan as a transform that nobody has. */
static struct stack_item item_unknown(uint64_t link)
{
	return (struct stack_item){.link = link,
	        .type_name = "unreadable",
	        .capabilities = STAGE_TRANSFORMS,
	        .class = STAGE_TRANSFORM};
}

static int row_take(void *arg, uint64_t owner, uint64_t link, const void *value, size_t len)
{
	struct loading *l = arg;
	struct stack_item item;
	uint32_t domain = 0;
	bool damaged = false;
	int r = manifest_item_decode(link, value, len, &item, &domain, &damaged);

	if (r == -EUCLEAN) {
		item = item_unknown(link);
		damaged = true;
		r = 0;
	}
	if (r < 0)
		return l->error = r;
	if (damaged && l->m->n_damaged < STACK_LINKS_MAX)
		l->m->damaged[l->m->n_damaged++] = link;
	if (domain)
		l->m->domain = domain;
	r = manifest_add(l->m, &item);
	if (r < 0)
		manifest_item_release(&item);
	return l->error = r;
}

int manifest_load(struct ns *ns, uint64_t ino, struct manifest **ret_m, struct errmsg *em)
{
	CLEANUP(manifest_freep) struct manifest *m = calloc(1, sizeof(*m));
	struct loading l = {.m = m};

	if (!m)
		return errmsg_set(em, -ENOMEM, "out of memory");
	int r = ns_record_each(ns, RECORD_ATTACHMENT, ino, 0, row_take, &l);
	if (l.error < 0)
		r = l.error;
	if (r < 0)
		return errmsg_set(em, r, "cannot read the filters of inode %llu: %s",
		        (unsigned long long)ino, strerror(-r));
	*ret_m = STEAL(m);
	return 0;
}

int manifest_copy(const struct manifest *from, struct manifest **ret_m)
{
	struct manifest *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	const int r = stack_plan_copy(&from->plan, &m->plan);
	if (r < 0) {
		free(m);
		return r;
	}
	m->domain = from->domain;
	m->n_damaged = from->n_damaged;
	memcpy(m->damaged, from->damaged, sizeof(m->damaged));
	*ret_m = m;
	return 0;
}

int manifest_check_open(const struct manifest *m, unsigned *ret_missing, struct errmsg *em)
{
	for (unsigned i = 0; i < m->plan.n; i++) {
		const struct stack_item *item = &m->plan.items[i];
		if (!manifest_is_damaged(m, item->link))
			continue;
		if (item->capabilities & (STAGE_TRANSFORMS | STAGE_HOLDS_DATA))
			return errmsg_set(em, -EIO,
			        "the record of filter '%s' (link %llu) is damaged or was changed, "
			        "and data depends on it",
			        item->type_name, (unsigned long long)item->link);
		log_warn("the record of filter '%s' (link %llu) is damaged or was changed",
		        item->type_name, (unsigned long long)item->link);
	}
	return stack_plan_check_open(&m->plan, ret_missing, em);
}

void manifest_keep_needed(struct manifest *m)
{
	unsigned i = 0;

	while (i < m->plan.n) {
		const unsigned capabilities = m->plan.items[i].capabilities;
		if (!(capabilities & STAGE_CHUNKS) &&
		        capabilities & (STAGE_TRANSFORMS | STAGE_HOLDS_DATA))
			i++;
		else
			manifest_remove(m, m->plan.items[i].link);
	}
}

void manifest_policy(const struct manifest *m, struct image_policy *ret_policy)
{
	struct image_policy policy = {0};

	stack_plan_policy(&m->plan, &policy);
	policy.domain = m->domain;
	for (unsigned i = 0; i < m->plan.n; i++)
		if (m->plan.items[i].class == STAGE_ENCRYPT &&
		        m->plan.items[i].state == STACK_CONVERTING_OUT)
			policy.domain = 0;
	*ret_policy = policy;
}

/* --- settings --- */

static bool same_key(const char *a, const char *b)
{
	const size_t n = strcspn(a, "=");

	return n == strcspn(b, "=") && !strncmp(a, b, n);
}

struct merge {
	char **texts; /* SETTINGS_MAX pointers, then their bytes */
	char *to;
	unsigned n;
};

/* An empty value is none: the default counts again. */
static bool takes_back(const char *text, size_t len)
{
	return len > 0 && text[len - 1] == '=' && strcspn(text, "=") == len - 1;
}

/* A later one of the same key replaces the earlier one. */
static int merge_take(struct merge *mg, const char *text, size_t len)
{
	unsigned at = 0;

	while (at < mg->n && !same_key(mg->texts[at], text))
		at++;
	if (takes_back(text, len)) {
		if (at < mg->n)
			mg->texts[at] = mg->texts[--mg->n];
		return 0;
	}
	if (at == SETTINGS_MAX)
		return -E2BIG;
	memcpy(mg->to, text, len);
	mg->to[len] = 0;
	mg->texts[at] = mg->to;
	mg->to += len + 1;
	mg->n = MAX(mg->n, at + 1);
	return 0;
}

static int merge_given(struct merge *mg, const char *given)
{
	int r = 0;

	while (given && *given && !r) {
		const size_t n = strcspn(given, "\n");
		r = merge_take(mg, given, n);
		given += n + (given[n] == '\n');
	}
	return r;
}

/* Changes must not name a key twice: that is a mistake of who typed it. */
static int changes_check(const char *const *changes, unsigned n, struct errmsg *em)
{
	for (unsigned i = 0; i < n; i++) {
		if (!strchr(changes[i], '=') || strchr(changes[i], '\n'))
			return errmsg_set(
			        em, -EINVAL, "'%.64s' is no setting (write key=value)", changes[i]);
		for (unsigned j = 0; j < i; j++)
			if (same_key(changes[i], changes[j]))
				return errmsg_set(em, -EINVAL, "setting '%.*s' is given twice",
				        (int)strcspn(changes[i], "="), changes[i]);
	}
	return 0;
}

int manifest_merge(const char *given, const char *const *changes, unsigned n_changes, bool replace,
        char ***ret_texts, unsigned *ret_n, struct errmsg *em)
{
	size_t bytes = SETTINGS_MAX * sizeof(char *) + 1 + (given ? strlen(given) + 1 : 0);
	int r = changes_check(changes, n_changes, em);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < n_changes; i++)
		bytes += strlen(changes[i]) + 1;
	struct merge mg = {.texts = malloc(bytes)};
	if (!mg.texts)
		return errmsg_set(em, -ENOMEM, "out of memory");
	mg.to = (char *)(mg.texts + SETTINGS_MAX);
	if (!replace)
		r = merge_given(&mg, given);
	for (unsigned i = 0; i < n_changes && !r; i++)
		r = merge_take(&mg, changes[i], strlen(changes[i]));
	if (r < 0) {
		free(mg.texts);
		return errmsg_set(em, -EINVAL, "more than %u settings", SETTINGS_MAX);
	}
	*ret_texts = mg.texts;
	*ret_n = mg.n;
	return 0;
}
