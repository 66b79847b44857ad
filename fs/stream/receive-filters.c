/*
 * receive-filters.c - the filters of what is received
 *
 *	stage                                  whole image          incremental
 *	data depends on it (transforms, holds) the sender's, with   must be the same at both; its
 *	                                       its state            state becomes the sender's
 *	encrypt                                the directory's      the image's
 *	others                                 the directory's;     the image's
 *	                                       --properties: the
 *	                                       sender's
 *
 * The content of a stream is what lay below the sender's request stages, so those that transform must
 * come along, and one that the directory would add must not be: nothing here went through it.  What
 * is left out for that reason is told.  Of a row that comes in a stream nothing is believed but
 * what this program knows of the type itself.
 */
#include <errno.h>
#include <string.h>

#include "fs/stream/receive-private.h"

bool filters_depends(const struct stack_item *item)
{
	return item->class != STAGE_ENCRYPT &&
	       item->capabilities & (STAGE_TRANSFORMS | STAGE_HOLDS_DATA);
}

static int row_bad(struct errmsg *em)
{
	return errmsg_set(
	        em, -EUCLEAN, "the stream is damaged: a row of its filters makes no sense");
}

int filters_row(struct receiver *rc, const struct stream_row *row, struct errmsg *em)
{
	const enum record_table table =
	        row->table == STREAM_ROW_STATE ? RECORD_FILTER_STATE : RECORD_ATTACHMENT;
	const uint64_t id_max = table == RECORD_FILTER_STATE ? (1ull << 48) - 1 : UINT32_MAX;

	if (row->id == 0 || row->id > id_max || row->value.len > RECORD_VALUE_MAX)
		return row_bad(em);
	rc->rows_bytes += row->value.len;
	if (rc->rows_bytes > STATE_IMAGE_BYTES_MAX + RECORD_VALUE_MAX)
		return errmsg_set(em, -EFBIG, "the state of its filters is too large");
	const int r = owned_rows_add(&rc->rows, table, row->id, row->value.data, row->value.len);
	return r < 0 ? errmsg_set(em, r, "out of memory") : 0;
}

static int leave_out(struct receiver *rc, const char *type)
{
	for (size_t i = 0; i < json_array_size(rc->left_out); i++)
		if (!strcmp(json_string_value(json_array_get(rc->left_out, i)), type))
			return 0;
	return json_array_append_new(rc->left_out, json_string(type)) < 0 ? -ENOMEM : 0;
}

/* --- the sender's --- */

/* An attachment as the sender has it; what this program does not know has no type. */
static int sent_decode(const struct owned_row *row, struct stack_item *ret_item, struct errmsg *em)
{
	uint32_t domain;
	bool damaged = false;
	const int r =
	        manifest_item_decode(row->id, row->value, row->len, ret_item, &domain, &damaged);

	if (r == -EUCLEAN)
		return row_bad(em);
	if (r < 0)
		return errmsg_set(em, r, "out of memory");
	const struct stage_type *type = ret_item->type;
	const bool lies =
	        stack_item_usable(ret_item) &&
	        (type->class != ret_item->class || type->capabilities != ret_item->capabilities);
	if (!damaged && !lies)
		return 0;
	manifest_item_release(ret_item);
	return row_bad(em);
}

static int sent_check(const struct stack_item *item, struct errmsg *em)
{
	if (!filters_depends(item))
		return 0;
	if (!stack_item_usable(item))
		return errmsg_set(em, -EOPNOTSUPP,
		        "its data depends on filter '%.32s' version %u, which this program does "
		        "not have",
		        item->type_name, item->type_version);
	if (item->state != STACK_ACTIVE)
		return errmsg_set(em, -EBUSY, "its data was being converted by filter '%.32s'",
		        item->type_name);
	return 0;
}

/* The state that the sender has of a link becomes that of another one. */
static int state_plan(
        struct receiver *rc, uint64_t from, uint64_t to, struct owned_rows *rows, struct errmsg *em)
{
	const char *name;
	const void *data;
	size_t name_len, data_len;
	int r = 0;

	for (size_t i = 0; i < rc->rows.n && r == 0; i++) {
		const struct owned_row *row = &rc->rows.items[i];
		if (row->table != RECORD_FILTER_STATE || row->id >> 16 != from)
			continue;
		if (state_row_decode(row->value, row->len, &name, &name_len, &data, &data_len) < 0)
			return row_bad(em);
		r = owned_rows_add(rows, RECORD_FILTER_STATE, to << 16 | (row->id & 0xffff),
		        row->value, row->len);
	}
	return r < 0 ? errmsg_set(em, r, "out of memory") : 0;
}

/* --- a whole image --- */

static int inherit_row(struct receiver *rc, const struct owned_row *row, struct owned_rows *rows)
{
	const uint64_t link = ns_number_alloc(rc->m->ds->ns);
	struct stack_item item;
	uint32_t domain;
	bool damaged = false, wanted = true;
	int r = manifest_item_decode(row->id, row->value, row->len, &item, &domain, &damaged);

	if (r == 0) {
		const bool depends = filters_depends(&item);
		wanted = !depends && (!rc->rq->properties || item.class == STAGE_ENCRYPT) &&
		         !(rc->rq->key && item.class == STAGE_ENCRYPT);
		r = depends ? leave_out(rc, item.type_name) : 0;
		manifest_item_release(&item);
	}
	if (r < 0 && r != -EUCLEAN)
		return r;
	return wanted ? owned_rows_add(rows, RECORD_ATTACHMENT, link, row->value, row->len) : 0;
}

static int plan_inherited(struct receiver *rc, struct owned_rows *rows, struct errmsg *em)
{
	struct owned_rows dir = {0};
	int r = owned_rows_read(rc->m->ds->ns, rc->place.dir, RECORD_ATTACHMENT, &dir);

	for (size_t i = 0; i < dir.n && r == 0; i++)
		r = inherit_row(rc, &dir.items[i], rows);
	owned_rows_release(&dir);
	return r < 0 ? errmsg_set(
	                       em, r, "cannot read the filters of the directory: %s", strerror(-r))
	             : 0;
}

/* The key that the image came with. */
static int plan_key(struct receiver *rc, struct owned_rows *rows, struct errmsg *em)
{
	char setting[sizeof("key=") + 256];
	const char *const settings[] = {setting};
	const struct stage_type *type = stage_type_find("encrypt");
	const uint64_t link = ns_number_alloc(rc->m->ds->ns);
	struct stack_item item;

	snprintf(setting, sizeof(setting), "key=%.255s", rc->rq->key);
	int r = type ? manifest_item_make(type, link, settings, 1, &item, em) : -EOPNOTSUPP;
	if (r < 0)
		return r;
	CLEANUP(free_ptr) char *text = manifest_item_encode(&item, rc->place.policy.domain);
	r = text ? owned_rows_add(rows, RECORD_ATTACHMENT, link, text, strlen(text)) : -ENOMEM;
	manifest_item_release(&item);
	return r;
}

static int plan_sent(struct receiver *rc, const struct owned_row *row, struct owned_rows *rows,
        struct errmsg *em)
{
	struct stack_item item;
	int r = sent_decode(row, &item, em);

	if (r < 0)
		return r;
	r = sent_check(&item, em);
	const bool encrypts = item.class == STAGE_ENCRYPT;
	const bool wanted = filters_depends(&item) ||
	                    (rc->rq->properties && !encrypts && stack_item_usable(&item));
	if (r == 0 && encrypts && rc->place.policy.domain == 0)
		r = leave_out(rc, item.type_name);
	if (r == 0 && wanted) {
		const uint64_t link = ns_number_alloc(rc->m->ds->ns);
		r = owned_rows_add(rows, RECORD_ATTACHMENT, link, row->value, row->len);
		if (r == 0)
			r = state_plan(rc, row->id, link, rows, em);
	}
	manifest_item_release(&item);
	return r;
}

static int plan_whole(struct receiver *rc, struct owned_rows *rows, struct errmsg *em)
{
	size_t n = 0;
	int r = plan_inherited(rc, rows, em);

	if (r == 0 && rc->rq->key)
		r = plan_key(rc, rows, em);
	for (size_t i = 0; i < rc->rows.n && r == 0; i++)
		if (rc->rows.items[i].table == RECORD_ATTACHMENT)
			r = plan_sent(rc, &rc->rows.items[i], rows, em);
	for (size_t i = 0; i < rows->n; i++)
		n += rows->items[i].table == RECORD_ATTACHMENT;
	if (r == 0 && n > STACK_LINKS_MAX)
		r = errmsg_set(em, -E2BIG, "it has more than %u filters", STACK_LINKS_MAX);
	return r;
}

/* --- an incremental stream --- */

/* What the sender's data depends on, in order of the stack. */
static int sent_manifest(struct receiver *rc, struct manifest **ret_mf, struct errmsg *em)
{
	CLEANUP(manifest_freep) struct manifest *mf = calloc(1, sizeof(*mf));
	int r = mf ? 0 : errmsg_set(em, -ENOMEM, "out of memory");

	for (size_t i = 0; i < rc->rows.n && r == 0; i++) {
		struct stack_item item;
		if (rc->rows.items[i].table != RECORD_ATTACHMENT)
			continue;
		r = sent_decode(&rc->rows.items[i], &item, em);
		if (r < 0)
			break;
		r = sent_check(&item, em);
		if (r == 0 && filters_depends(&item) && manifest_add(mf, &item) < 0)
			r = errmsg_set(em, -E2BIG, "it has too many filters");
		manifest_item_release(&item);
	}
	if (r == 0)
		*ret_mf = STEAL(mf);
	return r;
}

static bool same_item(const struct stack_item *a, const struct stack_item *b)
{
	return !strcmp(a->type_name, b->type_name) && a->type_version == b->type_version &&
	       a->state == STACK_ACTIVE && b->state == STACK_ACTIVE &&
	       !strcmp(a->given ? a->given : "", b->given ? b->given : "");
}

/* The next one from *at on that data depends on. */
static const struct stack_item *next_item(const struct manifest *mf, unsigned *at)
{
	while (*at < mf->plan.n)
		if (filters_depends(&mf->plan.items[(*at)++]))
			return &mf->plan.items[*at - 1];
	return NULL;
}

static int plan_same(struct receiver *rc, const struct manifest *here, const struct manifest *sent,
        struct owned_rows *rows, struct errmsg *em)
{
	unsigned at_here = 0, at_sent = 0;

	for (;;) {
		const struct stack_item *a = next_item(here, &at_here);
		const struct stack_item *b = next_item(sent, &at_sent);
		if (!a && !b)
			return 0;
		if (!a || !b || !same_item(a, b))
			return errmsg_set(em, -EINVAL,
			        "filter '%.32s', which its data depends on, is not the same at "
			        "the sender (send it whole)",
			        a ? a->type_name : b->type_name);
		const int r = state_plan(rc, b->link, a->link, rows, em);
		if (r < 0)
			return r;
	}
}

static int plan_incremental(struct receiver *rc, struct owned_rows *rows, struct errmsg *em)
{
	struct ns *ns = rc->m->ds->ns;
	CLEANUP(manifest_freep) struct manifest *here = NULL;
	CLEANUP(manifest_freep) struct manifest *sent = NULL;
	int r = manifest_load(ns, rc->place.image, &here, em);

	if (r == 0)
		r = sent_manifest(rc, &sent, em);
	if (r == 0)
		r = plan_same(rc, here, sent, rows, em);
	if (r < 0)
		return r;
	r = owned_rows_read(ns, rc->place.image, RECORD_ATTACHMENT, rows);
	return r < 0 ? errmsg_set(em, r, "cannot read the filters of '%s': %s", rc->place.path,
	                       strerror(-r))
	             : 0;
}

int filters_same_still(struct receiver *rc, const struct manifest *now, struct errmsg *em)
{
	CLEANUP(manifest_freep) struct manifest *then = NULL;
	unsigned at_now = 0, at_then = 0;
	const struct stack_item *a, *b;
	int r = manifest_load(rc->m->ds->ns, rc->st.rec.ino, &then, em);

	while (r == 0 && ((a = next_item(now, &at_now)), (b = next_item(then, &at_then)), a || b))
		if (!a || !b || a->link != b->link || !same_item(a, b))
			r = errmsg_set(em, -EINVAL,
			        "filter '%.32s', which the data of '%s' depends on, came or went "
			        "while the stream came (weir receive --abort, and send it again)",
			        a ? a->type_name : b->type_name, rc->place.path);
	return r;
}

int filters_plan(struct receiver *rc, struct owned_rows *ret_rows, struct errmsg *em)
{
	struct owned_rows rows = {0};
	const int r = rc->place.image ? plan_incremental(rc, &rows, em) : plan_whole(rc, &rows, em);

	if (r < 0)
		owned_rows_release(&rows);
	else
		*ret_rows = rows;
	return r;
}
