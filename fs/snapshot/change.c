/*
 * change.c - snapshots deleted, renamed, held and released
 *
 * A snapshot that somebody holds is not deleted.  Deleting takes the rows away in one transaction
 * with the kept maps; the space comes back behind it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/control/text.h"
#include "fs/snapshot/private.h"

static json_t *changed_json(const struct snapshot *s)
{
	return json_pack("{s:s, s:s, s:o, s:I, s:O}", "name", s->name, "kind",
	        snapshot_kind_name(s->kind), "target", text_json(s->target), "images",
	        (json_int_t)s->n_images, "holders", s->holders);
}

/* --- deleting --- */

struct deletion {
	struct manager *m;
	const struct filter_caller *who;
	const struct snapshot *s;
	uint64_t *keys;          /* owned */
	struct owned_rows *rows; /* owned; of each key */
	size_t n, cap;
};

static void deletion_release(struct deletion *d)
{
	for (size_t i = 0; i < d->n; i++)
		owned_rows_release(&d->rows[i]);
	free(d->rows);
	free(d->keys);
}

static int deletion_note(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct deletion *d = arg;
	struct ns *ns = d->m->ds->ns;

	if (d->n == d->cap) {
		const size_t cap = d->cap ? 2 * d->cap : 16;
		uint64_t *keys = realloc(d->keys, cap * sizeof(*keys));
		if (!keys)
			return -ENOMEM;
		d->keys = keys;
		struct owned_rows *rows = realloc(d->rows, cap * sizeof(*rows));
		if (!rows)
			return -ENOMEM;
		d->rows = rows;
		d->cap = cap;
	}
	struct owned_rows *rows = &d->rows[d->n];
	*rows = (struct owned_rows){0};
	const uint64_t key = snapshot_id(owner, id);
	d->keys[d->n++] = key;
	const int r = owned_rows_read(ns, snapshot_image(key), RECORD_ATTACHMENT, rows);
	return r < 0 ? r : owned_rows_read(ns, snapshot_image(key), RECORD_FILTER_STATE, rows);
}

/* Gate closed. */
static int deletion_rows(void *arg)
{
	struct deletion *d = arg;
	struct ns *ns = d->m->ds->ns;
	int r = ns_record_del(ns, RECORD_SNAPSHOT, 0, d->s->number);

	for (size_t i = 0; i < d->n && r == 0; i++) {
		const uint64_t image = d->keys[i] - snapshot_id(d->s->number, 0);
		r = ns_record_del(ns, RECORD_SNAPSHOT, d->s->number, image);
		if (r == 0)
			r = owned_rows_del(ns, snapshot_image(d->keys[i]), &d->rows[i]);
	}
	return r < 0 ? r
	             : audit_note(d->m, d->who, "snapshot delete", d->s->scope, d->s->target,
	                       d->s->name, d->who ? NULL : snapshot_origin_name(d->s->origin),
	                       NULL);
}

/* A key that was rotated stays while a snapshot needs it: these may be done with. */
struct domains {
	uint32_t *ids; /* owned */
	size_t n;
};

static bool domains_have(const struct domains *domains, uint32_t id)
{
	for (size_t i = 0; i < domains->n; i++)
		if (domains->ids[i] == id)
			return true;
	return false;
}

static int domains_note(const struct deletion *d, struct domains *domains)
{
	domains->ids = calloc(d->n + 1, sizeof(*domains->ids));
	if (!domains->ids)
		return -ENOMEM;
	for (size_t i = 0; i < d->n; i++) {
		struct image_policy policy;
		const int r = manager_policy(d->m->ds->ns, snapshot_image(d->keys[i]), &policy);
		if (r == 0 && policy.domain && !domains_have(domains, policy.domain))
			domains->ids[domains->n++] = policy.domain;
	}
	return 0;
}

static int deletion_run(struct manager *m, const struct filter_caller *who,
        const struct snapshot *s, struct domains *domains, struct errmsg *em)
{
	struct deletion d = {.m = m, .who = who, .s = s};
	int r = ns_record_each(m->ds->ns, RECORD_SNAPSHOT, s->number, 0, deletion_note, &d);

	audit_prepare(who ? who->uid : 0);
	if (r == 0)
		r = domains_note(&d, domains);
	if (r == 0) {
		pthread_mutex_lock(&m->record_lock);
		r = store_snapshot_delete(m->ds->store, d.keys, d.n, deletion_rows, &d);
		pthread_mutex_unlock(&m->record_lock);
	}
	for (size_t i = 0; i < d.n && r == 0; i++)
		image_gone(m, snapshot_image(d.keys[i]));
	deletion_release(&d);
	return r < 0 ? snapshot_failed("delete snapshot", s->name, r, em) : 0;
}

/* Of those that a snapshot was in: a key that was rotated away may be done with.  Frees. */
static void domains_leave(struct manager *m, struct domains *domains)
{
	for (size_t i = 0; i < domains->n; i++)
		keys_domain_left(m, domains->ids[i]);
	free(domains->ids);
	*domains = (struct domains){0};
}

static int refuse_held(const struct snapshot *s, struct errmsg *em)
{
	const size_t n = json_array_size(s->holders);

	if (n == 0)
		return 0;
	return errmsg_set(em, -EBUSY, "snapshot '%s' is held by '%s'%s (weir snapshot release)",
	        s->name, json_string_value(json_array_get(s->holders, 0)),
	        n > 1 ? " and others" : "");
}

int snapshots_delete(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, json_t **ret_json, struct errmsg *em)
{
	struct domains domains = {0};
	struct snapshot s = {0};

	if (m->read_only)
		return errmsg_set(em, -EROFS, "cannot delete a snapshot: mounted read-only");
	pthread_mutex_lock(&m->lock);
	int r = snapshot_find(m->ds->ns, rq->target, rq->name, &s, em);
	if (r == 0)
		r = refuse_held(&s, em);
	if (r == 0)
		r = deletion_run(m, who, &s, &domains, em);
	pthread_mutex_unlock(&m->lock);
	if (r < 0)
		domains.n = 0;
	domains_leave(m, &domains);
	if (r == 0)
		*ret_json = changed_json(&s);
	snapshot_release(&s);
	return r;
}

int snapshot_expire(struct manager *m, uint64_t number, uint64_t scope, enum snapshot_origin origin,
        struct errmsg *em)
{
	struct domains domains = {0};
	struct snapshot s = {0};

	pthread_mutex_lock(&m->lock);
	int r = snapshot_get(m->ds->ns, number, &s);
	if (r == 0 && (s.scope != scope || s.origin != origin))
		r = errmsg_set(em, -EBUSY, "snapshot '%s' is somebody's by now", s.name);
	if (r == 0)
		r = refuse_held(&s, em);
	if (r == 0)
		r = deletion_run(m, NULL, &s, &domains, em);
	pthread_mutex_unlock(&m->lock);
	if (r < 0)
		domains.n = 0;
	domains_leave(m, &domains);
	snapshot_release(&s);
	return r;
}

/* --- rows alone --- */

/* The record as it is to be, and its audit entry. */
static int record_change(struct manager *m, const struct filter_caller *who,
        const struct snapshot *s, const char *action, const char *old_value, const char *new_value,
        struct errmsg *em)
{
	audit_prepare(who ? who->uid : 0);
	int r = rows_begin(m, em);

	if (r < 0)
		return r;
	r = snapshot_put(m->ds->ns, s);
	if (r == 0)
		r = audit_note(m, who, action, s->scope, s->target, s->name, old_value, new_value);
	rows_end(m);
	if (r == 0)
		r = rows_flush(m);
	return r < 0 ? errmsg_set(em, r, "cannot record the change of snapshot '%s': %s", s->name,
	                       strerror(-r))
	             : 0;
}

/* --- rename --- */

struct members {
	uint64_t *inos; /* owned */
	size_t n, cap;
};

static int member_note(void *arg, const struct snapshot_image *si)
{
	struct members *mb = arg;

	if (mb->n == mb->cap) {
		const size_t cap = mb->cap ? 2 * mb->cap : 16;
		uint64_t *inos = realloc(mb->inos, cap * sizeof(*inos));
		if (!inos)
			return -ENOMEM;
		mb->inos = inos;
		mb->cap = cap;
	}
	mb->inos[mb->n++] = si->inode.ino;
	return 0;
}

static int by_number(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int new_name_free(
        struct ns *ns, const struct snapshot *s, const char *name, struct errmsg *em)
{
	struct members mb = {0};
	int r = snapshot_images_each(ns, s->number, member_note, &mb);

	if (mb.n > 1)
		qsort(mb.inos, mb.n, sizeof(*mb.inos), by_number);
	r = r < 0 ? snapshot_read_failed(r, em)
	          : snapshot_name_free(ns, s->scope, name, mb.inos, mb.n, em);
	free(mb.inos);
	return r;
}

int snapshots_rename(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, json_t **ret_json, struct errmsg *em)
{
	struct snapshot s = {0};
	int r = snapshot_name_check(rq->other_name, em);

	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	r = snapshot_find(m->ds->ns, rq->target, rq->name, &s, em);
	if (r == 0)
		r = new_name_free(m->ds->ns, &s, rq->other_name, em);
	if (r == 0) {
		snprintf(s.name, sizeof(s.name), "%s", rq->other_name);
		s.origin = SNAPSHOT_OF_USER;
		r = record_change(m, who, &s, "snapshot rename", rq->name, rq->other_name, em);
	}
	pthread_mutex_unlock(&m->lock);
	if (r == 0)
		*ret_json = changed_json(&s);
	snapshot_release(&s);
	return r;
}

/* --- holding --- */

static bool holder_good(const char *holder)
{
	const size_t len = strlen(holder);
	bool good = len > 0 && len <= SNAPSHOT_HOLDER_MAX;

	for (size_t i = 0; i < len && good; i++)
		good = holder[i] > ' ' && holder[i] < 127;
	return good;
}

static int holder_at(const struct snapshot *s, const char *holder)
{
	for (size_t i = 0; i < json_array_size(s->holders); i++)
		if (!strcmp(json_string_value(json_array_get(s->holders, i)), holder))
			return (int)i;
	return -1;
}

static int holders_change(struct snapshot *s, const char *holder, bool hold, struct errmsg *em)
{
	json_t *holders = json_object_get(s->json, "holders");
	const int at = holder_at(s, holder);

	if (hold && at >= 0)
		return errmsg_set(em, -EEXIST, "'%s' holds snapshot '%s' already", holder, s->name);
	if (!hold && at < 0)
		return errmsg_set(em, -ENOENT, "'%s' does not hold snapshot '%s'", holder, s->name);
	if (hold && json_array_size(holders) >= SNAPSHOT_HOLDERS_MAX)
		return errmsg_set(em, -ENOSPC, "snapshot '%s' has %u holders already", s->name,
		        SNAPSHOT_HOLDERS_MAX);
	const int r = hold ? json_array_append_new(holders, json_string(holder))
	                   : json_array_remove(holders, (size_t)at);
	return r < 0 ? errmsg_set(em, -ENOMEM, "out of memory") : 0;
}

int snapshots_hold(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, bool hold, json_t **ret_json, struct errmsg *em)
{
	struct snapshot s = {0};

	if (!rq->holder || !holder_good(rq->holder))
		return errmsg_set(em, -EINVAL,
		        "'%.64s' is no name of a holder: printable ASCII without spaces, at most "
		        "%u",
		        rq->holder ? rq->holder : "", SNAPSHOT_HOLDER_MAX);
	pthread_mutex_lock(&m->lock);
	int r = snapshot_find(m->ds->ns, rq->target, rq->name, &s, em);
	if (r == 0)
		r = holders_change(&s, rq->holder, hold, em);
	if (r == 0)
		r = record_change(m, who, &s, hold ? "snapshot hold" : "snapshot release",
		        hold ? NULL : rq->holder, hold ? rq->holder : NULL, em);
	pthread_mutex_unlock(&m->lock);
	if (r == 0)
		*ret_json = changed_json(&s);
	snapshot_release(&s);
	return r;
}
