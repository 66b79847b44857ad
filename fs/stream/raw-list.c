/*
 * raw-list.c - what is kept sealed
 */
#include <errno.h>
#include <string.h>

#include "fs/control/text.h"
#include "fs/stream/raw-private.h"

struct listing {
	struct datastore *ds;
	json_t *list;
};

static json_t *snapshots_json(const struct holder *h)
{
	json_t *list = json_array();
	uint64_t bytes = 0;

	for (size_t i = 0; list && i < h->flag.n; i++) {
		const struct sealed_part *p = &h->flag.parts[i];
		const bool goes_on = !p->whole && i + 1 < h->flag.n;
		bytes += p->len;
		if (goes_on)
			continue;
		json_array_append_new(list, json_pack("{s:s, s:b, s:I}", "name", p->snapshot,
		                                    "whole", p->whole, "bytes", (json_int_t)bytes));
		bytes = 0;
	}
	return list;
}

/* Of a stream that was cut: how it goes on. */
static json_t *token_json(const struct holder *h)
{
	char text[RAW_TOKEN_TEXT];
	struct raw_progress progress;
	struct raw_token token;
	size_t first = h->flag.n;

	while (first > 0 && !h->flag.parts[first - 1].whole)
		first--;
	if (first == h->flag.n || holder_progress(h, first, &progress, &token.from) < 0)
		return json_null();
	memcpy(token.guid, h->flag.parts[first].guid, sizeof(token.guid));
	memcpy(token.guid_from, h->flag.parts[first].guid_from, sizeof(token.guid_from));
	raw_token_text(&token, text);
	return json_string(text);
}

static int key_note(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	return 1;
}

static json_t *holder_json(struct listing *l, const struct holder *h)
{
	char path[FILTER_PATH_MAX];
	struct raw_key key = {0};
	const int keyed = h->flag.n ? holder_key(h, 0, &key) : -ENOENT;
	const int there =
	        ns_record_each(l->ds->ns, RECORD_KEYSLOT, h->flag.domain, 0, key_note, NULL);

	target_path(l->ds->ns, h->ino, path);
	return json_pack("{s:o, s:s, s:I, s:b, s:I, s:o, s:o}", "target", text_json(path), "key",
	        keyed < 0 ? "" : key.name, "domain", (json_int_t)h->flag.domain, "key_there",
	        there == 1, "bytes", (json_int_t)sealed_flag_bytes(&h->flag), "snapshots",
	        snapshots_json(h), "token", token_json(h));
}

static int holder_list(void *arg, uint64_t ino, uint64_t id, const void *value, size_t len)
{
	struct listing *l = arg;
	struct holder h;
	struct ns_inode inode;

	if (id != SEALED_FLAG || ns_inode_get(l->ds->ns, ino, &inode) < 0 || inode.nlink == 0)
		return 0;
	const int r = holder_open(l->ds, ino, &h);
	if (r < 0)
		return r == -ENOENT || r == -EUCLEAN ? 0 : r;
	h.ino = ino;
	const int added = json_array_append_new(l->list, holder_json(l, &h));
	holder_close(&h);
	return added < 0 ? -ENOMEM : 0;
}

int raw_list(struct datastore *ds, json_t **ret_json, struct errmsg *em)
{
	struct listing l = {ds, json_array()};
	const int r = l.list ? ns_record_each_owner(ds->ns, RECORD_FLAG, holder_list, &l) : -ENOMEM;

	if (r < 0) {
		json_decref(l.list);
		return errmsg_set(em, r, "cannot list what is kept sealed: %s", strerror(-r));
	}
	*ret_json = l.list;
	return 0;
}
