/*
 * create.c - snapshots of an image, a directory, the datastore
 *
 * What is in flight is committed first, so that the group with the instant is small.  An image of
 * which chunks are being moved to another crypto domain is refused: a snapshot would keep what is
 * in the old one, while the end of that work says that nothing is.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/control/text.h"
#include "fs/snapshot/private.h"

int snapshot_failed(const char *what, const char *target, int r, struct errmsg *em)
{
	if (em->text[0])
		return r;
	if (r == -EINPROGRESS)
		return errmsg_set(em, r,
		        "cannot commit %s '%s' yet: it is done once commits work again (weir "
		        "status "
		        "says why they do not)",
		        what, target);
	if (r == -ENOKEY)
		return errmsg_set(em, r,
		        "cannot %s '%s': changes of it wait for a key (weir key unlock)", what,
		        target);
	return errmsg_set(em, r, "cannot %s '%s': %s", what, target, strerror(-r));
}

/* --- which images --- */

struct image_set {
	uint64_t *inos; /* owned, sorted */
	size_t n, cap;
};

static int set_add(struct image_set *set, uint64_t ino)
{
	if (set->n == set->cap) {
		const size_t cap = set->cap ? 2 * set->cap : 64;
		uint64_t *inos = realloc(set->inos, cap * sizeof(*inos));
		if (!inos)
			return -ENOMEM;
		set->inos = inos;
		set->cap = cap;
	}
	set->inos[set->n++] = ino;
	return 0;
}

static int set_note(void *arg, const struct ns_inode *inode)
{
	return inode->nlink > 0 ? set_add(arg, inode->ino) : 0;
}

static int set_walk(struct ns *ns, uint64_t dir, struct image_set *set)
{
	struct target_list l;
	int r = target_walk(ns, dir, &l);

	if (r < 0)
		return r;
	for (size_t i = 0; i < l.n && r == 0; i++)
		if (!l.dirs[i])
			r = set_add(set, l.inos[i]);
	target_list_release(&l);
	return r;
}

static int by_number(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int set_fill(struct ns *ns, const struct target *t, struct image_set *set, struct errmsg *em)
{
	int r;

	if (t->ino == NS_ROOT_INO)
		r = ns_inode_each(ns, NS_REGULAR, set_note, set);
	else if (t->dir)
		r = set_walk(ns, t->ino, set);
	else
		r = set_add(set, t->ino);
	if (r < 0)
		return errmsg_set(em, r, "cannot list the images: %s", strerror(-r));
	if (set->n == 0)
		return errmsg_set(
		        em, -ENOENT, "there is no image in '%s'", *t->path ? t->path : "/");
	qsort(set->inos, set->n, sizeof(*set->inos), by_number);
	return 0;
}

/* --- may it be --- */

struct taken {
	struct ns *ns;
	uint64_t scope;
	const char *name;
	const uint64_t *inos;
	size_t n;
	struct errmsg *em;
};

static int taken_image(void *arg, const struct snapshot_image *si)
{
	struct taken *tk = arg;
	char path[FILTER_PATH_MAX];

	if (!bsearch(&si->inode.ino, tk->inos, tk->n, sizeof(*tk->inos), by_number))
		return 0;
	target_path(tk->ns, si->inode.ino, path);
	return errmsg_set(tk->em, -EEXIST, "'%s' has a snapshot '%s' already", path, tk->name);
}

static int taken_match(void *arg, const struct snapshot *s)
{
	struct taken *tk = arg;

	if (strcmp(s->name, tk->name))
		return 0;
	if (s->scope == tk->scope)
		return errmsg_set(tk->em, -EEXIST, "there is a snapshot '%s' of %s%s%s already",
		        tk->name, *s->target ? "'" : "", *s->target ? s->target : "the datastore",
		        *s->target ? "'" : "");
	return snapshot_images_each(tk->ns, s->number, taken_image, tk);
}

int snapshot_name_free(struct ns *ns, uint64_t scope, const char *name, const uint64_t *inos,
        size_t n, struct errmsg *em)
{
	struct taken tk = {ns, scope, name, inos, n, em};
	const int r = snapshots_each(ns, taken_match, &tk);

	return r < 0 && !em->text[0] ? snapshot_read_failed(r, em) : r;
}

static int job_moves(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct job job = {0};

	return job_decode(value, len, &job) == 0 && job.what == JOB_RESEAL;
}

int snapshot_domains_settled(struct ns *ns, const uint64_t *inos, size_t n, struct errmsg *em)
{
	char path[FILTER_PATH_MAX];
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		r = ns_record_each(ns, RECORD_JOB, inos[i], 0, job_moves, NULL);
		if (r == 1) {
			target_path(ns, inos[i], path);
			return errmsg_set(em, -EBUSY,
			        "'%s' is being encrypted, decrypted or moved to a new key: a "
			        "snapshot would keep what it leaves (weir status shows how far "
			        "it is)",
			        path);
		}
	}
	return r < 0 ? errmsg_set(em, r, "cannot read the jobs: %s", strerror(-r)) : 0;
}

/* --- doing it --- */

struct creating {
	struct capture c;
	struct instant *in;
};

/* Gate closed. */
static int create_rows(void *arg)
{
	struct creating *cr = arg;
	const int r = capture_rows(&cr->c);

	if (r == 0)
		instant_reached(cr->in);
	return r;
}

/* record_lock is held over the wait for the freeze: whoever holds it enters the gate after. */
static int create_work(void *arg, struct instant *in, struct errmsg *em)
{
	struct creating *cr = arg;
	struct manager *m = cr->c.m;

	cr->in = in;
	pthread_mutex_lock(&m->record_lock);
	const int r =
	        store_snapshot_create(m->ds->store, cr->c.refs, cr->c.s.n_images, create_rows, cr);
	pthread_mutex_unlock(&m->record_lock);
	return r;
}

static json_t *created_json(const struct capture *c)
{
	return json_pack("{s:s, s:s, s:o, s:I, s:I}", "name", c->s.name, "kind",
	        snapshot_kind_name(c->s.kind), "target", text_json(c->target), "time_ns",
	        (json_int_t)c->s.time_ns, "images", (json_int_t)c->s.n_images);
}

int snapshot_take(struct manager *m, const struct filter_caller *who, const struct target *t,
        const char *name, const uint64_t *inos, size_t n, const char *action, json_t **ret_json,
        struct errmsg *em)
{
	struct creating cr = {0};
	int r = m->read_only ? -EROFS : snapshot_name_free(m->ds->ns, t->ino, name, inos, n, em);

	if (r == 0)
		r = snapshot_domains_settled(m->ds->ns, inos, n, em);
	if (r == 0)
		r = capture_init(&cr.c, m, who, t, name, inos, n, em);
	if (r < 0)
		return r;
	cr.c.action = action;
	r = store_sync(m->ds->store);
	if (r == 0)
		store_snapshot_near(m->ds->store);
	if (r == 0)
		r = instant_run(m, inos, n, STAGE_EVENT_SNAPSHOT, create_work, &cr, em);
	if (r == 0 && ret_json)
		*ret_json = created_json(&cr.c);
	capture_release(&cr.c);
	return r < 0 ? snapshot_failed("snapshot", *t->path ? t->path : "the datastore", r, em) : 0;
}

int snapshots_create(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, json_t **ret_json, struct errmsg *em)
{
	struct image_set set = {0};
	struct target t;
	int r = snapshot_name_check(rq->name, em);

	if (r == 0)
		r = filter_target(m->ds->ns, rq->target, &t, em);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	r = set_fill(m->ds->ns, &t, &set, em);
	if (r == 0)
		r = snapshot_take(
		        m, who, &t, rq->name, set.inos, set.n, "snapshot create", ret_json, em);
	pthread_mutex_unlock(&m->lock);
	free(set.inos);
	return r;
}
