/*
 * raw-open.c - the job that makes an image of what was received sealed, once its key is unlocked
 *
 *	step                                        a crash there
 *	each whole stream of the holder, in order:  the stream is received again; what the hidden image
 *	translated (raw-convert.c) and received     of that has, by its position, is kept
 *	(receive.h) as NAME.opening
 *	NAME.opening takes the holder's name        one or the other is there
 *	the holder goes, with all ciphertext        removed when the datastore is opened
 *
 * Which streams are done is seen from the snapshots of NAME.opening, by their guids; so nothing is noted
 * anywhere, and nothing can be noted wrongly.  The image is stored under the key that came with it:
 * plaintext is in this process alone, between the two ends of a pipe.
 *
 * Without the key the job is put off; unlocking one kicks it.  What is not authentic ends it with an error that
 * stays in the status, and the holder stays as it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/stream/raw-private.h"
#include "fs/stream/receive-private.h"

#define OPENING      ".opening"
#define NAME_TRIES   10u
#define NAME_WAIT_NS 2000000 /* below a second */

struct opening {
	struct manager *m;
	struct job *job;
	struct errmsg *em;
	struct holder h;
	char key[RAW_NAME_MAX + 1];
	const struct crypto_domain *crypto; /* of where it was sealed; referenced */
	uint64_t dir;
	char path[FILTER_PATH_MAX], name[NS_NAME_MAX + 1];  /* of the holder */
	char to[FILTER_PATH_MAX], to_name[NS_NAME_MAX + 1]; /* NAME.opening */
};

/* --- the key --- */

static int key_get(struct opening *op)
{
	struct manager *m = op->m;
	struct raw_key key;
	uint32_t domain;
	int r = holder_key(&op->h, 0, &key);

	if (r < 0)
		return errmsg_set(op->em, r, "what was received is damaged");
	r = keys_name_of(m, op->h.flag.domain, op->key);
	if (r < 0)
		return errmsg_set(op->em, -ENOKEY, "the key that it came with is gone");
	r = keys_domain_for(m, op->key, &domain, op->em);
	if (r < 0)
		return r;
	op->crypto = keyring_get_origin(m->ds->keyring, key.uuid, key.domain);
	return op->crypto ? 0
	                  : errmsg_set(op->em, -ENOKEY, "key '%s' is locked (weir key unlock)",
	                            op->key);
}

/* --- where --- */

/*
 * The path, as rows tell: in the middle of a rename they may tell of none.  -ENOENT: it has none any more.
 */
static int path_get(struct opening *op)
{
	const struct timespec pause = {.tv_nsec = NAME_WAIT_NS};
	int r = -ENOENT;

	for (unsigned i = 0; r == -ENOENT && i < NAME_TRIES; i++) {
		if (i > 0)
			nanosleep(&pause, NULL);
		if (job_is_void(op->m, op->job))
			return -ENOENT;
		r = ns_path_of(op->m->ds->ns, op->h.ino, op->path, sizeof(op->path));
	}
	return r == -ENOENT ? -EAGAIN : r;
}

static int place_get(struct opening *op)
{
	struct ns *ns = op->m->ds->ns;
	int r = path_get(op);

	if (r < 0)
		return r;
	char *slash = strrchr(op->path, '/');
	const size_t dir_len = slash ? (size_t)(slash - op->path) : 0;
	snprintf(op->name, sizeof(op->name), "%s", slash ? slash + 1 : op->path);
	snprintf(op->to_name, sizeof(op->to_name), "%.*s%s", (int)(NS_NAME_MAX - strlen(OPENING)),
	        op->name, OPENING);
	snprintf(op->to, sizeof(op->to), "%.*s%s%s", (int)dir_len, op->path, slash ? "/" : "",
	        op->to_name);
	op->dir = NS_ROOT_INO;
	if (!slash)
		return 0;
	*slash = 0;
	r = ns_lookup_path(ns, op->path, &op->dir);
	*slash = '/';
	return r;
}

/* Is the stream that begins with part i a snapshot of NAME.opening?  1, 0. */
static int is_done(const struct opening *op, size_t i)
{
	struct snapshot s;
	struct snapshot_image si;
	uint64_t ino;
	uint32_t mode;
	int r = ns_name_get(op->m->ds->ns, op->dir, op->to_name, &ino, &mode);

	if (r == 0)
		r = place_snapshot(op->m->ds, ino, op->h.flag.parts[i].guid, &s, &si);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	snapshot_release(&s);
	snapshot_image_release(&si);
	return 1;
}

/* --- one stream --- */

struct producing {
	struct raw_convert c;
	struct errmsg em;
	int result;
	int fd; /* of the pipe, owned */
};

static bool producing_stopped(void *arg)
{
	return job_stopped(arg);
}

static void *produce(void *arg)
{
	struct producing *pr = arg;
	sigset_t pipe_only;

	sigemptyset(&pipe_only); /* a reader that gave up is an error */
	sigaddset(&pipe_only, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_only, NULL);
	pr->result = raw_convert(&pr->c, &pr->em);
	close(pr->fd);
	return NULL;
}

/* What both said; who noticed it first is the one who translates. */
static int outcome(
        struct opening *op, const struct producing *pr, int received, const struct errmsg *why)
{
	const int made = pr->result;

	if (made == -EINTR || job_stopped(op->m))
		return -EINTR;
	if (made < 0 && made != -EPIPE)
		return errmsg_set(
		        op->em, made, "%s", pr->em.text[0] ? pr->em.text : strerror(-made));
	if (received < 0)
		return errmsg_set(op->em, received, "%s", why->text);
	return made;
}

static int stream_receive(struct opening *op, struct producing *pr, int fd)
{
	const struct receive_request rq = {.target = op->to,
	        .called = op->path,
	        .key = op->key,
	        .in_fd = fd,
	        .back_fd = -1,
	        .cut_fd = -1};
	struct manager *m = op->m;
	struct errmsg why = {0};
	json_t *json = NULL;
	pthread_t thread;
	int r = -pthread_create(&thread, NULL, produce, pr);

	if (r < 0) {
		close(pr->fd);
		close(fd);
		return r;
	}
	r = receive_run(m, NULL, &rq, manager_invalidate, m, NULL, NULL, &json, &why);
	close(fd);
	pthread_join(thread, NULL);
	json_decref(json);
	return outcome(op, pr, r, &why);
}

static int stream_open(struct opening *op, size_t first, size_t end)
{
	struct producing pr = {
	        .c = {.h = &op->h,
	                .first = first,
	                .end = end,
	                .crypto = op->crypto,
	                .stopped = producing_stopped,
	                .done = &op->job->done,
	                .total = &op->job->total,
	                .arg = op->m},
	};
	int fds[2];
	int r = pipe2(fds, O_CLOEXEC) < 0 ? -errno : 0;

	if (r < 0)
		return r;
	pr.fd = fds[1];
	r = record_writer_new(STREAM_FORWARD, fds[1], -1, &pr.c.out);
	if (r < 0) {
		close(fds[0]);
		close(fds[1]);
		return r;
	}
	r = stream_receive(op, &pr, fds[0]);
	record_writer_free(pr.c.out);
	return r;
}

static int streams_open(struct opening *op)
{
	size_t end = 0;
	int r = 0;

	for (size_t i = 0; r >= 0 && holder_stream(&op->h, i, &end); i = end) {
		r = is_done(op, i);
		if (r == 0)
			r = stream_open(op, i, end);
	}
	return r < 0 ? r : end ? 0 : errmsg_set(op->em, -ENODATA, "nothing of it is complete yet");
}

/* --- in its place --- */

/* The holder may have been renamed meanwhile, and another file may have the name that it had. */
static int take_name(struct opening *op)
{
	struct ns *ns = op->m->ds->ns;
	const uint64_t dir = op->dir;
	char to_name[NS_NAME_MAX + 1];
	uint64_t ino;
	uint32_t mode;
	int r = ns_name_get(ns, dir, op->to_name, &ino, &mode);

	memcpy(to_name, op->to_name, sizeof(to_name));
	for (unsigned i = 0; r == 0 && i < NAME_TRIES; i++) {
		r = place_get(op);
		if (r == 0)
			r = vfs_rename_over(
			        op->m->vfs, dir, to_name, ino, op->dir, op->name, op->h.ino);
		if (r != -ESTALE)
			break;
		r = i + 1 < NAME_TRIES ? 0 : r;
	}
	if (r == 0)
		manager_invalidate(op->m, dir, to_name);
	return r;
}

static int renamed(struct opening *op)
{
	struct manager *m = op->m;
	int r = store_sync(m->ds->store);

	if (r == 0)
		r = take_name(op);
	if (r == 0)
		r = vfs_fsyncdir(m->vfs);
	if (r < 0)
		return errmsg_set(op->em, r, "cannot put it in place: %s", strerror(-r));
	manager_invalidate(m, op->dir, op->name);
	log_note("'%s', which was received sealed, is open with key '%s'", op->path, op->key);
	return 0;
}

/* The holder is ours: what it has stays as it is. */
static int holder_unseal(struct opening *op)
{
	int r = holder_open(op->m->ds, op->job->ino, &op->h);

	op->h.ino = op->job->ino;
	if (r == 0)
		r = place_get(op);
	if (r == 0)
		r = streams_open(op);
	if (r == 0)
		r = renamed(op);
	holder_close(&op->h);
	return r;
}

/* Who only waits for the key is in nobody's way: a stream may come meanwhile. */
static int key_find(struct opening *op)
{
	int r = holder_open(op->m->ds, op->job->ino, &op->h);

	if (r == 0)
		r = key_get(op);
	holder_close(&op->h);
	return r;
}

static int unseal_run(struct manager *m, struct job *job, struct errmsg *em)
{
	struct opening op = {.m = m, .job = job, .em = em};
	int r = job_is_void(m, job) ? -ENOENT : key_find(&op);

	if (r == 0) {
		r = raw_claim(m, job->ino);
		if (r < 0)
			errmsg_set(em, r, "a stream is being received to it");
	}
	if (r == 0) {
		r = holder_unseal(&op);
		raw_unclaim(m, job->ino);
	}
	if (op.crypto)
		keyring_put(m->ds->keyring, op.crypto);
	if (r < 0 && r != -EINTR && job_is_void(m, job))
		return 0; /* deleted while it was opened */
	return r == -ENOENT && !em->text[0] ? 0 : r;
}

/* --- who unlocks a key --- */

struct opened_by {
	struct manager *m;
	const char *key;
	struct job *jobs; /* owned; ino and link of each */
	size_t n;
};

static int job_of_key(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct opened_by *ob = arg;
	struct job job = {.ino = owner, .link = id};
	struct sealed_flag flag;
	char name[RAW_NAME_MAX + 1];

	if (job_decode(value, len, &job) < 0 || job.what != JOB_UNSEAL || job_is_void(ob->m, &job))
		return 0;
	const int r = sealed_flag_get(ob->m->ds->ns, owner, &flag);
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	const bool ours = keys_name_of(ob->m, flag.domain, name) == 0 && !strcmp(name, ob->key);
	sealed_flag_release(&flag);
	if (!ours)
		return 0;
	struct job *jobs = reallocarray(ob->jobs, ob->n + 1, sizeof(*jobs));
	if (!jobs)
		return -ENOMEM;
	ob->jobs = jobs;
	memcpy(&jobs[ob->n++], &job, sizeof(job));
	return 0;
}

int raw_opening(struct manager *m, const char *key, bool wait, gc_progress_fn *progress, void *arg,
        unsigned *ret_n, struct errmsg *em)
{
	struct opened_by ob = {.m = m, .key = key};
	int r = ns_record_each_owner(m->ds->ns, RECORD_JOB, job_of_key, &ob);

	if (r < 0)
		errmsg_set(em, r, "cannot read the jobs: %s", strerror(-r));
	for (size_t i = 0; r == 0 && wait && i < ob.n; i++)
		r = jobs_wait(m->jobs, ob.jobs[i].ino, ob.jobs[i].link, progress, arg, em);
	free(ob.jobs);
	if (r == 0)
		*ret_n = (unsigned)ob.n;
	return r;
}

const struct job_ops job_unseal_ops = {.what = "unseal", .run = unseal_run};
