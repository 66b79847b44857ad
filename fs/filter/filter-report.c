/*
 * filter-report.c - the stack of an image or directory, and what it costs
 *
 * One ordered list: request stages and chunk stages, those that are attached and those that every
 * image has.  Of an image that is open the entry's lock is held while its stages are asked, so that
 * none goes away meanwhile; the guest's requests do not wait for that.
 */
#include "fs/filter/report.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/control/text.h"
#include "fs/filter/manager-private.h"

struct listing {
	struct datastore *ds;
	struct manager *m;       /* NULL: no daemon */
	struct filter_image *fi; /* locked; NULL: not open */
	struct target t;
	struct manifest *mf; /* owned */
	struct image *img;   /* only while open */
	struct policy_cost chunks;
	bool cost; /* cost instead of counters and account */
};

static void set_new(json_t *json, const char *key, json_t *value)
{
	if (json_object_set_new(json, key, value) < 0)
		json_object_del(json, key);
}

/* --- numbers of one stage --- */

static void report_number(void *arg, const char *name, uint64_t value)
{
	set_new(arg, name, json_integer((json_int_t)value));
}

static void report_real(void *arg, const char *name, double value)
{
	set_new(arg, name, json_real(value));
}

static void report_text(void *arg, const char *name, const char *value)
{
	set_new(arg, name, text_json(value));
}

static void report_json(void *arg, const char *name, const char *json)
{
	set_new(arg, name, json_loads(json, JSON_DECODE_ANY, NULL));
}

static void chunk_counters(const struct listing *l, enum stage_class class, json_t *counters)
{
	const struct policy_cost *c = &l->chunks;

	if (class == STAGE_DEDUPE) {
		report_number(counters, "chunks", c->dedupe_chunks);
		report_number(counters, "duplicates", c->dedupe_hits);
	} else if (class == STAGE_COMPRESS) {
		report_number(counters, "in_bytes", c->compress_in_bytes);
		report_number(counters, "out_bytes", c->compress_out_bytes);
	} else if (class == STAGE_ENCRYPT) {
		report_number(counters, "bytes", c->encrypt_bytes);
	}
}

static json_t *counters_json(
        const struct listing *l, const struct stack_item *item, bool sees_requests)
{
	json_t *counters = json_object();
	const struct stage_report report = {
	        counters, report_number, report_real, report_text, report_json};

	if (!sees_requests)
		chunk_counters(l, item->class, counters);
	else if (pipeline_report(l->fi->pipeline, item->link, &report) < 0)
		set_new(counters, "missing", json_true());
	return counters;
}

static uint64_t requests_of(const struct stage_account *a)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < REQUEST_OPS; i++)
		n += a->requests[i];
	return n;
}

static json_t *account_json(const struct stage_account *a)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "requests", (json_int_t)requests_of(a),
	        "bytes_read", (json_int_t)a->bytes_read, "bytes_written",
	        (json_int_t)a->bytes_written, "errors", (json_int_t)a->errors, "answered",
	        (json_int_t)a->answered, "kept", (json_int_t)a->kept);
}

static json_t *cost_json(uint64_t operations, uint64_t bytes, const struct stage_account *a)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "operations",
	        (json_int_t)operations, "bytes", (json_int_t)bytes, "samples",
	        (json_int_t)a->samples, "mean_ns", (json_int_t)a->mean_ns, "p50_ns",
	        (json_int_t)a->p50_ns, "p99_ns", (json_int_t)a->p99_ns, "cpu_seconds",
	        a->cpu_seconds, "share", a->share);
}

/* Commits do this work beside requests: CPU time and its share of all that storing costs. */
static json_t *chunk_cost_json(const struct listing *l, enum stage_class class)
{
	const struct policy_cost *c = &l->chunks;
	struct stage_account a = {0};
	uint64_t ops = 0, bytes = 0, ns = 0;

	if (class == STAGE_DEDUPE) {
		ops = c->dedupe_chunks;
		bytes = ops * CHUNK_SIZE;
		ns = c->dedupe_ns;
	} else if (class == STAGE_COMPRESS) {
		ops = c->compress_in_bytes / CHUNK_SIZE;
		bytes = c->compress_in_bytes;
		ns = c->compress_ns;
	} else if (class == STAGE_ENCRYPT) {
		ops = c->encrypt_bytes / CHUNK_SIZE;
		bytes = c->encrypt_bytes;
		ns = c->encrypt_ns;
	}
	a.mean_ns = ops ? ns / ops : 0;
	a.cpu_seconds = (double)ns / (double)NS_PER_SEC;
	/* Several threads work on a commit, so their time together may exceed the commit's. */
	const uint64_t all_ns = MAX(c->commit_ns, c->dedupe_ns + c->compress_ns + c->encrypt_ns);
	a.share = all_ns ? (double)ns / (double)all_ns : 0.0;
	return cost_json(ops, bytes, &a);
}

static void numbers_add(
        const struct listing *l, const struct stack_item *item, bool sees_requests, json_t *json)
{
	struct stage_account a = {0};

	if (sees_requests && pipeline_account(l->fi->pipeline, item->link, &a) < 0)
		memset(&a, 0, sizeof(a));
	if (!l->cost) {
		set_new(json, "counters", counters_json(l, item, sees_requests));
		set_new(json, "account", account_json(&a));
	} else if (sees_requests) {
		set_new(json, "cost",
		        cost_json(requests_of(&a), a.bytes_read + a.bytes_written, &a));
	} else {
		set_new(json, "cost", chunk_cost_json(l, item->class));
	}
}

/* --- one stage --- */

/* Of a type that is there: all values, as people write them. */
static void values_add(const struct settings *s, json_t *texts, json_t *given)
{
	char buf[64];

	for (unsigned i = 0; s->defs[i].key; i++) {
		if (!s->values[i].set || s->defs[i].managed)
			continue;
		set_new(texts, s->defs[i].key,
		        text_json(setting_show(&s->defs[i], &s->values[i], buf, sizeof(buf))));
		if (s->values[i].given)
			json_array_append_new(given, json_string(s->defs[i].key));
	}
}

/* Of a type that is missing: what was given. */
static void lines_add(const char *lines, json_t *texts, json_t *given)
{
	while (lines && *lines) {
		const size_t n = strcspn(lines, "\n"), key_len = strcspn(lines, "=");
		char key[64];
		if (key_len < n && key_len < sizeof(key)) {
			snprintf(key, sizeof(key), "%.*s", (int)key_len, lines);
			set_new(texts, key, json_stringn(lines + key_len + 1, n - key_len - 1));
			json_array_append_new(given, json_string(key));
		}
		lines += n + (lines[n] == '\n');
	}
}

static const char *state_of(const struct listing *l, const struct stack_item *item)
{
	if (item->link == 0)
		return item->settings.defs[0].key ? "implicit" : "fixed";
	if (manifest_is_damaged(l->mf, item->link))
		return "damaged";
	if (!item->type)
		return "missing";
	if (!stack_item_usable(item))
		return "other version";
	return manifest_state_name(item->state);
}

static void progress_add(const struct listing *l, const struct stack_item *item, json_t *json)
{
	struct job job;

	if (!l->m || item->state == STACK_ACTIVE ||
	        jobs_find(l->m->jobs, l->t.ino, item->link, &job) < 0)
		return;
	const double share = job.total ? (double)job.done / (double)job.total : 0.0;
	set_new(json, "progress", json_real(MIN(share, 1.0)));
}

static json_t *stage_json(const struct listing *l, const struct stack_item *item)
{
	json_t *texts = json_object(), *given = json_array();
	const bool sees_requests = !(item->capabilities & STAGE_CHUNKS);

	if (item->settings.defs)
		values_add(&item->settings, texts, given);
	else
		lines_add(item->given, texts, given);
	json_t *json = json_pack("{s:I, s:s, s:I, s:s, s:s, s:b, s:o, s:o}", "link",
	        (json_int_t)item->link, "type", item->type_name, "version",
	        (json_int_t)item->type_version, "class", stage_class_name(item->class), "state",
	        state_of(l, item), "forced", item->forced, "settings", texts, "given", given);
	if (json)
		progress_add(l, item, json);
	if (json && l->fi && stack_item_usable(item))
		numbers_add(l, item, sees_requests, json);
	return json;
}

/* --- the stack --- */

/* What every image has besides what is attached. */
static int implicit_add(struct manifest *mf)
{
	const struct stage_type *t;

	for (unsigned i = 0; (t = stage_type_at(i)); i++) {
		struct stack_item item;
		if (!(t->capabilities & STAGE_IMPLICIT) ||
		        stack_plan_find_type(&mf->plan, t->name, 0) >= 0)
			continue;
		int r = manifest_item_make(t, 0, NULL, 0, &item, NULL);
		if (!r)
			r = manifest_add(mf, &item);
		if (r < 0 && r != -E2BIG)
			return r;
	}
	return 0;
}

static json_t *stages_json(struct listing *l)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < l->mf->plan.n && list; i++) {
		if (json_array_append_new(list, stage_json(l, &l->mf->plan.items[i])) < 0) {
			json_decref(list);
			list = NULL;
		}
	}
	return list;
}

static void listing_end(struct listing *l)
{
	store_image_close(l->img);
	if (l->fi) {
		pthread_mutex_unlock(&l->fi->lock);
		image_put(l->fi);
	}
	manifest_free(l->mf);
}

static int listing_begin(struct listing *l, const char *target, struct errmsg *em)
{
	int r = filter_target(l->ds->ns, target, &l->t, em);

	if (r < 0)
		return r;
	l->fi = l->m && !l->t.dir ? image_peek(l->m, l->t.ino) : NULL;
	if (l->fi) {
		pthread_mutex_lock(&l->fi->lock);
		if (!l->fi->pipeline) {
			pthread_mutex_unlock(&l->fi->lock);
			image_put(l->fi);
			l->fi = NULL;
		}
	}
	r = manifest_load(l->ds->ns, l->t.ino, &l->mf, em);
	if (!r && l->fi && store_image_open(l->ds->store, l->t.ino, &l->img) == 0)
		store_policy_cost(l->img, &l->chunks);
	return r;
}

static json_t *quarantine_json(const struct listing *l)
{
	struct bytes_out why = {0};
	json_t *json;

	if (ns_record_get(l->ds->ns, RECORD_FLAG, l->t.ino, QUARANTINE_FLAG, &why) < 0)
		return json_null();
	char text[NOTICE_TEXT];
	snprintf(text, sizeof(text), "%.*s", (int)MIN(why.len, sizeof(text) - 1),
	        why.data ? (const char *)why.data : "");
	json = text_json(text);
	bytes_release(&why);
	return json;
}

static json_t *list_json(struct listing *l)
{
	struct errmsg reason = {0};
	unsigned missing;
	const char *kind = l->t.ino == NS_ROOT_INO ? "datastore" : l->t.dir ? "directory" : "image";
	int r = manifest_check_open(l->mf, &missing, &reason);

	if (!r && l->m && !l->t.dir)
		r = keys_check_domain(l->m, l->mf->domain, &reason);
	const bool opens = r == 0;
	if (implicit_add(l->mf) < 0)
		return NULL;
	return json_pack("{s:o, s:I, s:s, s:b, s:b, s:o, s:o, s:o}", "target", text_json(l->t.path),
	        "inode", (json_int_t)l->t.ino, "kind", kind, "open", l->fi != NULL, "opens", opens,
	        "reason", opens ? json_null() : text_json(reason.text), "quarantine",
	        quarantine_json(l), "stages", stages_json(l));
}

static int list_report(struct datastore *ds, struct manager *m, const char *target,
        json_t **ret_json, struct errmsg *em)
{
	struct listing l = {.ds = ds, .m = m};
	int r = listing_begin(&l, target, em);
	json_t *json = r < 0 ? NULL : list_json(&l);

	listing_end(&l);
	if (!r && !json)
		r = errmsg_set(em, -ENOMEM, "out of memory");
	if (!r)
		*ret_json = json;
	return r;
}

int filter_report_list(
        struct datastore *ds, const char *target, json_t **ret_json, struct errmsg *em)
{
	return list_report(ds, NULL, target, ret_json, em);
}

int manager_list(struct manager *m, const char *target, json_t **ret_json, struct errmsg *em)
{
	return list_report(m->ds, m, target, ret_json, em);
}

/* CPU time is that of the stages; what is below them is not measured by request. */
static json_t *whole_json(const struct listing *l, double *ret_below_share)
{
	struct stage_account a, one;
	double share = 0;

	if (pipeline_account(l->fi->pipeline, 0, &a) < 0)
		memset(&a, 0, sizeof(a));
	for (unsigned i = 0; i < l->mf->plan.n; i++) {
		const struct stack_item *item = &l->mf->plan.items[i];
		if (item->capabilities & STAGE_CHUNKS ||
		        pipeline_account(l->fi->pipeline, item->link, &one) < 0)
			continue;
		a.cpu_seconds += one.cpu_seconds;
		share += one.share;
	}
	*ret_below_share = a.samples ? MAX(1 - share, 0.0) : 0;
	return cost_json(requests_of(&a), a.bytes_read + a.bytes_written, &a);
}

int manager_cost(struct manager *m, const char *target, json_t **ret_json, struct errmsg *em)
{
	struct listing l = {.ds = m->ds, .m = m, .cost = true};
	json_t *json = NULL;
	double below = 0;
	int r = listing_begin(&l, target, em);

	if (!r && l.t.dir)
		r = errmsg_set(em, -EISDIR, "%s%s%s is no image: costs are counted of one image",
		        *target ? "'" : "", *target ? target : "the datastore", *target ? "'" : "");
	if (!r && !l.fi)
		r = errmsg_set(em, -ENODATA,
		        "'%s' is not open: costs are counted while an image is in use", target);
	if (!r)
		r = implicit_add(l.mf);
	if (!r) {
		json_t *whole = whole_json(&l, &below);
		json = json_pack("{s:o, s:o, s:{s:f}, s:o}", "target", text_json(l.t.path), "whole",
		        whole, "storage", "share", below, "stages", stages_json(&l));
	}
	listing_end(&l);
	if (!r && !json)
		r = errmsg_set(em, -ENOMEM, "out of memory");
	if (!r)
		*ret_json = json;
	return r;
}

/* --- the audit trail --- */

static int entry_add(void *arg, json_t *entry)
{
	return json_array_append(arg, entry) < 0 ? -ENOMEM : 0;
}

static int verdict_add(struct ns *ns, const char *expect, json_t *json)
{
	struct audit_verdict v;
	const int r = audit_verify(ns, expect, &v);

	if (r < 0)
		return r;
	json_t *verify = json_pack("{s:I, s:s, s:b, s:I, s:o, s:b}", "entries",
	        (json_int_t)v.entries, "head", v.head, "whole", v.bad_seq == 0, "bad_seq",
	        (json_int_t)v.bad_seq, "why", text_json(v.why), "expected_found", v.expected_found);
	return json_object_set_new(json, "verify", verify) < 0 ? -ENOMEM : 0;
}

int filter_report_audit(struct datastore *ds, const char *target, bool verify, const char *expect,
        json_t **ret_json, struct errmsg *em)
{
	struct target t = {0};
	int r = *target ? filter_target(ds->ns, target, &t, em) : 0;

	if (r < 0)
		return r;
	json_t *entries = json_array();
	json_t *json = json_pack("{s:o}", "entries", entries);
	r = json ? audit_each(ds->ns, t.ino, entry_add, entries) : -ENOMEM;
	if (!r && verify)
		r = verdict_add(ds->ns, expect, json);
	if (r < 0) {
		json_decref(json);
		if (r == -EIO)
			return errmsg_set(em, r,
			        "cannot read the audit trail: its pages in '%s' fail their "
			        "checksums: damaged, or changed by another program (weir check)",
			        META_NAME);
		return errmsg_set(em, r, "cannot read the audit trail: %s", strerror(-r));
	}
	*ret_json = json;
	return 0;
}
