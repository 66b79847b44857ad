/*
 * job.c - the jobs and the thread that does them
 *
 * The list is in RAM, the rows behind it are written by the changes that begin and end a job
 * (change.c).  The thread takes the first job that is due.  While it runs the job stays in the list,
 * so that it is found and its progress shows; nobody but the thread takes jobs out.
 */
#include "fs/filter/job.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/control/text.h"
#include "fs/filter/manager-private.h"

#define WAIT_STEP_NS (200 * NS_PER_MS)

struct jobs {
	struct manager *m;
	pthread_mutex_t lock;
	pthread_cond_t cond; /* a job came, went or was put off; or the end */
	pthread_t thread;
	bool running;
	_Atomic bool stopping;
	struct job *first;   /* owned list, in order of queueing */
	struct job *current; /* of the list */
};

static const struct job_ops *const ops[] = {
        [JOB_CONVERT] = &job_convert_ops,
        [JOB_RESEAL] = &job_reseal_ops,
        [JOB_UNSEAL] = &job_unseal_ops,
};

/* --- rows --- */

char *job_encode(const struct job *job)
{
	json_t *from = json_array();
	json_t *json = json_pack(
	        "{s:s, s:s, s:o}", "what", ops[job->what]->what, "type", job->type, "from", from);
	bool good = json;

	for (unsigned i = 0; i < job->n_from && good; i++)
		good = json_array_append_new(from, json_integer(job->from[i])) == 0;
	char *text = good ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	json_decref(json);
	return text;
}

static bool what_parse(const char *name, enum job_what *ret_what)
{
	for (unsigned i = 0; name && i < ARRAY_SIZE(ops); i++) {
		if (!strcmp(name, ops[i]->what)) {
			*ret_what = (enum job_what)i;
			return true;
		}
	}
	return false;
}

static bool from_decode(const json_t *list, struct job *job)
{
	const size_t n = json_array_size(list);

	if (!json_is_array(list) || n > JOB_DOMAINS_MAX)
		return false;
	for (size_t i = 0; i < n; i++) {
		const json_t *domain = json_array_get(list, i);
		if (!json_is_integer(domain) || json_integer_value(domain) < 0 ||
		        json_integer_value(domain) > UINT32_MAX)
			return false;
		job->from[i] = (uint32_t)json_integer_value(domain);
	}
	job->n_from = (unsigned)n;
	return true;
}

int job_decode(const void *value, size_t len, struct job *ret_job)
{
	struct job job = {.ino = ret_job->ino, .link = ret_job->link};
	json_t *json = json_loadb(value, len, JSON_REJECT_DUPLICATES, NULL);
	const char *type = json_string_value(json_object_get(json, "type"));
	const bool good = type && strlen(type) < sizeof(job.type) &&
	                  what_parse(json_string_value(json_object_get(json, "what")), &job.what) &&
	                  from_decode(json_object_get(json, "from"), &job);

	if (good)
		strcpy(job.type, type);
	json_decref(json);
	if (!good)
		return -EUCLEAN;
	*ret_job = job;
	return 0;
}

/* --- the list; under the lock --- */

static struct job **job_at(struct jobs *jobs, uint64_t ino, uint64_t link)
{
	struct job **at = &jobs->first;

	while (*at && ((*at)->ino != ino || (*at)->link != link))
		at = &(*at)->next;
	return at;
}

/* What the jobs leave: files of those domains are overwritten whenever they go. */
static void leaving_update(struct jobs *jobs)
{
	struct store *store = jobs->m->ds->store;
	bool more = false;

	for (const struct job *job = jobs->first; job; job = job->next) {
		store_leaving(store, job->from, job->n_from, more);
		more = true;
	}
	if (!more)
		store_leaving(store, NULL, 0, false);
}

static int job_add(struct jobs *jobs, const struct job *job)
{
	struct job **at = job_at(jobs, job->ino, job->link);

	/*
	 * A second rotation while the first still runs (it leaves more domains), or the way out
	 * before the thread has put away the way in.
	 */
	if (*at) {
		memcpy((*at)->from, job->from, sizeof(job->from));
		(*at)->n_from = job->n_from;
		(*at)->again = true;
		(*at)->retry_at_ns = 0;
		return 0;
	}
	*at = malloc(sizeof(*job));
	if (!*at)
		return -ENOMEM;
	memcpy(*at, job, sizeof(*job));
	(*at)->next = NULL;
	return 0;
}

int jobs_add(struct jobs *jobs, const struct job *job)
{
	pthread_mutex_lock(&jobs->lock);
	const int r = job_add(jobs, job);
	store_leaving(jobs->m->ds->store, job->from, job->n_from, true);
	pthread_cond_broadcast(&jobs->cond);
	pthread_mutex_unlock(&jobs->lock);
	return r;
}

int jobs_find(struct jobs *jobs, uint64_t ino, uint64_t link, struct job *ret_job)
{
	pthread_mutex_lock(&jobs->lock);
	const struct job *job = *job_at(jobs, ino, link);
	if (job)
		memcpy(ret_job, job, sizeof(*job));
	pthread_mutex_unlock(&jobs->lock);
	return job ? 0 : -ENOENT;
}

bool jobs_again(struct jobs *jobs, uint64_t ino, uint64_t link)
{
	pthread_mutex_lock(&jobs->lock);
	const struct job *job = *job_at(jobs, ino, link);
	const bool again = job && job->again;
	pthread_mutex_unlock(&jobs->lock);
	return again;
}

void jobs_kick(struct jobs *jobs)
{
	pthread_mutex_lock(&jobs->lock);
	for (struct job *job = jobs->first; job; job = job->next) {
		job->retry_at_ns = 0;
		job->error[0] = 0; /* who waits for it is to see how it goes now */
		job->kicked = true;
	}
	pthread_cond_broadcast(&jobs->cond);
	pthread_mutex_unlock(&jobs->lock);
}

bool jobs_leave_domain(struct jobs *jobs, const struct job *but, uint32_t domain)
{
	bool found = false;

	pthread_mutex_lock(&jobs->lock);
	for (const struct job *job = jobs->first; job; job = job->next)
		for (unsigned i = 0; i < job->n_from; i++)
			if (job->from[i] == domain &&
			        (job->ino != but->ino || job->link != but->link))
				found = true;
	pthread_mutex_unlock(&jobs->lock);
	return found;
}

static void job_remove(struct jobs *jobs, struct job *job)
{
	struct job **at = job_at(jobs, job->ino, job->link);

	*at = job->next;
	free(job);
	leaving_update(jobs);
}

/* --- the thread --- */

bool job_stopped(struct manager *m)
{
	return m->jobs->stopping;
}

/* The first that is due; else *ret_at_ns: when one will be, 0: there is none. */
static struct job *job_due(struct jobs *jobs, uint64_t *ret_at_ns)
{
	const uint64_t now_ns = clock_now_ns();

	*ret_at_ns = 0;
	for (struct job *job = jobs->first; job; job = job->next) {
		if (job->retry_at_ns <= now_ns)
			return job;
		if (*ret_at_ns == 0 || job->retry_at_ns < *ret_at_ns)
			*ret_at_ns = job->retry_at_ns;
	}
	return NULL;
}

bool job_is_void(struct manager *m, const struct job *job)
{
	struct ns_inode inode;
	const int r = ns_inode_get(m->ds->ns, job->ino, &inode);

	return r == -ENOENT || (!r && inode.nlink == 0);
}

/* Without the lock. */
static int job_run(struct jobs *jobs, struct job *job, struct errmsg *em)
{
	struct manager *m = jobs->m;
	int r = ops[job->what]->run(m, job, em);

	if (!r)
		r = change_finish(m, job->ino, job->link, em);
	if (r < 0)
		return r;
	struct job done;
	pthread_mutex_lock(&jobs->lock);
	memcpy(&done, job, sizeof(done));
	pthread_mutex_unlock(&jobs->lock);
	for (unsigned i = 0; i < done.n_from && !done.again; i++)
		if (!jobs_leave_domain(jobs, &done, done.from[i]))
			keys_domain_left(m, done.from[i]);
	return 0;
}

static void job_put_off(struct jobs *jobs, struct job *job, int r, const struct errmsg *em)
{
	const char *why = em->text[0] ? em->text : strerror(-r);

	if (strcmp(job->error, why)) {
		snprintf(job->error, sizeof(job->error), "%s", why);
		if (r == -ENOKEY) /* nothing is wrong */
			log_note("%s of inode %llu waits: %s", ops[job->what]->what,
			        (unsigned long long)job->ino, why);
		else
			log_error("%s of inode %llu for filter '%s' is put off: %s",
			        ops[job->what]->what, (unsigned long long)job->ino, job->type, why);
	}
	job->retry_at_ns = clock_now_ns() + JOB_RETRY_NS;
}

static void wait_until(struct jobs *jobs, uint64_t at_ns)
{
	struct timespec ts;

	if (at_ns == 0) {
		pthread_cond_wait(&jobs->cond, &jobs->lock);
		return;
	}
	ts.tv_sec = (time_t)(at_ns / NS_PER_SEC);
	ts.tv_nsec = (long)(at_ns % NS_PER_SEC);
	pthread_cond_timedwait(&jobs->cond, &jobs->lock, &ts);
}

static void *jobs_main(void *arg)
{
	struct jobs *jobs = arg;

	pthread_mutex_lock(&jobs->lock);
	while (!jobs->stopping) {
		struct errmsg em = {0};
		uint64_t at_ns;
		struct job *job = job_due(jobs, &at_ns);
		if (!job) {
			wait_until(jobs, at_ns);
			continue;
		}
		job->again = job->kicked = false;
		jobs->current = job;
		pthread_mutex_unlock(&jobs->lock);
		const int r = job_run(jobs, job, &em);
		pthread_mutex_lock(&jobs->lock);
		jobs->current = NULL;
		if (r == -EINTR || job->again || (r < 0 && job->kicked))
			; /* the end, or there is more to do now */
		else if (r < 0)
			job_put_off(jobs, job, r, &em);
		else
			job_remove(jobs, job);
		pthread_cond_broadcast(&jobs->cond);
	}
	pthread_mutex_unlock(&jobs->lock);
	return NULL;
}

/* --- life --- */

int jobs_new(struct manager *m, struct jobs **ret_jobs)
{
	struct jobs *jobs = calloc(1, sizeof(*jobs));
	pthread_condattr_t attr;

	if (!jobs)
		return -ENOMEM;
	jobs->m = m;
	pthread_mutex_init(&jobs->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&jobs->cond, &attr);
	pthread_condattr_destroy(&attr);
	*ret_jobs = jobs;
	return 0;
}

static int row_take(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct jobs *jobs = arg;
	struct job job = {.ino = owner, .link = id};

	if (job_decode(value, len, &job) < 0) {
		log_error("inode %llu: the record of the job for filter %llu is damaged",
		        (unsigned long long)owner, (unsigned long long)id);
		return 0; /* nothing that others need */
	}
	return jobs_add(jobs, &job);
}

static int row_leaving(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct job job = {.ino = owner, .link = id};

	if (job_decode(value, len, &job) == 0)
		store_leaving(arg, job.from, job.n_from, true);
	return 0;
}

void jobs_leaving(struct ns *ns, struct store *store)
{
	const int r = ns_record_each_owner(ns, RECORD_JOB, row_leaving, store);

	if (r < 0)
		log_error("cannot read the jobs: %s", strerror(-r));
}

int jobs_start(struct jobs *jobs, struct errmsg *em)
{
	int r = ns_record_each_owner(jobs->m->ds->ns, RECORD_JOB, row_take, jobs);

	if (r < 0)
		return errmsg_set(em, r, "cannot read the jobs: %s", strerror(-r));
	r = pthread_create(&jobs->thread, NULL, jobs_main, jobs);
	if (r)
		return errmsg_set(em, -r, "cannot start a thread: %s", strerror(r));
	jobs->running = true;
	return 0;
}

void jobs_stop(struct jobs *jobs)
{
	if (!jobs)
		return;
	pthread_mutex_lock(&jobs->lock);
	jobs->stopping = true;
	pthread_cond_broadcast(&jobs->cond);
	pthread_mutex_unlock(&jobs->lock);
	if (jobs->running)
		pthread_join(jobs->thread, NULL);
	jobs->running = false;
}

void jobs_free(struct jobs *jobs)
{
	struct job *job;

	if (!jobs)
		return;
	while ((job = jobs->first)) {
		jobs->first = job->next;
		free(job);
	}
	pthread_cond_destroy(&jobs->cond);
	pthread_mutex_destroy(&jobs->lock);
	free(jobs);
}

/* --- who waits, who looks --- */

int jobs_wait(struct jobs *jobs, uint64_t ino, uint64_t link, gc_progress_fn *fn, void *arg,
        struct errmsg *em)
{
	int r = 0;

	pthread_mutex_lock(&jobs->lock);
	for (;;) {
		const struct job *job = *job_at(jobs, ino, link);
		if (!job)
			break;
		if (jobs->stopping) {
			r = errmsg_set(em, -ESHUTDOWN,
			        "unmounted: the conversion goes on at the next mount");
			break;
		}
		if (job->error[0] && job != jobs->current) {
			r = errmsg_set(
			        em, -EIO, "%s (it is tried again, see 'weir status')", job->error);
			break;
		}
		const uint64_t done = job->done, total = job->total;
		wait_until(jobs, clock_now_ns() + WAIT_STEP_NS);
		pthread_mutex_unlock(&jobs->lock);
		if (fn)
			fn(arg, done, total);
		pthread_mutex_lock(&jobs->lock);
	}
	pthread_mutex_unlock(&jobs->lock);
	return r;
}

static json_t *job_json(struct jobs *jobs, const struct job *job)
{
	char path[FILTER_PATH_MAX];
	const double share = job->total ? (double)job->done / (double)job->total : 0.0;

	target_path(jobs->m->ds->ns, job->ino, path);
	return json_pack("{s:o, s:s, s:s, s:f, s:o}", "target", text_json(path), "type", job->type,
	        "what", ops[job->what]->what, "progress", MIN(share, 1.0), "error",
	        text_json(job->error));
}

/* Paths are looked up without the lock: from copies. */
json_t *jobs_json(struct jobs *jobs)
{
	json_t *list = json_array();
	struct job *copies = NULL;
	size_t n = 0, i = 0;

	pthread_mutex_lock(&jobs->lock);
	for (const struct job *job = jobs->first; job; job = job->next)
		n++;
	copies = calloc(n + 1, sizeof(*copies));
	for (const struct job *job = jobs->first; job && copies; job = job->next)
		memcpy(&copies[i++], job, sizeof(*job));
	pthread_mutex_unlock(&jobs->lock);
	if (!copies) {
		json_decref(list);
		return NULL;
	}
	for (i = 0; i < n && list; i++) {
		if (json_array_append_new(list, job_json(jobs, &copies[i])) < 0) {
			json_decref(list);
			list = NULL;
		}
	}
	free(copies);
	return list;
}
