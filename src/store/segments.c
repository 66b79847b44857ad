/*
 * segments.c - the table of segments: rows in RAM, handles of those in use, opening and closing
 *
 * The rows are kept in an array sorted by id.  Ids are given out in order and never again, so a new
 * row goes to the end; rows that went are taken out in one pass a commit.  A lookup is a binary
 * search.
 *
 * What a segment in use needs besides its row is in its handle.  Idle handles are in two LRU lists,
 * one of those with an open file and one of those with a slot table, because files are scarce
 * (SEGMENT_FILES_MAX) where tables are cheap (cfg.table_bytes): a handle may lose its file and keep
 * its table.  A handle that loses both is freed.  A dead handle (its segment was dropped, or is
 * another generation now) is out of the rows and lives for its readers alone; the last one takes
 * the file along.  A crash before that leaves the file for segments_remove_orphans().
 *
 * Threads: all; see segments-priv.h for the lock.
 */
#include "store/segments.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "store/segment-scan.h"
#include "store/segments-priv.h"

_Static_assert(sizeof(struct seg) + sizeof(struct seg *) <= 64, "64 bytes a segment");

/* --- rows --- */

int segs_push(struct segs_vec *v, struct seg *s)
{
	if (v->n == v->cap) {
		const size_t cap = MAX(v->cap * 2, (size_t)64);
		struct seg **p = realloc(v->v, cap * sizeof(*p));
		if (!p)
			return -ENOMEM;
		v->v = p;
		v->cap = cap;
	}
	v->v[v->n++] = s;
	return 0;
}

/* Index of the first row with an id above `after`. */
static size_t rows_after(const struct segments *ss, uint64_t after)
{
	size_t lo = 0, hi = ss->rows.n;

	while (lo < hi) {
		const size_t mid = lo + (hi - lo) / 2;
		if (ss->rows.v[mid]->id <= after)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct seg *seg_find(struct segments *ss, uint64_t id)
{
	const size_t i = rows_after(ss, id);
	struct seg *s = i > 0 ? ss->rows.v[i - 1] : NULL;

	return s && s->id == id && !(s->flags & SEG_GONE) ? s : NULL;
}

static int seg_block_add(struct segments *ss)
{
	struct seg_block *b = malloc(sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->next = ss->seg_blocks;
	ss->seg_blocks = b;
	for (size_t i = 0; i < ARRAY_SIZE(b->segs); i++) {
		b->segs[i].handle = (struct handle *)ss->seg_free;
		ss->seg_free = &b->segs[i];
	}
	return 0;
}

struct seg *seg_add(struct segments *ss, uint64_t id)
{
	ASSERT(ss->rows.n == 0 || ss->rows.v[ss->rows.n - 1]->id < id);
	if (!ss->seg_free && seg_block_add(ss) < 0)
		return NULL;
	struct seg *s = ss->seg_free;
	if (segs_push(&ss->rows, s) < 0)
		return NULL;
	ss->seg_free = (struct seg *)s->handle;
	*s = (struct seg){.id = id, .copy_tier = SEG_NO_COPY};
	return s;
}

void segs_compact(struct segments *ss)
{
	size_t kept = 0;

	for (size_t i = 0; i < ss->rows.n; i++) {
		struct seg *s = ss->rows.v[i];
		if (!(s->flags & SEG_GONE)) {
			ss->rows.v[kept++] = s;
			continue;
		}
		s->handle = (struct handle *)ss->seg_free;
		ss->seg_free = s;
	}
	ss->rows.n = kept;
}

void seg_row(const struct seg *s, struct segment_row *ret_row)
{
	*ret_row = (struct segment_row){
	        .id = s->id,
	        .gen = s->gen,
	        .tier = s->tier,
	        .has_copy = s->copy_tier != SEG_NO_COPY,
	        .copy_tier = s->copy_tier != SEG_NO_COPY ? s->copy_tier : 0,
	        .copy_gen = s->copy_gen,
	        .domain = s->domain,
	        .state = s->flags & SEG_OPEN ? SEGMENT_OPEN : SEGMENT_SEALED,
	        .bytes = s->bytes,
	        .slots = s->slots,
	        .live_chunks = s->live_chunks,
	        .live_bytes = s->live_bytes,
	        .file_bytes = s->file_bytes,
	        .created_txg = s->created_txg,
	};
}

uint32_t seg_next_gen(const struct seg *s)
{
	return s->copy_tier == SEG_NO_COPY ? s->gen + 1 : MAX(s->gen, s->copy_gen) + 1;
}

void seg_totals(struct segments *ss, const struct seg *s, int sign)
{
	const uint64_t one = sign < 0 ? ~0ull : 1; /* wraps to minus one */

	ss->totals.segments += one;
	ss->totals.open += s->flags & SEG_OPEN ? one : 0;
	ss->totals.file_bytes += one * s->file_bytes;
	ss->totals.slots += one * s->slots;
	ss->totals.live_chunks += one * s->live_chunks;
	ss->totals.live_bytes += one * s->live_bytes;
}

int seg_dirty(struct segments *ss, struct seg *s)
{
	if (s->flags & SEG_DIRTY)
		return 0;
	const int r = segs_push(&ss->dirty, s);
	if (r == 0)
		s->flags |= SEG_DIRTY;
	return r;
}

/* --- handles --- */

void table_account(struct segments *ss, const struct handle *h, int sign)
{
	const uint64_t slots = h->w && !h->w->done ? SEGMENT_SLOTS : h->slots;
	const uint64_t bytes = slots * sizeof(struct footer_slot);

	ss->table_bytes += sign < 0 ? -bytes : bytes;
}

void handle_drop_table(struct segments *ss, struct handle *h)
{
	if (h->table)
		table_account(ss, h, -1);
	free(h->table);
	h->table = NULL;
	list_del(&h->by_table);
}

static void handle_unlist(struct segments *ss, struct handle *h)
{
	if (!list_empty(&h->by_file))
		ss->idle_files--;
	list_del(&h->by_file);
	list_del(&h->by_table);
}

struct handle *handle_get(struct segments *ss, struct seg *s)
{
	struct handle *h = s->handle;

	if (!h) {
		h = calloc(1, sizeof(*h));
		if (!h)
			return NULL;
		h->seg = s;
		h->id = s->id;
		h->domain = s->domain;
		h->tier = s->tier;
		h->gen = s->gen;
		h->bytes = s->bytes;
		h->slots = s->slots;
		h->sealed = !(s->flags & SEG_OPEN);
		list_init(&h->by_file);
		list_init(&h->by_table);
		s->handle = h;
	}
	handle_unlist(ss, h);
	h->refs++;
	return h;
}

void unlink_quietly(struct segments *ss, uint32_t tier, uint64_t id, uint32_t gen)
{
	char name[SEGMENT_NAME_LEN];

	segment_name(tier, id, gen, name);
	const int r = ss->read_only ? 0 : io_unlink(ss->io, name);
	/* Of a tier that is away it is an orphan, for when that comes back. */
	if (r < 0 && r != -ENOENT && r != -ENXIO)
		log_warn("cannot remove segment file '%s': %s", name, strerror(-r));
}

void seg_file_remove(struct segments *ss, const struct seg *s, uint32_t tier, uint32_t gen)
{
	const uint64_t id = s->id;
	const bool wipe = wipe_files_of(ss, s->domain);

	pthread_mutex_unlock(&ss->lock);
	if (wipe)
		segment_file_wipe(ss, tier, id, gen);
	else
		unlink_quietly(ss, tier, id, gen);
	pthread_mutex_lock(&ss->lock);
}

/* The file of a dead handle is gone. */
static void dying_remove(struct segments *ss, const struct handle *h)
{
	struct handle **at = &ss->dying;

	while (*at != h)
		at = &(*at)->next_dying;
	*at = h->next_dying;
	if (!ss->dying)
		pthread_cond_broadcast(&ss->changed);
}

static void handle_bury(struct segments *ss, struct handle *h)
{
	const bool unlink = h->unlink, wipe = unlink && wipe_files_of(ss, h->domain);

	handle_drop_table(ss, h);
	pthread_mutex_unlock(&ss->lock);
	io_close(h->file);
	if (wipe)
		segment_file_wipe(ss, h->tier, h->id, h->gen);
	else if (unlink)
		unlink_quietly(ss, h->tier, h->id, h->gen);
	pthread_mutex_lock(&ss->lock);
	if (unlink)
		dying_remove(ss, h);
	free(h);
}

static void handle_free_if_empty(struct handle *h)
{
	if (h->refs > 0 || h->file || h->table || h->w || h->pend || h->rewriting)
		return;
	h->seg->handle = NULL;
	free(h);
}

static void lru_trim(struct segments *ss)
{
	while (ss->idle_files > SEGMENT_FILES_MAX) {
		struct handle *h = CONTAINER_OF(ss->lru_files.prev, struct handle, by_file);
		io_close(STEAL(h->file));
		list_del(&h->by_file);
		ss->idle_files--;
		handle_free_if_empty(h);
	}
	while (ss->table_bytes > ss->table_bytes_max && !list_empty(&ss->lru_tables)) {
		struct handle *h = CONTAINER_OF(ss->lru_tables.prev, struct handle, by_table);
		handle_drop_table(ss, h);
		handle_free_if_empty(h);
	}
}

void handle_settle(struct segments *ss, struct handle *h)
{
	if (h->refs > 0)
		return;
	if (!h->seg) {
		handle_bury(ss, h);
		return;
	}
	if (h->w && !h->w->done)
		return; /* its table is being filled */
	handle_unlist(ss, h);
	if (h->file) {
		list_add(&ss->lru_files, &h->by_file);
		ss->idle_files++;
	}
	if (h->table)
		list_add(&ss->lru_tables, &h->by_table);
	handle_free_if_empty(h);
	lru_trim(ss);
}

void handle_put(struct segments *ss, struct handle *h)
{
	ASSERT(h->refs > 0);
	h->refs--;
	handle_settle(ss, h);
}

void handle_kill(struct segments *ss, struct handle *h, bool unlink)
{
	ASSERT(h->seg && !h->w);
	handle_unlist(ss, h);
	free(STEAL(h->pend));
	h->seg->handle = NULL;
	h->seg = NULL;
	h->unlink = unlink;
	if (unlink) {
		h->next_dying = ss->dying;
		ss->dying = h;
	}
	handle_settle(ss, h);
}

/* --- opening --- */

static bool row_is_valid(const struct segment_row *r)
{
	if (r->id == 0 || r->id > SEGMENT_ID_MAX || r->tier >= IO_MUX_MEDIA)
		return false;
	if (r->has_copy && (r->copy_tier >= IO_MUX_MEDIA || r->state != SEGMENT_SEALED ||
	                           r->copy_gen == r->gen))
		return false;
	if (r->state != SEGMENT_OPEN && r->state != SEGMENT_SEALED)
		return false;
	if (r->bytes < SEGMENT_HEADER_LEN || r->bytes > SEGMENT_FRAMES_END_MAX ||
	        r->bytes % IO_ALIGN != 0)
		return false;
	return r->slots <= SEGMENT_SLOTS && r->live_chunks <= r->slots;
}

struct open_ctx {
	struct segments *ss;
	struct errmsg *em;
};

static int row_load(void *arg, const struct segment_row *row)
{
	struct open_ctx *ctx = arg;
	struct segments *ss = ctx->ss;

	if (!row_is_valid(row) || (ss->rows.n > 0 && ss->rows.v[ss->rows.n - 1]->id >= row->id))
		return errmsg_set(ctx->em, -EUCLEAN,
		        "the row of segment %llu is damaged (weir check --repair)",
		        (unsigned long long)row->id);
	struct seg *s = seg_add(ss, row->id);
	if (!s)
		return errmsg_set(ctx->em, -ENOMEM, "out of memory");
	s->gen = row->gen;
	s->tier = (uint8_t)row->tier;
	s->copy_tier = row->has_copy ? (uint8_t)row->copy_tier : SEG_NO_COPY;
	s->copy_gen = row->has_copy ? row->copy_gen : 0;
	s->domain = row->domain;
	s->flags = row->state == SEGMENT_OPEN ? SEG_OPEN : 0;
	s->bytes = row->bytes;
	s->slots = (uint16_t)row->slots;
	s->live_chunks = (uint16_t)row->live_chunks;
	s->live_bytes = row->live_bytes;
	s->file_bytes = row->file_bytes;
	s->created_txg = row->created_txg;
	seg_totals(ss, s, 1);
	return 0;
}

unsigned slots_mark_lost(struct footer_slot *table, unsigned slots)
{
	unsigned lost = 0;

	for (unsigned i = 0; i < slots; i++) {
		if (table[i].flags & SLOT_PRESENT)
			continue;
		table[i].flags = SLOT_PRESENT;
		lost++;
	}
	return lost;
}

static bool header_is_ours(
        const struct segments *ss, const struct segment_contents *c, const struct seg *s)
{
	return c->header_good && c->header.gen == s->gen && c->header.domain == s->domain &&
	       memcmp(c->header.uuid, ss->uuid, sizeof(ss->uuid)) == 0;
}

/*
 * Scans an open segment up to its committed length and makes a writer that continues it; or, when
 * something is damaged, one that only seals it: the damaged slots are in the footer, and reads of
 * them are -EIO.
 */
static int open_segment_resume(struct segments *ss, struct seg *s, struct segment_contents *c)
{
	char name[SEGMENT_NAME_LEN];
	struct writer *w = NULL;

	segment_name(s->tier, s->id, s->gen, name);
	int r = segment_scan(ss->io, name, s->id, ss->store, s->bytes, NULL, NULL, c);
	if (r < 0) {
		log_error("cannot read open segment file '%s': %s", name, strerror(-r));
		return r == -ENOMEM ? r : 0; /* reads of it will fail, the others need not */
	}
	const unsigned lost = slots_mark_lost(c->table, s->slots);
	const bool damaged = lost > 0 || c->damaged > 0 || c->strange_bytes > 0 ||
	                     c->slots > s->slots || !header_is_ours(ss, c, s);
	if (damaged)
		log_error("open segment file '%s' is damaged: %u frames, %u slots lost", name,
		        c->damaged, lost);
	pthread_mutex_lock(&ss->lock);
	r = writer_create(ss, s, &w);
	if (r == 0) {
		memcpy(w->h->table, c->table, s->slots * sizeof(c->table[0]));
		memcpy(w->hashes, c->hashes, s->slots * sizeof(c->hashes[0]));
		w->closed = damaged || ss->n_opens == SEGMENT_OPENS_MAX ||
		            writer_open_find(ss, s->domain);
		if (!w->closed)
			writer_open(ss, w);
	}
	pthread_mutex_unlock(&ss->lock);
	return r;
}

static int open_segments_resume(struct segments *ss)
{
	CLEANUP(free_ptr) struct segment_contents *c = malloc(sizeof(*c));
	int r = c ? 0 : -ENOMEM;

	/* The last of a domain goes on, so that appends only ever go to its highest id (sealed.h). */
	for (size_t i = ss->rows.n; r == 0 && i-- > 0;)
		if (ss->rows.v[i]->flags & SEG_OPEN)
			r = open_segment_resume(ss, ss->rows.v[i], c);
	return r;
}

static int dir_note(void *arg, const char *name, bool is_dir)
{
	struct seg_dirs *d = arg;
	unsigned hh = 0;
	char again[4];

	if (!is_dir || strlen(name) != 2 || sscanf(name, "%2x", &hh) != 1)
		return 0;
	snprintf(again, sizeof(again), "%02x", hh);
	if (strcmp(again, name) == 0)
		d->known[hh] = true;
	return 0;
}

static int dirs_load(struct segments *ss)
{
	int r = io_list(ss->io, "segments", dir_note, &ss->dirs[0]);

	if (r != -ENOENT)
		return r;
	if (ss->read_only)
		return 0;
	r = io_mkdir(ss->io, "segments");
	return r < 0 ? r : io_sync_dir(ss->io, "");
}

static void segments_closep(struct segments **ss)
{
	segments_close(*ss);
}

int segments_open(const struct segments_config *cfg, struct segments **ret_segs, struct errmsg *em)
{
	CLEANUP(segments_closep) struct segments *ss = calloc(1, sizeof(*ss));

	if (!ss)
		return errmsg_set(em, -ENOMEM, "out of memory");
	ss->io = cfg->io;
	ss->meta = cfg->meta;
	ss->keyring = cfg->keyring;
	memcpy(ss->uuid, cfg->uuid, sizeof(ss->uuid));
	ss->store = frame_store(cfg->uuid);
	ss->read_only = cfg->read_only;
	ss->table_bytes_max = cfg->table_bytes;
	/* A process killed before us may have made directories and not synced their names. */
	ss->dirs[0].top_dirty = !cfg->read_only;
	pthread_mutex_init(&ss->lock, NULL);
	pthread_cond_init(&ss->changed, NULL);
	list_init(&ss->writers);
	list_init(&ss->opens);
	list_init(&ss->lru_files);
	list_init(&ss->lru_tables);
	scratch_pool_init(&ss->small, SCRATCH_SMALL, SCRATCHES_SMALL);
	scratch_pool_init(&ss->large, READ_SPAN_MAX, SCRATCHES_LARGE);
	if (em)
		em->text[0] = '\0'; /* tells below whether a row's message is in it */
	struct open_ctx ctx = {ss, em};
	int r = ss->meta->ops->segment_each(ss->meta, row_load, &ctx);
	if (r == 0)
		r = dirs_load(ss);
	if (r == 0 && !ss->read_only)
		r = open_segments_resume(ss);
	if (r < 0)
		return em && em->text[0]
		               ? r
		               : errmsg_set(em, r, "cannot open the segments: %s", strerror(-r));
	const uint64_t last = ss->rows.n > 0 ? ss->rows.v[ss->rows.n - 1]->id : 0;
	ss->next_segment = MAX(cfg->next_segment, last + 1);
	*ret_segs = STEAL(ss);
	return 0;
}

static void rows_free(struct segments *ss)
{
	for (size_t i = 0; i < ss->rows.n; i++) {
		struct handle *h = ss->rows.v[i]->handle;
		if (!h)
			continue;
		ASSERT(h->refs == 0);
		handle_kill(ss, h, false);
	}
	while (ss->seg_blocks) {
		struct seg_block *b = ss->seg_blocks;
		ss->seg_blocks = b->next;
		free(b);
	}
	free(ss->rows.v);
	free(ss->dirty.v);
	free(ss->staged.v);
}

void segments_close(struct segments *ss)
{
	if (!ss)
		return;
	pthread_mutex_lock(&ss->lock);
	while (!list_empty(&ss->writers))
		writer_free(ss, CONTAINER_OF(ss->writers.next, struct writer, in_writers));
	rows_free(ss);
	for (unsigned i = 0; i < SEGMENT_BUFFERS_MAX; i++)
		free(ss->bufs[i].data);
	pthread_mutex_unlock(&ss->lock);
	scratch_pool_release(&ss->small);
	scratch_pool_release(&ss->large);
	pthread_mutex_destroy(&ss->lock);
	pthread_cond_destroy(&ss->changed);
	free(ss);
}

/* --- questions --- */

uint64_t segments_next(struct segments *ss)
{
	pthread_mutex_lock(&ss->lock);
	const uint64_t next = ss->next_segment;
	pthread_mutex_unlock(&ss->lock);
	return next;
}

bool segments_exists(struct segments *ss, uint64_t segment)
{
	pthread_mutex_lock(&ss->lock);
	const struct seg *s = seg_find(ss, segment);
	const bool exists = s && !(s->flags & SEG_DROP);
	pthread_mutex_unlock(&ss->lock);
	return exists;
}

int segments_domain(struct segments *ss, uint64_t segment, uint32_t *ret_domain)
{
	pthread_mutex_lock(&ss->lock);
	const struct seg *s = seg_find(ss, segment);
	const int r = s && !(s->flags & SEG_DROP) ? 0 : -ESTALE;
	if (r == 0)
		*ret_domain = s->domain;
	pthread_mutex_unlock(&ss->lock);
	return r;
}

int segments_of_domain(struct segments *ss, uint32_t domain, uint64_t **ret_ids, size_t *ret_n)
{
	size_t n = 0;

	pthread_mutex_lock(&ss->lock);
	uint64_t *ids = malloc(MAX(ss->rows.n, (size_t)1) * sizeof(*ids));
	for (size_t i = 0; ids && i < ss->rows.n; i++)
		if (ss->rows.v[i]->domain == domain)
			ids[n++] = ss->rows.v[i]->id;
	pthread_mutex_unlock(&ss->lock);
	if (!ids)
		return -ENOMEM;
	*ret_ids = ids;
	*ret_n = n;
	return 0;
}

unsigned segments_list(
        struct segments *ss, uint64_t after, struct segment_row *ret_rows, unsigned cap)
{
	unsigned n = 0;

	pthread_mutex_lock(&ss->lock);
	for (size_t i = rows_after(ss, after); i < ss->rows.n && n < cap; i++)
		if (!(ss->rows.v[i]->flags & (SEG_NEW | SEG_DROP | SEG_GONE)))
			seg_row(ss->rows.v[i], &ret_rows[n++]);
	pthread_mutex_unlock(&ss->lock);
	return n;
}

void segments_stats_get(struct segments *ss, struct segments_stats *ret_stats)
{
	pthread_mutex_lock(&ss->lock);
	*ret_stats = ss->totals;
	ret_stats->table_bytes = ss->table_bytes;
	ret_stats->copies_read = ss->copies_read;
	ret_stats->rows_bytes = ss->rows.cap * sizeof(struct seg *);
	for (const struct seg_block *b = ss->seg_blocks; b; b = b->next)
		ret_stats->rows_bytes += sizeof(*b);
	pthread_mutex_unlock(&ss->lock);
}

void segments_tier_stats_get(
        struct segments *ss, uint32_t tier, struct segments_tier_stats *ret_stats)
{
	struct segments_tier_stats st = {0};

	pthread_mutex_lock(&ss->lock);
	for (size_t i = 0; i < ss->rows.n; i++) {
		const struct seg *s = ss->rows.v[i];
		if (s->flags & (SEG_NEW | SEG_GONE))
			continue;
		if (s->tier == tier) {
			st.segments++;
			st.file_bytes += s->file_bytes;
			st.live_bytes += s->live_bytes;
		}
		if (s->copy_tier == tier) {
			st.copies++;
			st.copy_bytes += s->file_bytes;
		}
	}
	pthread_mutex_unlock(&ss->lock);
	*ret_stats = st;
}

int segments_set_live(
        struct segments *ss, uint64_t segment, uint32_t live_chunks, uint32_t live_bytes)
{
	int r = -ESTALE;

	pthread_mutex_lock(&ss->lock);
	struct seg *s = seg_find(ss, segment);
	if (s && !(s->flags & (SEG_NEW | SEG_DROP)))
		r = seg_dirty(ss, s);
	if (r == 0) {
		seg_totals(ss, s, -1);
		s->live_chunks = (uint16_t)MIN(live_chunks, s->slots);
		s->live_bytes = live_bytes;
		seg_totals(ss, s, 1);
	}
	pthread_mutex_unlock(&ss->lock);
	return r;
}

/* --- orphans --- */

struct orphan {
	uint64_t id;
	uint32_t gen;
	bool gone; /* has the name under which it is overwritten */
};

struct orphan_list {
	struct orphan *v;
	size_t n, cap;
};

static int orphan_note(void *arg, const char *name, bool is_dir)
{
	struct orphan_list *l = arg;
	struct orphan o = {.gone = !is_dir && segment_name_gone_parse(name, &o.id, &o.gen) == 0};

	if (is_dir || (!o.gone && segment_name_parse(name, &o.id, &o.gen) < 0))
		return 0; /* not ours to remove */
	if (l->n == l->cap) {
		const size_t cap = MAX(l->cap * 2, (size_t)256);
		struct orphan *v = realloc(l->v, cap * sizeof(*v));
		if (!v)
			return -ENOMEM;
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n++] = o;
	return 0;
}

static bool orphan_is_wanted(struct segments *ss, uint32_t tier, const struct orphan *o)
{
	const struct seg *s = seg_find(ss, o->id);

	/* Readers in flight may have it open: it is for the last of them to overwrite and unlink. */
	for (const struct handle *h = ss->dying; h; h = h->next_dying)
		if (h->id == o->id && h->gen == o->gen)
			return true;
	if (!s)
		return false;
	if ((o->gen == s->gen && tier == s->tier) ||
	        (o->gen == s->copy_gen && tier == s->copy_tier))
		return true;
	return o->gen == seg_next_gen(s) && s->handle && (s->handle->rewriting || s->handle->pend);
}

/*
 * The question and the unlink, or the renaming, are one step under the lock: a new file of this
 * very name can only come up for an id or a generation that was entered in the rows, under the
 * lock, before.
 */
static int orphan_remove(struct segments *ss, uint32_t tier, const struct orphan *o, unsigned *n)
{
	char name[SEGMENT_NAME_LEN], gone[SEGMENT_NAME_LEN];
	bool wipe = o->gone, mine = o->gone;
	int r = 0;

	segment_name(tier, o->id, o->gen, name);
	segment_name_gone(tier, o->id, o->gen, gone);
	pthread_mutex_lock(&ss->lock);
	if (!o->gone && !orphan_is_wanted(ss, tier, o)) {
		wipe = wipe_orphans(ss);
		r = wipe ? io_rename(ss->io, name, gone) : io_unlink(ss->io, name);
		mine = r == 0;
	}
	pthread_mutex_unlock(&ss->lock);
	if (mine && wipe)
		r = orphan_wipe(ss, gone);
	*n += mine && r == 0;
	return r == -ENOENT ? 0 : r;
}

int segments_remove_orphans(struct segments *ss, uint32_t tier, unsigned *ret_n)
{
	struct orphan_list l = {0};
	unsigned n = 0;
	int r = ss->read_only ? -EROFS : 0;

	for (unsigned hh = 0; r == 0 && hh < 256; hh++) {
		char dir[SEGMENT_NAME_LEN];
		segment_dir_name(tier, hh, dir);
		l.n = 0;
		r = io_list(ss->io, dir, orphan_note, &l);
		r = r == -ENOENT ? 0 : r;
		for (size_t i = 0; r == 0 && i < l.n; i++)
			if ((l.v[i].id & 0xff) == hh)
				r = orphan_remove(ss, tier, &l.v[i], &n);
	}
	free(l.v);
	if (r < 0)
		return r;
	*ret_n = n;
	return 0;
}
