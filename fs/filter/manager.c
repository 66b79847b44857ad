/*
 * manager.c - the manager as a whole: life, rows with their audit entries, status
 *
 * Who does what: images.c the images that are open, change.c a change of one inode's stack,
 * apply.c what the control socket asks for, job.c and what it runs the long work, notice.c what
 * stages say, policies.c named stacks, filter-report.c the lists.
 *
 * Ending has two steps.  manager_stop() ends the jobs, and the waits for them, while the control
 * socket still answers; manager_free() comes when the datastore is closed: until then a commit may
 * collect state.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/control/text.h"
#include "fs/filter/manager-private.h"
#include "fs/snapshot/schedule.h"
#include "fs/stream/receive.h"

#define ROWS_COST 4096u /* bytes of overlay that a change of rows counts for */

/* --- rows --- */

static int begin(struct manager *m, bool anyway, struct errmsg *em)
{
	int r = m->read_only ? -EROFS : store_throttle(m->ds->store, ROWS_COST);

	if (anyway && r == -ENOSPC)
		r = 0;
	if (r < 0)
		return errmsg_set(em, r, "cannot change anything: %s", strerror(-r));
	pthread_mutex_lock(&m->record_lock);
	audit_warm(m->ds->ns);
	store_enter(m->ds->store);
	return 0;
}

int rows_begin(struct manager *m, struct errmsg *em)
{
	return begin(m, false, em);
}

int rows_begin_anyway(struct manager *m, struct errmsg *em)
{
	return begin(m, true, em);
}

void rows_end(struct manager *m)
{
	store_leave(m->ds->store);
	pthread_mutex_unlock(&m->record_lock);
}

/* With record_lock. */
static void mark_add(struct manager *m, const struct audit_mark *mark)
{
	m->marks[m->marks_end++ % AUDIT_MARKS_MAX] = *mark;
	if (m->marks_end - m->marks_first > AUDIT_MARKS_MAX)
		m->marks_first++; /* the chain goes through it: a later hash stands for it, too */
}

/* Those before `end` are durable. */
static void marks_tell(struct manager *m, uint64_t end)
{
	pthread_mutex_lock(&m->record_lock);
	for (; m->marks_first < end; m->marks_first++) {
		const struct audit_mark *mark = &m->marks[m->marks_first % AUDIT_MARKS_MAX];
		log_note("audit: entry %llu: %s, hash %s", (unsigned long long)mark->seq,
		        mark->action, mark->hash);
	}
	pthread_mutex_unlock(&m->record_lock);
}

int rows_flush(struct manager *m)
{
	pthread_mutex_lock(&m->record_lock);
	const uint64_t end = m->marks_end;
	pthread_mutex_unlock(&m->record_lock);
	const int r = store_flush(m->ds->store, NULL);
	if (!r)
		marks_tell(m, end);
	return r;
}

int audit_note(struct manager *m, const struct filter_caller *who, const char *action, uint64_t ino,
        const char *path, const char *type, const char *old_value, const char *new_value)
{
	const struct audit_entry entry = {
	        .uid = who ? who->uid : 0,
	        .pid = who ? who->pid : 0,
	        .program = "weir",
	        .action = action,
	        .inode = ino,
	        .target = path,
	        .type = type ? type : "",
	        .old_value = old_value ? old_value : "",
	        .new_value = new_value ? new_value : "",
	};
	struct audit_mark mark;
	const int r = audit_append(m->ds->ns, &entry, &mark);
	if (!r)
		mark_add(m, &mark);
	return r;
}

/* --- what the engine asks --- */

int manager_policy(void *ns, uint64_t image, struct image_policy *ret_policy)
{
	struct manifest *mf;
	struct errmsg em = {0};
	const int r = manifest_load(ns, image, &mf, &em);

	if (r < 0) {
		log_error("%s", em.text);
		return r;
	}
	manifest_policy(mf, ret_policy);
	manifest_free(mf);
	return 0;
}

/* --- life --- */

static struct manager *manager_alloc(struct datastore *ds, struct vfs *v)
{
	struct manager *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->ds = ds;
	m->vfs = v;
	m->read_only = ds->read_only;
	pthread_mutex_init(&m->lock, NULL);
	pthread_mutex_init(&m->record_lock, NULL);
	pthread_mutex_init(&m->images_lock, NULL);
	pthread_mutex_init(&m->receive_lock, NULL);
	return m;
}

int manager_new(struct datastore *ds, struct vfs *v, struct manager **ret_m, struct errmsg *em)
{
	struct manager *m = manager_alloc(ds, v);
	const struct stage_runtime_config cfg = {.reserve_bytes = ds->cache_bytes / 2};

	if (!m)
		return errmsg_set(em, -ENOMEM, "out of memory");
	audit_prepare(0); /* what the daemon itself does */
	int r = stage_runtime_new(&cfg, &m->rt);
	if (r < 0)
		errmsg_set(em, r, "cannot start the filters' threads: %s", strerror(-r));
	if (!r)
		r = notices_new(m, &m->notices, em);
	if (!r)
		r = keys_new(m, &m->keys, em);
	if (!r) {
		r = jobs_new(m, &m->jobs);
		if (r < 0)
			errmsg_set(em, r, "out of memory");
	}
	if (!r)
		r = schedules_new(m, &m->schedules, em);
	if (!r)
		r = notices_start(m->notices, em);
	if (r < 0) {
		manager_free(m);
		return r;
	}
	*ret_m = m;
	return 0;
}

void manager_set_invalidate(
        struct manager *m, void (*fn)(void *arg, uint64_t ino, const char *name), void *arg)
{
	pthread_mutex_lock(&m->receive_lock);
	m->invalidate = fn;
	m->invalidate_arg = arg;
	pthread_mutex_unlock(&m->receive_lock);
}

void manager_invalidate(void *manager, uint64_t ino, const char *name)
{
	struct manager *m = manager;

	pthread_mutex_lock(&m->receive_lock);
	void (*fn)(void *arg, uint64_t of, const char *called) = m->invalidate;
	void *arg = m->invalidate_arg;
	pthread_mutex_unlock(&m->receive_lock);
	if (fn)
		fn(arg, ino, name);
}

int manager_start(struct manager *m, struct errmsg *em)
{
	int r = m->read_only ? 0 : jobs_start(m->jobs, em);

	if (!r && !m->read_only)
		r = schedules_start(m->schedules, em);
	if (!r && !m->read_only)
		receive_sweep(m);
	return r;
}

void manager_stop(struct manager *m)
{
	if (!m)
		return;
	schedules_stop(m->schedules);
	jobs_stop(m->jobs);
}

void manager_quiet(struct manager *m)
{
	if (!m)
		return;
	notices_stop(m->notices);
	if (m->marks_first < m->marks_end && rows_flush(m) < 0)
		log_warn("the last entries of the audit trail may be lost");
}

void manager_free(struct manager *m)
{
	if (!m)
		return;
	schedules_free(m->schedules);
	jobs_stop(m->jobs);
	jobs_free(m->jobs);
	notices_free(m->notices);
	keys_free(m->keys);
	filter_images_free(m);
	stage_runtime_free(m->rt);
	pthread_mutex_destroy(&m->lock);
	pthread_mutex_destroy(&m->record_lock);
	pthread_mutex_destroy(&m->images_lock);
	pthread_mutex_destroy(&m->receive_lock);
	free(m);
}

/* --- status --- */

struct unopenable_list {
	struct manager *m;
	json_t *list;
	bool failed;
};

static void unopenable_add(void *arg, uint64_t ino, const char *reason)
{
	struct unopenable_list *u = arg;
	char path[FILTER_PATH_MAX];

	target_path(u->m->ds->ns, ino, path);
	if (json_array_append_new(u->list, json_pack("{s:o, s:o}", "target", text_json(path),
	                                           "reason", text_json(reason))) < 0)
		u->failed = true;
}

int manager_status(struct manager *m, json_t *status)
{
	struct unopenable_list u = {m, json_array(), false};

	if (u.list)
		images_unopenable(m, unopenable_add, &u);
	/* json_object_set_new takes NULL as a failure. */
	if (json_object_set_new(status, "unopenable", u.list) < 0 || u.failed ||
	        json_object_set_new(status, "quarantine", notices_quarantine_json(m->notices)) <
	                0 ||
	        json_object_set_new(status, "alerts", notices_json(m->notices)) < 0 ||
	        json_object_set_new(status, "jobs", jobs_json(m->jobs)) < 0)
		return -ENOMEM;
	return 0;
}
