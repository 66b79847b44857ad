/*
 * send-meta.c - what a stream says of an image besides its content: META and ROWs
 */
#include <errno.h>

#include "base/clock.h"
#include "fs/control/base64.h"
#include "fs/snapshot/private.h"
#include "fs/stream/send-private.h"

static json_t *time_json(const struct timespec *ts)
{
	return json_integer((json_int_t)ts->tv_sec * (json_int_t)NS_PER_SEC + ts->tv_nsec);
}

/* A path is bytes; what is no UTF-8 goes as base64. */
static int path_put(json_t *json, const char *path)
{
	json_t *value = json_string(path);

	if (value)
		return json_object_set_new(json, "path", value);
	CLEANUP(free_ptr) char *text = base64_encode(path, strlen(path));
	return text ? json_object_set_new(json, "path64", json_string(text)) : -1;
}

static json_t *meta_json(const struct sender *s)
{
	const struct ns_inode *inode = &s->si.inode;
	json_t *json = json_pack("{s:s, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:s?}", "snapshot",
	        s->s.name, "time_ns", (json_int_t)s->s.time_ns, "mode", (json_int_t)inode->mode,
	        "uid", (json_int_t)inode->uid, "gid", (json_int_t)inode->gid, "atime_ns",
	        time_json(&inode->atime), "mtime_ns", time_json(&inode->mtime), "ctime_ns",
	        time_json(&inode->ctime), "btime_ns", time_json(&inode->btime), "from",
	        s->rq->from);

	if (json && path_put(json, s->si.path) < 0) {
		json_decref(json);
		return NULL;
	}
	return json;
}

int meta_send(struct sender *s)
{
	json_t *json = meta_json(s);
	CLEANUP(free_ptr)
	char *text = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	json_decref(json);
	if (!text)
		return -ENOMEM;
	struct stream_record rec = {
	        .type = STREAM_META, .meta = {(const uint8_t *)text, strlen(text)}};
	return record_write(s->w, &rec);
}

static int rows_write(struct sender *s, const struct owned_rows *rows)
{
	int r = 0;

	for (size_t i = 0; i < rows->n && r == 0; i++) {
		const struct owned_row *row = &rows->items[i];
		struct stream_record rec = {
		        .type = STREAM_ROW,
		        .row = {.table = row->table == RECORD_ATTACHMENT ? STREAM_ROW_ATTACHMENT
		                                                         : STREAM_ROW_STATE,
		                .id = row->id,
		                .value = {row->value, row->len}},
		};
		r = record_write(s->w, &rec);
	}
	return r;
}

int rows_send(struct sender *s)
{
	const uint64_t owner = snapshot_image(s->si.key);
	struct owned_rows rows = {0};
	int r = owned_rows_read(s->ds->ns, owner, RECORD_ATTACHMENT, &rows);

	if (r == 0)
		r = owned_rows_read(s->ds->ns, owner, RECORD_FILTER_STATE, &rows);
	if (r == 0 && rows.n > STREAM_ROWS_MAX)
		r = errmsg_set(
		        s->em, -E2BIG, "'%s' has too much filter state to be sent", s->rq->target);
	if (r == 0)
		r = rows_write(s, &rows);
	owned_rows_release(&rows);
	return r;
}
