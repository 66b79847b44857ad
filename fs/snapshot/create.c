/*
 * create.c - snapshots of an image, a directory, the datastore
 *
 *	step                              held
 *	guests are frozen, if asked for   nothing (what is in flight is committed before)
 *	what is in flight is committed    nothing
 *	what came since is committed      manager.lock, from here on
 *	images are listed
 *	open images are drained           their filter_image.lock
 *	the instant, with the rows        record_lock, the gate; guests go on and are thawed
 *	the commit                        record_lock
 *
 * What is in flight is committed first, so that the group with the instant is small.  An image of
 * which chunks are being moved to another crypto domain is refused: a snapshot would keep what is
 * in the old one, while the end of that work says that nothing is.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "fs/control/text.h"
#include "fs/filter/sealed-flag.h"
#include "fs/snapshot/private.h"
#include "fs/snapshot/quiesce.h"
#include "fs/snapshot/schedule.h"

#define STAMP_TRIES 200u /* names of one second */
#define LIST_TRIES  5u   /* of a directory in which files come and go */

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

/* What was received sealed is ciphertext, and as a snapshot would look like an image: it is none yet. */
static int drop_sealed(
        struct ns *ns, const struct target *t, struct image_set *set, struct errmsg *em)
{
	size_t n = 0;

	for (size_t i = 0; i < set->n; i++) {
		struct sealed_flag f = {0};
		const int r = sealed_flag_get(ns, set->inos[i], &f);
		sealed_flag_release(&f);
		if (r == -ENOMEM)
			return errmsg_set(em, r, "out of memory");
		if (r == -ENOENT)
			set->inos[n++] = set->inos[i];
	}
	if (n == 0 && set->n > 0)
		return errmsg_set(em, -ENOKEY,
		        "'%s' was received sealed: it becomes an image with snapshots once its key "
		        "is "
		        "unlocked (weir key unlock)",
		        *t->path ? t->path : "/");
	set->n = n;
	return 0;
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
	r = drop_sealed(ns, t, set, em);
	qsort(set->inos, set->n, sizeof(*set->inos), by_number);
	return r;
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

/* --- a name made of the time --- */

int snapshot_name_stamped(struct ns *ns, uint64_t scope, const char *prefix, uint64_t wall_ns,
        const uint64_t *inos, size_t n, char ret_name[SNAPSHOT_NAME_MAX + 1], struct errmsg *em)
{
	char stamp[SCHEDULE_STAMP_LEN];
	int r = -EEXIST;

	schedule_stamp(wall_ns, stamp);
	for (unsigned i = 1; i <= STAMP_TRIES && r == -EEXIST; i++) {
		const int room = (int)(SNAPSHOT_NAME_MAX - sizeof(stamp) - 5);
		*em = (struct errmsg){0};
		if (i == 1)
			snprintf(ret_name, SNAPSHOT_NAME_MAX + 1, "%.*s-%s", room, prefix, stamp);
		else
			snprintf(ret_name, SNAPSHOT_NAME_MAX + 1, "%.*s-%s.%03u", room, prefix,
			        stamp, i);
		r = snapshot_name_free(ns, scope, ret_name, inos, n, em);
	}
	return r;
}

/* --- doing it --- */

struct creating {
	struct capture c;
	struct instant *in;
	struct quiesce *quiesce; /* may be NULL */
};

/* Gate closed: what guests have written is below us, and they are still frozen, or it is nothing. */
static int create_rows(void *arg)
{
	struct creating *cr = arg;

	if (cr->quiesce && !quiesce_holds(cr->quiesce))
		return -ESTALE;
	const int r = capture_rows(&cr->c);
	if (r == 0) {
		instant_reached(cr->in);
		if (cr->quiesce)
			quiesce_thaw(cr->quiesce);
	}
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

static json_t *created_json(const struct creating *cr)
{
	const struct capture *c = &cr->c;

	return json_pack("{s:s, s:s, s:o, s:I, s:I, s:i}", "name", c->s.name, "kind",
	        snapshot_kind_name(c->s.kind), "target", text_json(c->target), "time_ns",
	        (json_int_t)c->s.time_ns, "images", (json_int_t)c->s.n_images, "quiesced",
	        cr->quiesce ? (int)quiesce_count(cr->quiesce) : 0);
}

/* The name that it is to have, and may. */
static int making_name(struct manager *m, const struct target *t, const struct snapshot_making *mk,
        const struct image_set *set, char ret_name[SNAPSHOT_NAME_MAX + 1], struct errmsg *em)
{
	if (!mk->name)
		return snapshot_name_stamped(m->ds->ns, t->ino, mk->prefix,
		        mk->wall_ns ? mk->wall_ns : clock_wall_ns(), set->inos, set->n, ret_name,
		        em);
	snprintf(ret_name, SNAPSHOT_NAME_MAX + 1, "%s", mk->name);
	return snapshot_name_free(m->ds->ns, t->ino, mk->name, set->inos, set->n, em);
}

static int make_of_set(struct manager *m, const struct filter_caller *who, const struct target *t,
        const struct snapshot_making *mk, const struct image_set *set, json_t **ret_json,
        struct errmsg *em)
{
	struct creating cr = {.quiesce = mk->quiesce};
	char name[SNAPSHOT_NAME_MAX + 1];
	int r = making_name(m, t, mk, set, name, em);

	if (r == 0)
		r = snapshot_domains_settled(m->ds->ns, set->inos, set->n, em);
	if (r == 0)
		r = capture_init(&cr.c, m, who, t, name, set->inos, set->n, em);
	if (r < 0)
		return r;
	cr.c.s.origin = mk->origin;
	cr.c.s.time_ns = mk->wall_ns;
	store_snapshot_near(m->ds->store);
	r = instant_run(m, set->inos, set->n, STAGE_EVENT_SNAPSHOT, create_work, &cr, em);
	if (r == -ESTALE && mk->quiesce)
		errmsg_set(em, r,
		        "a guest had to be thawed before the instant came: try again when less is "
		        "going on");
	if (r == 0 && ret_json)
		*ret_json = created_json(&cr);
	capture_release(&cr.c);
	return r;
}

/* What is removed while we look is not in it: then the list is made once more. */
static int make_locked(struct manager *m, const struct filter_caller *who, const struct target *t,
        const struct snapshot_making *mk, json_t **ret_json, struct errmsg *em)
{
	int r = -ENOENT;

	for (unsigned i = 0; i < LIST_TRIES && r == -ENOENT && !em->text[0]; i++) {
		struct image_set set = {0};
		r = store_sync(m->ds->store);
		if (r == 0)
			r = set_fill(m->ds->ns, t, &set, em);
		if (r == 0)
			r = make_of_set(m, who, t, mk, &set, ret_json, em);
		free(set.inos);
		if (!t->dir)
			break;
	}
	return r;
}

int snapshot_make(struct manager *m, const struct filter_caller *who, const struct target *t,
        const struct snapshot_making *mk, json_t **ret_json, struct errmsg *em)
{
	if (m->read_only)
		return errmsg_set(em, -EROFS, "cannot take a snapshot: mounted read-only");
	int r = store_sync(m->ds->store); /* the bulk of it, with nothing held */
	if (r == 0) {
		pthread_mutex_lock(&m->lock);
		r = make_locked(m, who, t, mk, ret_json, em);
		pthread_mutex_unlock(&m->lock);
	}
	return r < 0 ? snapshot_failed("snapshot", *t->path ? t->path : "the datastore", r, em) : 0;
}

/* --- with the guests frozen --- */

int snapshot_guests_freeze(struct manager *m, const struct target *t, const char *agent,
        bool lenient, const _Atomic bool *cancel, struct quiesce **ret_q, struct errmsg *em)
{
	struct agent_paths paths = {0};
	struct image_set set = {0};
	int r = agent ? agent_paths_add(&paths, agent) : set_fill(m->ds->ns, t, &set, em);

	for (size_t i = 0; i < set.n && r == 0; i++)
		r = agent_paths_add_image(m->ds->ns, set.inos[i], &paths);
	free(set.inos);
	if (r == 0 && paths.n == 0)
		r = errmsg_set(em, -ENOENT,
		        "it is not known how to reach the guest of '%s': set the socket of its "
		        "agent (weir snapshot agent), or name it with --agent",
		        *t->path ? t->path : "/");
	if (r == 0)
		r = store_sync(m->ds->store); /* so that there is little to do while they wait */
	if (r == 0)
		r = quiesce_begin((const char *const *)paths.items, paths.n, lenient,
		        &quiesce_limits_default, cancel, ret_q, em);
	agent_paths_release(&paths);
	return r;
}

/*
 * Something is wrong with the guest: taken is how the snapshot went (its text in em), thawed how the guest
 * did.  One that may still be frozen is an alert, whoever sees the answer.
 */
static int guest_failed(struct manager *m, const struct target *t, const char *name, int taken,
        int thawed, const struct errmsg *why, struct errmsg *em)
{
	const struct errmsg before = *em;

	if (thawed == -ETIMEDOUT)
		notices_say(m->notices, t->ino, "snapshot", STAGE_SEVERITY_ALERT, why->text);
	if (taken == 0)
		return errmsg_set(
		        em, thawed, "snapshot '%s' was taken, but %.400s", name, why->text);
	if (thawed == -ETIMEDOUT)
		errmsg_set(em, taken, "%.200s; and %.300s", before.text, why->text);
	return taken;
}

int snapshots_create(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, json_t **ret_json, struct errmsg *em)
{
	struct snapshot_making mk = {.name = rq->name};
	struct errmsg thaw_em = {0};
	struct target t;
	int r = snapshot_name_check(rq->name, em);

	if (r == 0)
		r = filter_target(m->ds->ns, rq->target, &t, em);
	if (r == 0 && (rq->quiesce || rq->agent))
		r = snapshot_guests_freeze(
		        m, &t, rq->agent, false, schedules_cancel(m->schedules), &mk.quiesce, em);
	if (r < 0)
		return r;
	r = snapshot_make(m, who, &t, &mk, ret_json, em);
	const int thawed = quiesce_end(mk.quiesce, &thaw_em);
	if (thawed == 0)
		return r;
	json_decref(*ret_json);
	*ret_json = NULL;
	return guest_failed(m, &t, rq->name, r, thawed, &thaw_em, em);
}
