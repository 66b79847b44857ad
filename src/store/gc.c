/*
 * gc.c - space comes back: concurrent mark and sweep
 *
 * No reference counts.  A collection
 *	1 turns the barrier on: from now on every entry put into a map, and every chunk shared in the
 *	  overlay, is marked as well (gc_mark_entry);
 *	2 commits a group, so that all references made before are in maps;
 *	3 walks the maps of all images and marks each entry: one bit a slot, for the segments that were sealed
 *	  at 1; what is appended later goes to others, which are exempt;
 *	4 from now on refuses new references to unmarked slots (gc_may_share: dedupe asks), and commits
 *	  a group again, so that references decided on before are in maps, and marked;
 *	5 what is still unmarked is dead, and stays so: segments without live slots are dropped, those with few
 *	  live ones (REWRITE_PERCENT) rewritten under the same id and slots, so no map changes.
 * An entry that a walk misses because it was moved was marked where it went.  One removed after it
 * was marked is garbage until the next collection.
 *
 * Roots are the rows of images and snapshots, and open snapshots that were deleted since.  A root that is
 * copied while the walk is under way (snapshot.c) is walked as well: its source may be gone before the
 * walk comes to it, and its new place be behind.  Nodes that a copied root reaches are not
 * changed or deleted but by the sweep.  Whatever content a pass was told of a node, it skips the node when it
 * meets it again, so a thousand snapshots cost what they differ by.
 *
 * Leaves of locked crypto domains, and records that wait for their keys, cannot be looked into.  All
 * segments of such a domain are taken as live; if one of those leaves or records says that it refers
 * to segments of other domains, so are all segments there are.  Nodes are swept all the same.
 *
 * Large stores are collected in several passes over ranges of segments, so that the marks stay
 * within PASS_SEGMENTS.  A damaged map node hides what is below it: then nothing is freed.
 *
 * Map nodes that no tree reaches (of deleted images) are found by the first pass and deleted, a
 * batch a transaction.
 */
#include <errno.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/nodeset.h"
#include "store/slotset.h"
#include "store/store-priv.h"

#define PASS_SEGMENTS   65536u
#define NODES_BYTES_MAX (64u << 20)
#define REWRITE_PERCENT 65u
/* Rewritten bytes between two commits: how much space a collection takes before it gives any. */
#define REWRITE_BATCH_BYTES (64ull << 20)
#define NODE_BATCH          4096u

/* The background collector looks this often; see due(). */
#define LOOK_NS         (5 * NS_PER_SEC)
#define DEAD_CHUNKS_MIN 4096u

struct gc_marks {
	struct slotset set;
	_Atomic bool sweeping; /* unmarked slots may not be shared any more */
	/*
	 * The collector's: of nodes below n_nodes, REACHED and SEEN (its content was told).  One that is not in
	 * it for want of room may be walked again, and is not deleted.
	 */
	struct nodeset nodes;
	uint64_t n_nodes;
	bool sweep_nodes; /* the first pass */
	pthread_mutex_t roots_lock;
	struct image_row *roots; /* roots_lock, owned: copied since the walk began, to be walked */
	size_t n_roots, roots_cap;
	bool roots_lost, roots_end; /* roots_lock: no memory for one; no more are needed */
	uint64_t linger_txg;        /* marks_lock; see end_marks(); 0: the pass is not over */
};

enum { REACHED, SEEN }; /* planes of gc_marks.nodes */

/* What cannot be looked into in this pass: segments of these domains are left alone. */
#define LOCKED_MAX 64u
struct locked {
	uint32_t domains[LOCKED_MAX];
	unsigned n;
	bool all; /* segments of any domain */
};

struct pass {
	struct locked locked;
	struct store *store;
	struct gc_marks *marks;
	bool full;
	gc_progress_fn *progress;
	void *progress_arg;
	uint64_t images_done, images_total;
	struct gc_report *report;
	bool damaged;
};

/* --- the barrier --- */

static void mark_at(struct gc_marks *m, long i, uint64_t loc)
{
	if (i >= 0 && loc_slot(loc) < SEGMENT_SLOTS)
		slotset_set(&m->set, i, loc_slot(loc));
}

static void mark(struct gc_marks *m, uint64_t entry)
{
	const uint64_t loc = entry_loc(entry);

	mark_at(m, slotset_find(&m->set, loc_segment(loc)), loc);
}

void gc_mark_entry(struct store *s, uint64_t entry)
{
	if (!atomic_load(&s->gc.running))
		return;
	pthread_rwlock_rdlock(&s->gc.marks_lock);
	if (s->gc.marks)
		mark(s->gc.marks, entry);
	pthread_rwlock_unlock(&s->gc.marks_lock);
}

bool gc_may_share(struct store *s, uint64_t loc)
{
	bool ok = true;

	if (!atomic_load(&s->gc.running))
		return true;
	pthread_rwlock_rdlock(&s->gc.marks_lock);
	const struct gc_marks *m = s->gc.marks;
	if (m && atomic_load(&m->sweeping)) {
		const long i = slotset_find(&m->set, loc_segment(loc));
		ok = i < 0 || slotset_test(&m->set, i, loc_slot(loc));
	}
	pthread_rwlock_unlock(&s->gc.marks_lock);
	return ok;
}

static void entry_added(void *arg, uint64_t entry)
{
	gc_mark_entry(arg, entry);
}

static void entry_dropped(void *arg, uint64_t entry)
{
	struct store *s = arg;

	(void)entry;
	atomic_fetch_add_explicit(&s->gc.dead_estimate, 1, memory_order_relaxed);
}

/* --- what is locked --- */

static bool locked_has(const struct locked *l, uint32_t domain)
{
	bool has = l->all;

	for (unsigned i = 0; i < l->n && !has; i++)
		has = l->domains[i] == domain;
	return has;
}

static void locked_add(void *arg, uint32_t domain, bool foreign)
{
	struct pass *p = arg;
	struct locked *l = &p->locked;

	l->all = l->all || foreign || (l->n == LOCKED_MAX && !locked_has(l, domain));
	if (!locked_has(l, domain))
		l->domains[l->n++] = domain;
}

static int locked_leaf(void *arg, uint64_t first_chunk, uint32_t domain, bool foreign)
{
	struct pass *p = arg;

	(void)first_chunk;
	locked_add(p, domain, foreign);
	return p->store->stopping ? -EINTR : 0;
}

/* --- mark --- */

static int mark_node(void *arg, uint64_t node, unsigned level)
{
	struct pass *p = arg;
	struct gc_marks *m = p->marks;

	(void)level;
	if (node >= m->n_nodes)
		return 0;
	nodeset_set(&m->nodes, REACHED, node);
	return nodeset_test(&m->nodes, SEEN, node);
}

static void seen_node(void *arg, uint64_t node)
{
	struct gc_marks *m = ((struct pass *)arg)->marks;

	if (node >= m->n_nodes)
		return;
	nodeset_set(&m->nodes, REACHED, node);
	nodeset_set(&m->nodes, SEEN, node);
}

static int mark_leaf(void *arg, uint64_t first_chunk, const uint64_t *entries)
{
	struct pass *p = arg;
	uint64_t segment = 0; /* neighbours mostly lie in one */
	long at = -1;

	(void)first_chunk;
	if (!entries) {
		p->damaged = true;
		return 0;
	}
	for (unsigned i = 0; i < LEAF_CHUNKS; i++) {
		const uint64_t loc = entry_loc(entries[i]);
		if (entry_state(entries[i]) != ENTRY_DATA)
			continue;
		if (loc_segment(loc) != segment) {
			segment = loc_segment(loc);
			at = slotset_find(&p->marks->set, segment);
		}
		mark_at(p->marks, at, loc);
	}
	return p->store->stopping ? -EINTR : 0;
}

static int mark_map(struct pass *p, struct map *map)
{
	static const struct map_walker walker = {mark_node, seen_node, mark_leaf, locked_leaf};
	const int r = map_walk_with(map, &walker, p);

	p->damaged = p->damaged || r == -EIO;
	return r == -EIO ? 0 : r;
}

static int mark_root(struct pass *p, uint64_t image)
{
	struct map *map;
	int r = map_open(p->store->maps, image, &map);

	if (r < 0)
		return r;
	r = mark_map(p, map);
	map_close(map);
	if (p->progress)
		p->progress(p->progress_arg, ++p->images_done, p->images_total);
	return r;
}

static int mark_image(void *arg, const struct image_row *row)
{
	return mark_root(arg, row->image);
}

/* One that was deleted since the list was read is marked if it is open, and else is garbage. */
static int mark_snapshot(void *arg, const struct snapshot_row *row)
{
	const int r = mark_root(arg, row->id | SNAPSHOT_BIT);

	return r == -ENOENT ? 0 : r;
}

static int mark_open_snapshot(void *arg, struct image *img)
{
	return image_is_snapshot(img) ? mark_map(arg, img->map) : 0;
}

/* The next root that was copied meanwhile; false: there is none, and from now on none is needed. */
static bool next_root(struct gc_marks *m, struct image_row *ret_root)
{
	pthread_mutex_lock(&m->roots_lock);
	const bool found = m->n_roots > 0;
	if (found)
		*ret_root = m->roots[--m->n_roots];
	m->roots_end = !found;
	pthread_mutex_unlock(&m->roots_lock);
	return found;
}

static int mark_copied(struct pass *p)
{
	struct image_row root;
	int r = 0;

	while (r == 0 && next_root(p->marks, &root)) {
		struct map *map;
		r = map_open_root(p->store->maps, &root, &map);
		if (r < 0)
			break;
		r = mark_map(p, map);
		map_close(map);
	}
	return r == 0 && p->marks->roots_lost ? -ENOMEM : r;
}

static int mark_all(struct pass *p)
{
	struct meta *m = p->store->cfg.meta;
	int r = m->ops->image_each(m, mark_image, p);

	if (r == 0)
		r = m->ops->snapshot_each(m, mark_snapshot, p);
	if (r == 0)
		r = images_each(p->store, mark_open_snapshot, p);
	return r == 0 ? mark_copied(p) : r;
}

static void root_add(struct gc_marks *m, const struct image_row *root)
{
	pthread_mutex_lock(&m->roots_lock);
	if (!m->roots_end && m->n_roots == m->roots_cap) {
		const size_t cap = MAX(m->roots_cap * 2, 16);
		struct image_row *roots = realloc(m->roots, cap * sizeof(*roots));
		if (roots) {
			m->roots = roots;
			m->roots_cap = cap;
		}
	}
	if (!m->roots_end && m->n_roots < m->roots_cap)
		m->roots[m->n_roots++] = *root;
	else if (!m->roots_end)
		m->roots_lost = true;
	pthread_mutex_unlock(&m->roots_lock);
}

void gc_root_copied(struct store *s, const struct image_row *root)
{
	if (!atomic_load(&s->gc.running))
		return;
	pthread_rwlock_rdlock(&s->gc.marks_lock);
	if (s->gc.marks)
		root_add(s->gc.marks, root);
	pthread_rwlock_unlock(&s->gc.marks_lock);
}

/* --- sweep --- */

static int commit(struct store *s)
{
	return txg_wait(s, atomic_load(&s->txg_open));
}

static int sweep_segment(
        struct pass *p, const struct segment_row *row, long i, uint64_t *batch_bytes)
{
	struct segments *ss = p->store->segments;
	const struct slotset *set = &p->marks->set;
	const bool locked = locked_has(&p->locked, row->domain);
	const unsigned live = locked ? row->slots : slotset_count(set, i);
	uint64_t written = 0;

	p->report->segments_locked += locked;
	p->report->live_chunks += live;
	p->report->dead_chunks += row->slots > live ? row->slots - live : 0;
	if (row->state == SEGMENT_OPEN || locked)
		return 0;
	if (live == 0) {
		p->report->segments_freed++;
		const int r = segments_drop(ss, row->id);
		return r == -EBUSY ? 0 : r;
	}
	/* live_chunks of the row: what the present generation holds. */
	const unsigned held = MIN(row->live_chunks, row->slots);
	/* Asked first: what is wholly alive is done with. */
	if (segments_wipe_wanted(ss, row->id, live) ||
	        (held > live && (p->full || live * 100 < held * REWRITE_PERCENT))) {
		const int r = segments_rewrite(ss, row->id, &set->bits[i], NULL, 0, &written);
		if (r == 0) {
			p->report->segments_rewritten++;
			p->report->rewritten_bytes += written;
			*batch_bytes += written;
		}
		/* Unreadable or busy: it keeps its space for now; check names what is damaged.  No space:
		 * there may be segments yet that need none to be freed. */
		return r == -EIO || r == -EUCLEAN || r == -EBUSY || r == -ENOSPC || r == -EDQUOT ||
		                       r == -ENOKEY
		               ? 0
		               : r;
	}
	return 0;
}

static int sweep(struct pass *p)
{
	struct store *s = p->store;
	const struct slotset *set = &p->marks->set;
	struct segment_row row;
	uint64_t batch_bytes = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < set->n && !s->stopping; i++) {
		if (segments_list(s->segments, set->ids[i] - 1, &row, 1) != 1 ||
		        row.id != set->ids[i])
			continue;
		r = sweep_segment(p, &row, (long)i, &batch_bytes);
		if (r == 0 && batch_bytes >= REWRITE_BATCH_BYTES) {
			batch_bytes = 0;
			r = commit(s);
		}
	}
	return r == 0 ? commit(s) : r;
}

struct node_sweep {
	struct pass *pass;
	uint64_t dead[NODE_BATCH];
	unsigned n;
};

static int collect_node(void *arg, uint64_t id)
{
	struct node_sweep *ns = arg;
	const struct nodeset *nodes = &ns->pass->marks->nodes;
	const uint64_t reached = nodeset_word(nodes, REACHED, id);

	/* None of the 64 around it: perhaps there was no room for them. */
	if (!(reached >> (id % 64) & 1) && (reached || !nodeset_full(nodes)))
		ns->dead[ns->n++] = id;
	return ns->n == NODE_BATCH;
}

/* Deletes a batch of nodes that nothing reaches, through the txg thread. */
static int sweep_nodes(struct pass *p)
{
	struct store *s = p->store;
	struct meta *m = s->cfg.meta;
	CLEANUP(free_ptr) struct node_sweep *ns = calloc(1, sizeof(*ns));
	uint64_t first = 1;
	int r = 1;

	if (!ns)
		return -ENOMEM;
	ns->pass = p;
	while (r == 1 && !s->stopping) {
		ns->n = 0;
		r = m->ops->node_each(m, first, p->marks->n_nodes - 1, collect_node, ns);
		if (r < 0 || ns->n == 0)
			break;
		first = ns->dead[ns->n - 1] + 1;
		pthread_mutex_lock(&s->gc.dead_lock);
		s->gc.dead_nodes = ns->dead;
		s->gc.n_dead_nodes = ns->n;
		pthread_mutex_unlock(&s->gc.dead_lock);
		const int done = commit(s);
		pthread_mutex_lock(&s->gc.dead_lock);
		s->gc.n_dead_nodes = 0;
		pthread_mutex_unlock(&s->gc.dead_lock);
		if (done < 0)
			return done;
		p->report->nodes_freed += ns->n;
	}
	return r < 0 ? r : 0;
}

int gc_txg_write(struct store *s)
{
	struct meta *m = s->cfg.meta;
	int r = 0;

	pthread_mutex_lock(&s->gc.dead_lock);
	for (unsigned i = 0; r == 0 && i < s->gc.n_dead_nodes; i++)
		r = m->ops->node_del(m, s->gc.dead_nodes[i]);
	pthread_mutex_unlock(&s->gc.dead_lock);
	return r;
}

/* --- passes --- */

static void set_marks(struct store *s, struct gc_marks *m)
{
	/* The gate: who shares a chunk in the overlay sees the barrier from here on. */
	pthread_rwlock_wrlock(&s->gate);
	pthread_rwlock_wrlock(&s->gc.marks_lock);
	s->gc.marks = m;
	atomic_store(&s->gc.running, m != NULL);
	pthread_rwlock_unlock(&s->gc.marks_lock);
	pthread_rwlock_unlock(&s->gate);
}

static int count_image(void *arg, const struct image_row *row)
{
	(void)row;
	(*(uint64_t *)arg)++;
	return 0;
}

static int count_snapshot(void *arg, const struct snapshot_row *row)
{
	(void)row;
	(*(uint64_t *)arg)++;
	return 0;
}

static int run_marked(struct pass *p)
{
	struct store *s = p->store;
	struct meta *m = s->cfg.meta;
	int r = commit(s);

	p->images_done = p->images_total = 0;
	p->locked = (struct locked){.n = 0};
	parked_shares(s, locked_add, p); /* those that are applied meanwhile count, too */
	if (r == 0)
		r = m->ops->image_each(m, count_image, &p->images_total);
	if (r == 0)
		r = m->ops->snapshot_each(m, count_snapshot, &p->images_total);
	if (r == 0)
		r = mark_all(p);
	if (r < 0 || s->stopping)
		return r < 0 ? r : -EINTR;
	if (p->damaged) {
		log_error("a damaged map hides what is in use: no space can be reclaimed until "
		          "'weir check' finds no damaged map");
		return -EIO;
	}
	atomic_store(&p->marks->sweeping, true);
	r = commit(s);
	if (r == 0)
		r = sweep(p);
	if (r == 0 && p->marks->sweep_nodes)
		r = sweep_nodes(p);
	return r;
}

static void marks_free(struct gc_marks *m)
{
	if (!m)
		return;
	slotset_free(&m->set);
	pthread_mutex_destroy(&m->roots_lock);
	free(m->roots);
	nodeset_release(&m->nodes);
	free(m);
}

/*
 * The pass is over.  If it failed after it had begun to sweep, new generations without the dead
 * slots may be waiting for a commit: until one succeeds, those slots must not be shared.  A commit
 * that is under way now may have put its segment rows before the last rewrite: only the next one
 * counts.
 */
static void end_marks(struct store *s, struct gc_marks *m, bool failed)
{
	if (failed && atomic_load(&m->sweeping)) {
		pthread_rwlock_wrlock(&s->gc.marks_lock);
		m->linger_txg = atomic_load(&s->txg_open);
		pthread_rwlock_unlock(&s->gc.marks_lock);
		return;
	}
	set_marks(s, NULL);
	marks_free(m);
}

void gc_txg_committed(struct store *s, uint64_t txg)
{
	/* The collector frees its marks beside us, unless they linger: then they are ours. */
	pthread_rwlock_rdlock(&s->gc.marks_lock);
	struct gc_marks *m = s->gc.marks;
	if (m && (m->linger_txg == 0 || txg < m->linger_txg))
		m = NULL;
	pthread_rwlock_unlock(&s->gc.marks_lock);
	if (!m)
		return;
	set_marks(s, NULL);
	marks_free(m);
}

static int run_pass(struct pass *p, uint64_t after, uint64_t until, bool first, uint64_t *ret_last)
{
	struct store *s = p->store;
	/* Ends what an earlier, failed pass has left. */
	int r = atomic_load(&s->gc.running) ? commit(s) : 0;

	if (r < 0)
		return r;
	struct gc_marks *m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	r = slotset_init(&m->set, s->segments, after, until, true, PASS_SEGMENTS, ret_last);
	if (r < 0) {
		free(m);
		return r;
	}
	pthread_mutex_init(&m->roots_lock, NULL);
	nodeset_init(&m->nodes, NODES_BYTES_MAX);
	p->marks = m;
	set_marks(s, m);
	m->n_nodes = maps_next_node(s->maps);
	m->sweep_nodes = first && m->n_nodes > 1;
	r = run_marked(p);
	end_marks(s, m, r < 0);
	return r;
}

/* --- running --- */

static uint64_t stored_bytes(struct store *s)
{
	struct segments_stats st;

	segments_stats_get(s->segments, &st);
	return st.file_bytes;
}

static int run_all(struct store *s, struct pass *p)
{
	const uint64_t until = segments_next(s->segments) - 1;
	uint64_t after = 0, last = 0;
	bool first = true;
	int r;

	if (p->full) {
		segments_seal_all(s->segments);
		r = commit(s);
		if (r < 0)
			return r;
	}
	r = gc_run_heals(s);
	while (r == 0 && (first || last < until)) {
		r = run_pass(p, after, until, first, &last);
		if (last == after)
			break; /* no segment is left in the range */
		after = last;
		first = false;
	}
	return r;
}

int store_gc(
        struct store *s, bool full, gc_progress_fn *fn, void *arg, struct gc_report *ret_report)
{
	struct gc_report report = {0};
	struct pass p = {
	        .store = s, .full = full, .progress = fn, .progress_arg = arg, .report = &report};

	if (s->cfg.read_only)
		return -EROFS;
	pthread_mutex_lock(&s->gc.run_lock);
	const uint64_t before = stored_bytes(s);
	const uint64_t dead = atomic_load(&s->gc.dead_estimate);
	const int r = run_all(s, &p);
	if (r == 0) {
		const uint64_t after = stored_bytes(s);
		report.freed_bytes = before > after ? before - after : 0;
		atomic_fetch_sub(&s->gc.dead_estimate, dead);
		*ret_report = report;
	}
	pthread_mutex_unlock(&s->gc.run_lock);
	return r;
}

/* --- in the background --- */

/*
 * A collection costs a walk over all maps, and rewriting.  It runs when a good part of what is
 * stored may be dead; or, with less of it, when nobody writes; and never takes more than about a
 * twentieth of the time, unless space is short or something is to be healed.
 */
static bool due(struct store *s, uint64_t quiet_ns, uint64_t since_ns, uint64_t took_ns)
{
	const uint64_t dead = atomic_load(&s->gc.dead_estimate);
	struct segments_stats st;

	if (atomic_exchange(&s->gc.kicked, false))
		return dead > 0 || s->gc.n_heals > 0;
	if (dead < DEAD_CHUNKS_MIN || since_ns < took_ns * 20)
		return false;
	segments_stats_get(s->segments, &st);
	return dead >= st.live_chunks / 2 || quiet_ns >= LOOK_NS;
}

static void *gc_main(void *arg)
{
	struct store *s = arg;
	struct gc_report report;
	uint64_t written = 0, quiet_since = clock_now_ns(), ended = quiet_since, took_ns = 0;
	bool failed = false; /* the last one: then no kick makes the next one come sooner */

	/* Foreground work first. */
	(void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 10);
	while (!s->stopping) {
		struct timespec ts;
		clock_gettime(CLOCK_MONOTONIC, &ts);
		ts.tv_sec += LOOK_NS / NS_PER_SEC;
		pthread_mutex_lock(&s->gc.wake_lock);
		int waited = 0;
		while (waited == 0 && !s->stopping && (failed || !atomic_load(&s->gc.kicked)))
			waited = pthread_cond_timedwait(&s->gc.wake, &s->gc.wake_lock, &ts);
		pthread_mutex_unlock(&s->gc.wake_lock);
		const uint64_t now = clock_now_ns();
		if (atomic_load(&s->count.written_bytes) != written)
			quiet_since = now;
		written = atomic_load(&s->count.written_bytes);
		if (s->stopping || !due(s, now - quiet_since, now - ended, took_ns))
			continue;
		const int r = store_gc(s, false, NULL, NULL, &report);
		ended = clock_now_ns();
		took_ns = ended - now;
		failed = r < 0;
		if (r == 0)
			log_note("space reclaimed: %llu bytes, %llu segments freed, %llu rewritten",
			        (unsigned long long)report.freed_bytes,
			        (unsigned long long)report.segments_freed,
			        (unsigned long long)report.segments_rewritten);
		else if (r != -EINTR)
			log_error("reclaiming space failed: error %d", -r);
	}
	return NULL;
}

void gc_kick(struct store *s)
{
	pthread_mutex_lock(&s->gc.wake_lock);
	atomic_store(&s->gc.kicked, true);
	pthread_cond_signal(&s->gc.wake);
	pthread_mutex_unlock(&s->gc.wake_lock);
}

int gc_init(struct store *s)
{
	struct gc_control *gc = &s->gc;
	pthread_condattr_t ca;

	pthread_mutex_init(&gc->run_lock, NULL);
	pthread_mutex_init(&gc->heal_lock, NULL);
	pthread_mutex_init(&gc->dead_lock, NULL);
	pthread_mutex_init(&gc->wake_lock, NULL);
	pthread_rwlock_init(&gc->marks_lock, NULL);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&gc->wake, &ca);
	pthread_condattr_destroy(&ca);
	gc->heals = calloc(GC_HEALS_MAX, sizeof(*gc->heals));
	maps_set_observer(s->maps, entry_added, entry_dropped, s);
	return gc->heals ? 0 : -ENOMEM;
}

void gc_free(struct store *s)
{
	for (unsigned i = 0; s->gc.heals && i < s->gc.n_heals; i++)
		free(s->gc.heals[i].data);
	free(s->gc.heals);
	marks_free(s->gc.marks);
}

int gc_start(struct store *s)
{
	const int r = pthread_create(&s->gc_thread, NULL, gc_main, s);

	s->has_gc_thread = r == 0;
	return -r;
}

void gc_stop(struct store *s)
{
	if (!s->has_gc_thread)
		return;
	gc_kick(s);
	pthread_join(s->gc_thread, NULL);
	s->has_gc_thread = false;
}
