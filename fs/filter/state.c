/*
 * state.c - see state.h
 *
 *	live  dirty  the value
 *	yes   no     is as in its row
 *	yes   yes    was put since the last collect
 *	no    yes    was deleted since; its row is there
 *	no    no     is in no row; the entry keeps its number for a value of the same name
 *
 * Entries stay until the table is freed, so that a number never means two names while rows of both
 * may be on their way.
 */
#include "fs/filter/state.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/log.h"
#include "meta/records.h"
#include "stage/stage.h"

#define STATE_BUCKETS  64u
#define NUMBERS_A_LINK 65536u

struct state_value {
	struct state_value *next;
	uint64_t link;
	uint32_t number;
	bool live, dirty;
	uint64_t put_txg; /* group that was open when its row was put last; 0: not since loading */
	void *data;       /* owned */
	size_t len;
	char name[]; /* terminated */
};

struct state_table {
	pthread_mutex_t lock;
	uint64_t ino;
	struct state_value *buckets[STATE_BUCKETS];
	size_t bytes;
};

/* --- rows --- */

int state_row_decode(const void *value, size_t len, const char **ret_name, size_t *ret_name_len,
        const void **ret_data, size_t *ret_data_len)
{
	struct bytes_in in = {.data = value, .len = len};
	const size_t name_len = bytes_take_u8(&in);
	const uint8_t *name = bytes_take(&in, name_len);

	if (in.failed || name_len == 0 || memchr(name, 0, name_len) ||
	        len - in.pos > STAGE_STATE_MAX)
		return -EUCLEAN;
	*ret_name = (const char *)name;
	*ret_name_len = name_len;
	*ret_data = in.data + in.pos;
	*ret_data_len = len - in.pos;
	return 0;
}

static uint64_t row_id(const struct state_value *v)
{
	return v->link << 16 | v->number;
}

static int row_put(struct ns *ns, uint64_t ino, const struct state_value *v)
{
	struct bytes_out out = {0};
	const size_t name_len = strlen(v->name);
	int r = -ENOMEM;

	bytes_append_u8(&out, (uint8_t)name_len);
	bytes_append(&out, v->name, name_len);
	if (v->len)
		bytes_append(&out, v->data, v->len);
	if (!out.failed)
		r = ns_record_put(ns, RECORD_FILTER_STATE, ino, row_id(v), out.data, out.len);
	bytes_release(&out);
	return r;
}

/* --- the table; under its lock --- */

static unsigned bucket_of(uint64_t link, const char *name, size_t name_len)
{
	uint64_t h = link * 0x9e3779b97f4a7c15ull;

	for (size_t i = 0; i < name_len; i++)
		h = (h ^ (unsigned char)name[i]) * 0x100000001b3ull;
	return (unsigned)(h >> 32) % STATE_BUCKETS;
}

static struct state_value *value_find(struct state_table *t, uint64_t link, const char *name)
{
	struct state_value *v = t->buckets[bucket_of(link, name, strlen(name))];

	while (v && (v->link != link || strcmp(v->name, name) != 0))
		v = v->next;
	return v;
}

static struct state_value *value_new(
        struct state_table *t, uint64_t link, uint32_t number, const char *name, size_t name_len)
{
	struct state_value *v = calloc(1, sizeof(*v) + name_len + 1);

	if (!v)
		return NULL;
	struct state_value **head = &t->buckets[bucket_of(link, name, name_len)];
	v->link = link;
	v->number = number;
	memcpy(v->name, name, name_len);
	v->next = *head;
	*head = v;
	return v;
}

/* A number that no value of the link has; NUMBERS_A_LINK: all are taken. */
static uint32_t number_free(const struct state_table *t, uint64_t link)
{
	uint32_t number = 0;

	for (unsigned b = 0; b < STATE_BUCKETS; b++)
		for (const struct state_value *v = t->buckets[b]; v; v = v->next)
			if (v->link == link && v->number >= number)
				number = v->number + 1;
	return number;
}

static int value_set(struct state_table *t, struct state_value *v, const void *data, size_t len)
{
	if (t->bytes - v->len + len > STATE_IMAGE_BYTES_MAX)
		return -ENOSPC;
	void *copy = malloc(len ? len : 1);
	if (!copy)
		return -ENOMEM;
	if (len)
		memcpy(copy, data, len);
	t->bytes = t->bytes - v->len + len;
	free(v->data);
	v->data = copy;
	v->len = len;
	v->live = true;
	return 0;
}

static void value_unset(struct state_table *t, struct state_value *v)
{
	t->bytes -= v->len;
	free(v->data);
	v->data = NULL;
	v->len = 0;
	v->live = false;
}

/* --- life --- */

static int row_take(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct state_table *t = arg;
	const char *name;
	const void *data;
	size_t name_len, data_len;
	int r = state_row_decode(value, len, &name, &name_len, &data, &data_len);

	if (r < 0) {
		log_error("inode %llu: state %llu of filter %llu is damaged",
		        (unsigned long long)owner, (unsigned long long)(id & 0xffff),
		        (unsigned long long)(id >> 16));
		return r;
	}
	struct state_value *v = value_new(t, id >> 16, (uint32_t)(id & 0xffff), name, name_len);
	return v ? value_set(t, v, data, data_len) : -ENOMEM;
}

int state_load(struct ns *ns, uint64_t ino, struct state_table **ret_t)
{
	struct state_table *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	t->ino = ino;
	const int r = ns_record_each(ns, RECORD_FILTER_STATE, ino, 0, row_take, t);
	if (r < 0) {
		state_free(t);
		return r;
	}
	*ret_t = t;
	return 0;
}

void state_free(struct state_table *t)
{
	if (!t)
		return;
	for (unsigned b = 0; b < STATE_BUCKETS; b++) {
		struct state_value *v;
		while ((v = t->buckets[b])) {
			t->buckets[b] = v->next;
			free(v->data);
			free(v);
		}
	}
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* --- stages --- */

int state_get(struct state_table *t, uint64_t link, const char *name, void *buf, size_t cap,
        size_t *ret_len)
{
	int r = -ENOENT;

	pthread_mutex_lock(&t->lock);
	const struct state_value *v = value_find(t, link, name);
	if (v && v->live) {
		if (MIN(cap, v->len))
			memcpy(buf, v->data, MIN(cap, v->len));
		*ret_len = v->len;
		r = 0;
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}

static int put_locked(
        struct state_table *t, uint64_t link, const char *name, const void *data, size_t len)
{
	struct state_value *v = value_find(t, link, name);

	if (!v) {
		const uint32_t number = number_free(t, link);
		if (!data)
			return 0;
		if (number == NUMBERS_A_LINK)
			return -ENOSPC;
		v = value_new(t, link, number, name, strlen(name));
		if (!v)
			return -ENOMEM;
	}
	if (!data) {
		if (v->live)
			v->dirty = true;
		value_unset(t, v);
		return 0;
	}
	const int r = value_set(t, v, data, len);
	if (!r)
		v->dirty = true;
	return r;
}

int state_put(struct state_table *t, uint64_t link, const char *name, const void *data, size_t len)
{
	if (!*name)
		return -EINVAL;
	if (strlen(name) > STATE_NAME_MAX)
		return -ENAMETOOLONG;
	if (len > STAGE_STATE_MAX)
		return -EFBIG;
	pthread_mutex_lock(&t->lock);
	const int r = put_locked(t, link, name, data, len);
	pthread_mutex_unlock(&t->lock);
	return r;
}

/* from is the caller's alone. */
int state_restore(struct state_table *t, struct state_table *from, uint64_t link)
{
	int r = 0;

	pthread_mutex_lock(&t->lock);
	for (unsigned b = 0; b < STATE_BUCKETS; b++) {
		for (struct state_value *v = t->buckets[b]; v; v = v->next) {
			if (v->link == link && v->live && !value_find(from, link, v->name)) {
				v->dirty = true;
				value_unset(t, v);
			}
		}
	}
	for (unsigned b = 0; b < STATE_BUCKETS; b++)
		for (const struct state_value *v = from->buckets[b]; v && r == 0; v = v->next)
			if (v->link == link && v->live)
				r = put_locked(t, link, v->name, v->data, v->len);
	pthread_mutex_unlock(&t->lock);
	return r;
}

/* --- collecting --- */

/* Of the group before this one, which may be on its way. */
static bool put_before(const struct state_value *v, uint64_t txg)
{
	return v->put_txg && v->put_txg + 1 == txg;
}

static void value_collect(struct state_table *t, struct ns *ns, struct state_value *v, uint64_t txg)
{
	const int r = v->live ? row_put(ns, t->ino, v)
	                      : ns_record_del(ns, RECORD_FILTER_STATE, t->ino, row_id(v));

	if (r < 0) {
		log_error("inode %llu: state '%s' of a filter cannot be recorded: %s",
		        (unsigned long long)t->ino, v->name, strerror(-r));
		v->dirty = true;
		return;
	}
	v->dirty = false;
	v->put_txg = txg;
}

void state_collect(struct state_table *t, struct ns *ns, uint64_t txg)
{
	pthread_mutex_lock(&t->lock);
	for (unsigned b = 0; b < STATE_BUCKETS; b++)
		for (struct state_value *v = t->buckets[b]; v; v = v->next)
			if (v->dirty || put_before(v, txg))
				value_collect(t, ns, v, txg);
	pthread_mutex_unlock(&t->lock);
}

bool state_unsettled(struct state_table *t, uint64_t txg)
{
	bool unsettled = false;

	pthread_mutex_lock(&t->lock);
	for (unsigned b = 0; b < STATE_BUCKETS; b++)
		for (const struct state_value *v = t->buckets[b]; v; v = v->next)
			unsettled |= v->dirty || (v->put_txg && v->put_txg + 1 >= txg);
	pthread_mutex_unlock(&t->lock);
	return unsettled;
}

int state_drop(struct state_table *t, struct ns *ns, uint64_t link)
{
	int r = 0;

	pthread_mutex_lock(&t->lock);
	for (unsigned b = 0; b < STATE_BUCKETS && !r; b++) {
		struct state_value **at = &t->buckets[b];
		while (*at && !r) {
			struct state_value *v = *at;
			if (v->link != link) {
				at = &v->next;
				continue;
			}
			r = ns_record_del(ns, RECORD_FILTER_STATE, t->ino, row_id(v));
			if (r < 0)
				break;
			*at = v->next;
			value_unset(t, v);
			free(v);
		}
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}
