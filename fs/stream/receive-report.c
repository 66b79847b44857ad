/*
 * receive-report.c - what was received in part: listed, and given up
 */
#include <errno.h>
#include <string.h>

#include "fs/control/text.h"
#include "fs/stream/raw-stream.h"
#include "fs/stream/receive-private.h"

struct listing {
	struct datastore *ds;
	struct manager *m; /* NULL: no daemon */
	json_t *list;
};

static json_t *record_json(const struct listing *l, const struct receive_record *rec)
{
	struct image_stats st = {0};
	char path[FILTER_PATH_MAX], text[STREAM_TOKEN_TEXT];
	struct stream_token token = {.start = rec->pos};
	const int r = store_image_stats(l->ds->store, &rec->ino, 1, false, NULL, NULL, &st);

	memcpy(token.guid, rec->guid, sizeof(token.guid));
	memcpy(token.guid_from, rec->guid_from, sizeof(token.guid_from));
	stream_token_text(&token, text);
	receive_record_path(l->ds->ns, rec, path);
	return json_pack("{s:o, s:s, s:b, s:I, s:I, s:I, s:I, s:s, s:b}", "target", text_json(path),
	        "snapshot", rec->snapshot, "incremental", !receive_record_whole(rec), "size_bytes",
	        (json_int_t)rec->size, "position_bytes", (json_int_t)rec->pos, "allocated_bytes",
	        r < 0 ? 0 : (json_int_t)((st.data_chunks + st.zero_chunks) * CHUNK_SIZE),
	        "started_ns", (json_int_t)rec->started_ns, "token", text, "active",
	        l->m && staging_active(l->m, rec->ino));
}

static int record_list(void *arg, const struct receive_record *rec)
{
	struct listing *l = arg;

	return json_array_append_new(l->list, record_json(l, rec)) < 0 ? -ENOMEM : 0;
}

int receive_list(struct datastore *ds, struct manager *m, json_t **ret_json, struct errmsg *em)
{
	struct listing l = {ds, m, json_array()};
	int r = l.list ? receive_records_each(ds->ns, record_list, &l) : -ENOMEM;

	json_t *sealed = NULL;
	if (r == 0)
		r = raw_list(ds, &sealed, em);
	if (r == 0) {
		*ret_json = json_pack("{s:O, s:o}", "receiving", l.list, "sealed", sealed);
		r = *ret_json ? 0 : -ENOMEM;
	}
	json_decref(l.list);
	return r < 0 ? errmsg_set(em, r, "cannot list what was received: %s", strerror(-r)) : 0;
}

struct totalling {
	struct datastore *ds;
	struct receive_totals t;
};

static int record_total(void *arg, const struct receive_record *rec)
{
	struct totalling *t = arg;
	struct image_stats st = {0};
	const int r = store_image_stats(t->ds->store, &rec->ino, 1, false, NULL, NULL, &st);

	t->t.images++;
	t->t.size_bytes += rec->size;
	t->t.allocated_bytes += (st.data_chunks + st.zero_chunks) * CHUNK_SIZE;
	return r;
}

int receive_totals(struct datastore *ds, struct receive_totals *ret_totals)
{
	struct totalling t = {.ds = ds};
	const int r = receive_records_each(ds->ns, record_total, &t);

	if (r == 0)
		*ret_totals = t.t;
	return r;
}

/* --- given up --- */

struct aborting {
	struct manager *m;
	const char *target;
	uint64_t inos[RECEIVES_MAX];
	unsigned n;
	bool active;
};

static int record_abort(void *arg, const struct receive_record *rec)
{
	struct aborting *ab = arg;
	char path[FILTER_PATH_MAX];

	receive_record_path(ab->m->ds->ns, rec, path);
	if (strcmp(path, ab->target) != 0 || ab->n == RECEIVES_MAX)
		return 0;
	ab->active = ab->active || staging_active(ab->m, rec->ino);
	ab->inos[ab->n++] = rec->ino;
	return 0;
}

/* With manager.lock: none begins meanwhile. */
static int abort_locked(struct aborting *ab, const struct filter_caller *who, struct errmsg *em)
{
	struct manager *m = ab->m;
	int r = receive_records_each(m->ds->ns, record_abort, ab);

	if (r < 0)
		return errmsg_set(em, r, "cannot list what was received: %s", strerror(-r));
	if (ab->n == 0)
		return errmsg_set(em, -ENOENT,
		        "nothing is being received for '%s' (weir receive --list)", ab->target);
	if (ab->active)
		return errmsg_set(
		        em, -EBUSY, "'%s' is being received now: end that first", ab->target);
	audit_prepare(who ? who->uid : 0);
	r = rows_begin_anyway(m, em);
	if (r < 0)
		return r;
	r = audit_note(m, who, "receive abort", 0, ab->target, "", NULL, NULL);
	rows_end(m);
	for (unsigned i = 0; i < ab->n && r == 0; i++)
		r = staging_remove(m, ab->inos[i]);
	return r < 0 ? errmsg_set(em, r, "cannot remove what was received for '%s': %s", ab->target,
	                       strerror(-r))
	             : 0;
}

int receive_abort(struct manager *m, const struct filter_caller *who, const char *target,
        json_t **ret_json, struct errmsg *em)
{
	struct aborting ab = {.m = m, .target = target};

	if (m->read_only)
		return errmsg_set(em, -EROFS, "cannot change anything: mounted read-only");
	pthread_mutex_lock(&m->lock);
	const int r = abort_locked(&ab, who, em);
	pthread_mutex_unlock(&m->lock);
	if (r == 0)
		*ret_json =
		        json_pack("{s:o, s:i}", "target", text_json(target), "removed", (int)ab.n);
	return r;
}
