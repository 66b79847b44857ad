/*
 * policies.c - see policies.h
 *
 * A saved policy has the settings as they were given, not the defaults of today: applying it later,
 * by a newer program, means the same.
 */
#include "fs/filter/policies.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/filter/manager-private.h"
#include "fs/filter/report.h"

/* --- rows --- */

void policy_free(struct policy *p)
{
	if (!p)
		return;
	json_decref(p->json);
	free(p);
}

static bool stage_decode(const json_t *json, struct policy_stage *st)
{
	const json_t *list = json_object_get(json, "settings");
	const size_t n = json_array_size(list);

	st->type = json_string_value(json_object_get(json, "type"));
	if (!st->type || strlen(st->type) >= 32 || !json_is_array(list) || n > SETTINGS_MAX)
		return false;
	for (size_t i = 0; i < n; i++) {
		st->settings[i] = json_string_value(json_array_get(list, i));
		if (!st->settings[i] || !strchr(st->settings[i], '='))
			return false;
	}
	st->n_settings = (unsigned)n;
	return true;
}

static bool policy_fields(struct policy *p)
{
	const json_t *stages = json_object_get(p->json, "stages");
	const json_t *saved = json_object_get(p->json, "saved_ns");
	const size_t n = json_array_size(stages);

	p->name = json_string_value(json_object_get(p->json, "name"));
	if (!p->name || !json_is_integer(saved) || !json_is_array(stages) || n > STACK_LINKS_MAX)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!stage_decode(json_array_get(stages, i), &p->stages[i]))
			return false;
	p->saved_ns = (uint64_t)json_integer_value(saved);
	p->n = (unsigned)n;
	return true;
}

int policy_decode(uint64_t id, const void *value, size_t len, struct policy **ret_p)
{
	struct policy *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->id = id;
	p->json = json_loadb(value, len, JSON_REJECT_DUPLICATES, NULL);
	if (!policy_fields(p)) {
		policy_free(p);
		return -EUCLEAN;
	}
	*ret_p = p;
	return 0;
}

struct looking {
	const char *name;
	struct policy *found;
};

static int row_match(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct looking *l = arg;
	struct policy *p;
	const int r = policy_decode(id, value, len, &p);

	if (r == -EUCLEAN) {
		log_error("policy %llu is damaged", (unsigned long long)id);
		return 0;
	}
	if (r < 0)
		return r;
	if (strcmp(p->name, l->name)) {
		policy_free(p);
		return 0;
	}
	l->found = p;
	return 1;
}

int policy_load(struct ns *ns, const char *name, struct policy **ret_p, struct errmsg *em)
{
	struct looking l = {.name = name};
	const int r = ns_record_each(ns, RECORD_POLICY, 0, 0, row_match, &l);

	if (r < 0)
		return errmsg_set(em, r, "cannot read the policies: %s", strerror(-r));
	if (!l.found)
		return errmsg_set(em, -ENOENT, "there is no policy '%s' (weir policy list)", name);
	*ret_p = l.found;
	return 0;
}

/* --- listing --- */

static json_t *settings_object(const struct policy_stage *st)
{
	json_t *object = json_object();

	for (unsigned i = 0; i < st->n_settings && object; i++) {
		const size_t n = strcspn(st->settings[i], "=");
		char key[64];
		snprintf(key, sizeof(key), "%.*s", (int)n, st->settings[i]);
		json_object_set_new(object, key, json_string(st->settings[i] + n + 1));
	}
	return object;
}

static json_t *policy_json(const struct policy *p)
{
	json_t *stages = json_array();

	for (unsigned i = 0; i < p->n && stages; i++) {
		if (json_array_append_new(
		            stages, json_pack("{s:s, s:o}", "type", p->stages[i].type, "settings",
		                            settings_object(&p->stages[i]))) < 0) {
			json_decref(stages);
			stages = NULL;
		}
	}
	return json_pack("{s:s, s:I, s:o}", "name", p->name, "saved_ns", (json_int_t)p->saved_ns,
	        "stages", stages);
}

static int row_list(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	json_t *list = arg;
	struct policy *p;
	const int r = policy_decode(id, value, len, &p);

	if (r < 0)
		return r == -EUCLEAN ? 0 : r;
	const int added = json_array_append_new(list, policy_json(p));
	policy_free(p);
	return added < 0 ? -ENOMEM : 0;
}

int filter_report_policies(struct datastore *ds, json_t **ret_json, struct errmsg *em)
{
	json_t *list = json_array();
	const int r = list ? ns_record_each(ds->ns, RECORD_POLICY, 0, 0, row_list, list) : -ENOMEM;

	if (r < 0) {
		json_decref(list);
		return errmsg_set(em, r, "cannot read the policies: %s", strerror(-r));
	}
	*ret_json = json_pack("{s:o}", "policies", list);
	return *ret_json ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
}

/* --- saving and deleting --- */

static int name_check(const char *name, struct errmsg *em)
{
	const size_t len = strlen(name);
	bool good = len > 0 && len <= POLICY_NAME_MAX;

	for (size_t i = 0; i < len && good; i++)
		good = isalnum((unsigned char)name[i]) || strchr("._-", name[i]);
	if (good)
		return 0;
	return errmsg_set(em, -EINVAL,
	        "'%.64s' is no name of a policy: use letters, digits, '.', '_' and '-', at most %u",
	        name, POLICY_NAME_MAX);
}

static json_t *given_list(const char *given)
{
	json_t *list = json_array();

	while (given && *given && list) {
		const size_t n = strcspn(given, "\n");
		json_array_append_new(list, json_stringn(given, n));
		given += n + (given[n] == '\n');
	}
	return list;
}

static json_t *stages_of(const struct manifest *mf)
{
	json_t *stages = json_array();

	for (unsigned i = 0; i < mf->plan.n && stages; i++) {
		const struct stack_item *item = &mf->plan.items[i];
		if (item->state == STACK_CONVERTING_OUT)
			continue;
		json_t *stage = json_pack(
		        "{s:s, s:o}", "type", item->type_name, "settings", given_list(item->given));
		if (json_array_append_new(stages, stage) < 0) {
			json_decref(stages);
			stages = NULL;
		}
	}
	return stages;
}

/* Row and audit entry; row NULL: deleted. */
static int policy_put(struct manager *m, const struct filter_caller *who, uint64_t id,
        const char *name, const char *row, struct errmsg *em)
{
	int r = rows_begin(m, em);

	if (r < 0)
		return r;
	r = row ? ns_record_put(m->ds->ns, RECORD_POLICY, 0, id, row, strlen(row))
	        : ns_record_del(m->ds->ns, RECORD_POLICY, 0, id);
	if (!r)
		r = audit_note(
		        m, who, row ? "policy save" : "policy delete", 0, "", name, NULL, row);
	rows_end(m);
	if (!r)
		r = rows_flush(m);
	return r < 0 ? errmsg_set(em, r, "cannot record policy '%s': %s", name, strerror(-r)) : 0;
}

static int save_locked(struct manager *m, const struct filter_caller *who, const char *name,
        const struct manifest *mf, struct errmsg *em)
{
	struct policy *old = NULL;
	json_t *json = json_pack("{s:s, s:I, s:o}", "name", name, "saved_ns",
	        (json_int_t)clock_wall_ns(), "stages", stages_of(mf));
	CLEANUP(free_ptr) char *row = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	json_decref(json);
	if (!row)
		return errmsg_set(em, -ENOMEM, "out of memory");
	int r = policy_load(m->ds->ns, name, &old, em);
	if (r < 0 && r != -ENOENT)
		return r;
	r = policy_put(m, who, old ? old->id : ns_number_alloc(m->ds->ns), name, row, em);
	policy_free(old);
	return r;
}

int manager_policy_save(struct manager *m, const struct filter_caller *who, const char *name,
        const char *target, json_t **ret_json, struct errmsg *em)
{
	CLEANUP(manifest_freep) struct manifest *mf = NULL;
	struct policy *p = NULL;
	struct target t;
	int r = name_check(name, em);

	if (!r)
		r = filter_target(m->ds->ns, target, &t, em);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	r = manifest_load(m->ds->ns, t.ino, &mf, em);
	if (!r)
		r = save_locked(m, who, name, mf, em);
	if (!r)
		r = policy_load(m->ds->ns, name, &p, em);
	pthread_mutex_unlock(&m->lock);
	if (r < 0)
		return r;
	*ret_json = policy_json(p);
	policy_free(p);
	return *ret_json ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
}

int manager_policy_delete(
        struct manager *m, const struct filter_caller *who, const char *name, struct errmsg *em)
{
	struct policy *p;

	pthread_mutex_lock(&m->lock);
	int r = policy_load(m->ds->ns, name, &p, em);
	if (!r) {
		r = policy_put(m, who, p->id, name, NULL, em);
		policy_free(p);
	}
	pthread_mutex_unlock(&m->lock);
	return r;
}
