/*
 * settings.c - the settings of one stage: from "key=value" texts, checked against its type
 *
 * A struct settings owns a copy of every text in it, defaults too, so that it can be copied and
 * released without knowing where it came from.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "stage/stack.h"
#include "stage/values.h"

#define KEY_MAX 63u /* of what a user types, for messages and for the distance */

const struct setting *settings_get(const struct settings *s, const char *key)
{
	for (unsigned i = 0; s->defs[i].key; i++)
		if (strcmp(s->defs[i].key, key) == 0)
			return &s->values[i];
	ASSERT(!"a setting that the type does not define");
	return NULL;
}

/* --- unknown keys --- */

/* Levenshtein (1966), one row at a time. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[KEY_MAX + 2];
	const size_t len_b = MIN(strlen(b), KEY_MAX);

	for (unsigned j = 0; j <= len_b; j++)
		row[j] = j;
	for (unsigned i = 1; a[i - 1] && i <= KEY_MAX; i++) {
		unsigned before = row[0];
		row[0] = i;
		for (unsigned j = 1; j <= len_b; j++) {
			const unsigned swap = before + (a[i - 1] != b[j - 1]);
			before = row[j];
			row[j] = MIN(swap, MIN(row[j], row[j - 1]) + 1);
		}
	}
	return row[len_b];
}

static void list_keys(const struct setting_def *defs, char *buf, size_t len)
{
	size_t at = 0;

	buf[0] = '\0';
	for (unsigned i = 0; defs[i].key && at < len; i++)
		if (!defs[i].managed)
			at += (size_t)snprintf(
			        buf + at, len - at, "%s%s", at ? ", " : "", defs[i].key);
}

static int unknown_key(const struct setting_def *defs, const char *key, struct errmsg *em)
{
	unsigned best = 0, best_distance = UINT32_MAX;
	char keys[256];

	for (unsigned i = 0; defs[i].key; i++) {
		const unsigned d = distance(key, defs[i].key);
		if (!defs[i].managed && d < best_distance) {
			best = i;
			best_distance = d;
		}
	}
	if (best_distance == UINT32_MAX)
		return errmsg_set(em, -EINVAL, "unknown setting '%s': there are none", key);
	if (best_distance <= strlen(defs[best].key) / 2)
		return errmsg_set(em, -EINVAL, "unknown setting '%s': did you mean '%s'?", key,
		        defs[best].key);
	list_keys(defs, keys, sizeof(keys));
	return errmsg_set(em, -EINVAL, "unknown setting '%s': there are %s", key, keys);
}

/* --- parsing --- */

static int set_value(const struct setting_def *def, struct setting *value, const char *text,
        bool given, struct errmsg *em)
{
	char allowed[VALUE_ALLOWED_LEN];
	uint64_t number = 0;

	if (value->given)
		return errmsg_set(em, -EINVAL, "setting '%s' is given twice", def->key);
	if (value_parse(def, text, &number) < 0) {
		value_allowed(def, allowed, sizeof(allowed));
		return errmsg_set(em, -EINVAL, "bad value '%.100s' for setting '%s': must be %s",
		        text, def->key, allowed);
	}
	char *copy = strdup(text);
	if (!copy)
		return errmsg_set(em, -ENOMEM, "out of memory");
	free((char *)value->text);
	*value = (struct setting){.set = true, .given = given, .number = number, .text = copy};
	return 0;
}

/* Index of the definition that a "key=value" text is of; or -EINVAL. */
static int key_find(const struct setting_def *defs, const char *text, struct errmsg *em)
{
	const char *sign = strchr(text, '=');
	char key[KEY_MAX + 1];

	if (!sign || sign == text)
		return errmsg_set(em, -EINVAL, "bad setting '%.100s': write key=value", text);
	snprintf(key, sizeof(key), "%.*s", (int)MIN(sign - text, (ptrdiff_t)KEY_MAX), text);
	for (unsigned i = 0; defs[i].key; i++)
		if (strcmp(defs[i].key, key) == 0)
			return (int)i;
	return unknown_key(defs, key, em);
}

int settings_key_check(const struct setting_def *defs, const char *text, struct errmsg *em)
{
	return MIN(key_find(defs, text, em), 0);
}

static int parse_given(struct settings *s, const char *text, struct errmsg *em)
{
	const int i = key_find(s->defs, text, em);

	if (i < 0)
		return i;
	return set_value(&s->defs[i], &s->values[i], strchr(text, '=') + 1, true, em);
}

static int parse_defaults(struct settings *s, struct errmsg *em)
{
	int r = 0;

	for (unsigned i = 0; s->defs[i].key && r == 0; i++)
		if (s->defs[i].initial)
			r = set_value(&s->defs[i], &s->values[i], s->defs[i].initial, false, em);
	return r;
}

int settings_parse(const struct setting_def *defs, const char *const *texts, unsigned n,
        struct settings *ret_settings, struct errmsg *em)
{
	CLEANUP(settings_release) struct settings s = {.defs = defs};
	int r = parse_defaults(&s, em);

	for (unsigned i = 0; i < n && r == 0; i++)
		r = parse_given(&s, texts[i], em);
	if (r < 0)
		return r;
	*ret_settings = s;
	s = (struct settings){0};
	return 0;
}

void settings_release(struct settings *s)
{
	for (unsigned i = 0; i < SETTINGS_MAX; i++)
		free((char *)s->values[i].text);
	*s = (struct settings){0};
}

int settings_copy(const struct settings *from, struct settings *ret_to)
{
	CLEANUP(settings_release) struct settings s = *from;

	for (unsigned i = 0; i < SETTINGS_MAX; i++)
		s.values[i].text = NULL;
	for (unsigned i = 0; i < SETTINGS_MAX; i++) {
		if (!from->values[i].text)
			continue;
		s.values[i].text = strdup(from->values[i].text);
		if (!s.values[i].text)
			return -ENOMEM;
	}
	*ret_to = s;
	s = (struct settings){0};
	return 0;
}

static bool value_equal(const struct setting *a, const struct setting *b)
{
	if (a->set != b->set || a->number != b->number)
		return false;
	return !a->set || strcmp(a->text, b->text) == 0;
}

bool settings_equal(const struct settings *a, const struct settings *b)
{
	if (a->defs != b->defs)
		return false;
	for (unsigned i = 0; a->defs && a->defs[i].key; i++)
		if (!value_equal(&a->values[i], &b->values[i]))
			return false;
	return true;
}

/* --- back to text --- */

/* The next given one behind `last` in the order of keys; -1: none. */
static int next_given(const struct settings *s, const char *last)
{
	int best = -1;

	for (unsigned i = 0; s->defs[i].key; i++) {
		if (!s->values[i].given || strcmp(s->defs[i].key, last) <= 0)
			continue;
		if (best < 0 || strcmp(s->defs[i].key, s->defs[best].key) < 0)
			best = (int)i;
	}
	return best;
}

char *settings_text(const struct settings *s)
{
	struct bytes_out out = {0};
	const char *last = "";

	for (int i; s->defs && (i = next_given(s, last)) >= 0; last = s->defs[i].key) {
		if (out.len)
			bytes_append_u8(&out, '\n');
		bytes_append(&out, s->defs[i].key, strlen(s->defs[i].key));
		bytes_append_u8(&out, '=');
		bytes_append(&out, s->values[i].text, strlen(s->values[i].text));
	}
	bytes_append_u8(&out, '\0');
	if (out.failed) {
		bytes_release(&out);
		return NULL;
	}
	return (char *)out.data;
}

const char *setting_show(
        const struct setting_def *def, const struct setting *value, char *buf, size_t len)
{
	if (!value->set)
		return "";
	if (def->kind == SETTING_TEXT)
		return value->text;
	value_format(def, value->number, buf, len);
	return buf;
}
