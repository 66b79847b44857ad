/*
 * flush.c - fsync: an image's changes into the intent log, one sync for all who wait
 *
 * Callers queue; the first becomes leader and writes one batch for everyone queued; of those who
 * came meanwhile, one leads the next (group commit).  A batch is captured with the gate closed:
 * it is the state of those images at one instant, and it is replayed whole or not at all, so after
 * a crash each image is a prefix of its acknowledged writes.  What is captured is copied there and
 * then; a flush too large for that (FLUSH_LOG_BYTES_MAX) commits the transaction group instead,
 * which writes the data once, compressed, to segments.
 *
 * Content of an image in a crypto domain is sealed: its records are gathered in plain, and each time
 * enough of them are there, or it was the last, they go into the batch as one sealed record.  Punches
 * are gathered with them, for the order and since they tell what is used.  Deletions and rows stay
 * in the clear.
 *
 * Capturing clears the "unlogged" marks.  If the batch then does not reach the disk, the marks no
 * longer tell the truth: the log stays disabled (flushes commit groups) until the group that was
 * open at that time is committed, which makes all of it durable the other way.
 */
#include <errno.h>
#include <string.h>

#include "base/blocking.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "store/ilog-format.h"
#include "store/store-priv.h"

#define REPLACE_NS NS_PER_SEC

/* The log asks for a commit when it is this full. */
static bool log_filling(struct store *s)
{
	uint64_t bytes, used_bytes;

	ilog_space(s->log, &bytes, &used_bytes);
	return used_bytes > bytes / 2;
}

/* --- capture: gate closed, image.lock held (so the frozen group is not released under us) --- */

struct capture {
	struct store *store;
	struct image *image;
	uint64_t txg;
	struct ov_leaf *leaf;
	unsigned at;                        /* chunk in the leaf */
	const struct crypto_domain *crypto; /* NULL: not sealed */
	size_t plain_len;                   /* gathered in flush.plain */
	uint32_t flags;                     /* of them, ILOG_SEALED_* */
};

/* Puts what was gathered into the batch. */
static int seal_gathered(struct capture *c)
{
	const struct ilog_seal how = {
	        .domain = c->crypto, .txg = c->txg, .image = c->image->id, .flags = c->flags};

	if (c->plain_len == 0)
		return 0;
	const int r =
	        ilog_batch_add_sealed(c->store->log, &how, c->store->flush.plain, c->plain_len);
	if (r < 0)
		return r;
	explicit_bzero(c->store->flush.plain, c->plain_len);
	c->plain_len = 0;
	c->flags = 0;
	return 0;
}

/* Room for a record, in the batch or to be sealed; *ret_data: for its data, if it has any. */
static int reserve(struct capture *c, const struct ilog_record *rec, void **ret_data)
{
	const size_t size = ilog_record_size(rec);

	if (!c->crypto && !ilog_record_has_data(rec->type))
		return ilog_batch_add(c->store->log, rec);
	if (!c->crypto)
		return ilog_batch_reserve(c->store->log, rec, ret_data);
	ASSERT(size <= ILOG_SEALED_PLAIN_MAX);
	if (c->plain_len + size > ILOG_SEALED_PLAIN_MAX) {
		const int r = seal_gathered(c);
		if (r < 0)
			return r;
	}
	*ret_data = ilog_record_encode(rec, c->store->flush.plain + c->plain_len);
	c->plain_len += size;
	return 0;
}

static int add_range(struct capture *c, enum ilog_type type, uint64_t off, uint64_t len)
{
	const struct ilog_record rec = {.type = type,
	        .txg = c->txg,
	        .image = c->image ? c->image->id : 0,
	        .off = off,
	        .len = len};
	void *none;
	return reserve(c, &rec, &none);
}

static uint64_t capture_off(const struct capture *c)
{
	return c->leaf->index * LEAF_BYTES + (uint64_t)c->at * CHUNK_SIZE;
}

static bool unlogged(const struct ov_leaf *l, unsigned i)
{
	return l->unlogged[i / 64] >> (i % 64) & 1;
}

static bool slot_whole_buf(uint64_t slot)
{
	return slot_is_buf(slot) && !slot_buf(slot)->valid;
}

/* Neighbours that go into one record. */
static bool same_kind(uint64_t a, uint64_t b)
{
	return (slot_whole_buf(a) && slot_whole_buf(b)) || (slot_is_ref(a) && slot_is_ref(b)) ||
	       (a == b && (a == SLOT_HOLE || a == ENTRY_ZERO));
}

static unsigned run_length(const struct ov_leaf *l, unsigned at)
{
	unsigned n = 1;

	while (at + n < LEAF_CHUNKS && unlogged(l, at + n) &&
	        same_kind(l->slots[at], l->slots[at + n]))
		n++;
	return n;
}

static int add_data(struct capture *c, unsigned n)
{
	const struct ilog_record rec = {.type = ILOG_DATA,
	        .txg = c->txg,
	        .image = c->image->id,
	        .off = capture_off(c),
	        .len = (uint64_t)n * CHUNK_SIZE};
	void *to;
	const int r = reserve(c, &rec, &to);

	for (unsigned i = 0; r == 0 && i < n; i++)
		memcpy((uint8_t *)to + (size_t)i * CHUNK_SIZE,
		        slot_buf(c->leaf->slots[c->at + i])->data, CHUNK_SIZE);
	return r;
}

/* What the collector must know of a sealed record. */
static void share_flags(struct capture *c, uint64_t entry)
{
	if (!c->crypto)
		return;
	c->flags |= ILOG_SEALED_SHARES;
	if (domain_of_segment(c->store, loc_segment(entry_loc(entry))) != c->crypto->id)
		c->flags |= ILOG_SEALED_FOREIGN;
}

static int add_share(struct capture *c, const uint64_t *entries, unsigned n)
{
	const struct ilog_record rec = {.type = ILOG_SHARE,
	        .txg = c->txg,
	        .image = c->image->id,
	        .off = capture_off(c),
	        .len = (uint64_t)n * 8};
	void *to;
	const int r = reserve(c, &rec, &to);

	for (unsigned i = 0; r == 0 && i < n; i++) {
		put_u64((uint8_t *)to + (size_t)i * 8, entries[i]);
		share_flags(c, entries[i]);
	}
	return r;
}

static int add_bytes(void *arg, unsigned off, unsigned len)
{
	struct capture *c = arg;
	const struct ilog_record rec = {.type = ILOG_DATA,
	        .txg = c->txg,
	        .image = c->image->id,
	        .off = capture_off(c) + off,
	        .len = len};
	void *to;
	const int r = reserve(c, &rec, &to);

	if (r == 0)
		memcpy(to, slot_buf(c->leaf->slots[c->at])->data + off, len);
	return r;
}

static int add_partial(struct capture *c, const struct buf *b)
{
	int r = 0;

	if (slot_is_ref(b->base))
		r = add_share(c, &b->base, 1);
	return r < 0 ? r : buf_runs(b, add_bytes, c);
}

static int add_run(struct capture *c, unsigned n)
{
	const uint64_t slot = c->leaf->slots[c->at];

	if (slot == SLOT_ABSENT)
		return 0; /* dropped by a punch, which has a record of its own */
	if (slot == SLOT_HOLE || slot == ENTRY_ZERO)
		return add_range(c, slot == SLOT_HOLE ? ILOG_PUNCH : ILOG_ZERO, capture_off(c),
		        (uint64_t)n * CHUNK_SIZE);
	if (slot_is_ref(slot))
		return add_share(c, &c->leaf->slots[c->at], n);
	if (slot_buf(slot)->valid)
		return add_partial(c, slot_buf(slot));
	return add_data(c, n);
}

static int add_leaf(struct capture *c, struct ov_leaf *l)
{
	c->leaf = l;
	for (unsigned i = 0; i < LEAF_CHUNKS;) {
		if (!unlogged(l, i)) {
			i++;
			continue;
		}
		const unsigned n = run_length(l, i);
		c->at = i;
		const int r = add_run(c, n);
		if (r < 0)
			return r;
		i += n;
	}
	memset(l->unlogged, 0, sizeof(l->unlogged));
	return 0;
}

static int add_punches(struct capture *c, struct image_group *ig)
{
	for (size_t i = 0; i < ig->punches.n; i++) {
		struct punch *p = &ig->punches.v[i];
		if (p->logged)
			continue;
		const int r = add_range(c, p->zero ? ILOG_ZERO : ILOG_PUNCH, p->first * LEAF_BYTES,
		        (p->last - p->first) * LEAF_BYTES);
		if (r < 0)
			return r;
		p->logged = true;
	}
	return 0;
}

/* image.lock held. */
static int add_delete(struct store *s, struct image *img, uint64_t txg)
{
	struct image_group *ig = &img->groups[txg & 1];
	struct capture c = {.store = s, .image = img, .txg = txg};

	if (!ig->deleted || ig->deleted_logged)
		return 0;
	const int r = add_range(&c, ILOG_DELETE, 0, 0);
	ig->deleted_logged = r == 0;
	return r;
}

/* image.lock held. */
static int add_content(struct capture *c, struct image_group *ig)
{
	int r = add_punches(c, ig);

	while (r == 0 && ig->unlogged) {
		struct ov_leaf *l = ig->unlogged;
		r = add_leaf(c, l);
		if (r == 0) {
			ig->unlogged = l->unlogged_next;
			l->on_unlogged = false;
		}
	}
	return r < 0 ? r : seal_gathered(c);
}

/* The key that an image's records are to be sealed with, or NULL. */
static int capture_key(struct store *s, struct image *img, const struct crypto_domain **ret_crypto)
{
	const uint32_t domain = image_policy(img).domain;

	if (domain == 0)
		return 0;
	if (!s->flush.plain)
		s->flush.plain = malloc(ILOG_SEALED_PLAIN_MAX);
	if (!s->flush.plain)
		return -ENOMEM;
	*ret_crypto = keyring_get(s->keyring, domain);
	return *ret_crypto ? 0 : -ENOKEY;
}

static int add_image(struct store *s, struct image *img, uint64_t txg)
{
	struct image_group *ig = &img->groups[txg & 1];
	struct capture c = {.store = s, .image = img, .txg = txg};

	pthread_mutex_lock(&img->lock);
	int r = add_delete(s, img, txg);
	if (r == 0 && (ig->unlogged || ig->punches.n)) {
		r = capture_key(s, img, &c.crypto);
		if (r == 0)
			r = add_content(&c, ig);
		keyring_put(s->keyring, c.crypto);
	}
	if (r == 0)
		atomic_store_explicit(&ig->unlogged_bytes, 0, memory_order_relaxed);
	pthread_mutex_unlock(&img->lock);
	return r;
}

static int add_rows(struct store *s, uint64_t txg)
{
	struct group *grp = &s->groups[txg & 1];
	int r = 0;

	pthread_mutex_lock(&s->rows_lock);
	const size_t end = MIN(grp->rows.len, grp->rows_commit_only);
	if (end > grp->rows_logged) {
		const struct ilog_record rec = {.type = ILOG_ROWS,
		        .txg = txg,
		        .len = end - grp->rows_logged,
		        .data = grp->rows.data + grp->rows_logged};
		r = ilog_batch_add(s->log, &rec);
		if (r == 0)
			grp->rows_logged = end;
	}
	pthread_mutex_unlock(&s->rows_lock);
	return r;
}

/*
 * All images deleted, whoever flushes: the rows that are logged say that their inodes are gone, so
 * after a crash nobody else would know of them.
 */
static int add_deletes(struct store *s, uint64_t txg)
{
	struct group *grp = &s->groups[txg & 1];
	int r = 0;

	if (atomic_load(&grp->n_deleted) == 0)
		return 0;
	pthread_mutex_lock(&s->images_lock);
	for (struct image *img = grp->dirty; r == 0 && img; img = img->groups[txg & 1].dirty_next) {
		pthread_mutex_lock(&img->lock);
		r = add_delete(s, img, txg);
		pthread_mutex_unlock(&img->lock);
	}
	pthread_mutex_unlock(&s->images_lock);
	return r;
}

static int add_group(struct store *s, const struct flush_waiter *list, uint64_t txg)
{
	int r = add_rows(s, txg);

	if (r == 0)
		r = add_deletes(s, txg);
	for (const struct flush_waiter *w = list; r == 0 && w; w = w->next)
		if (w->image)
			r = add_image(s, w->image, txg);
	return r;
}

static uint64_t estimate_bytes(const struct flush_waiter *list)
{
	uint64_t bytes = 0;

	for (const struct flush_waiter *w = list; w; w = w->next)
		for (unsigned g = 0; w->image && g < 2; g++)
			bytes += atomic_load_explicit(
			        &w->image->groups[g].unlogged_bytes, memory_order_relaxed);
	return bytes;
}

/*
 * Content of an image that is locked is that of records on their way from the metadata store to a
 * group (parked.c): in the log, behind a crash, they would come after those still there.
 */
static bool locked_waits(const struct flush_waiter *list)
{
	bool locked = false;

	for (const struct flush_waiter *w = list; w && !locked; w = w->next)
		locked = w->image && image_locked(w->image);
	return locked;
}

/* 0: the batch holds it all.  -EFBIG: nothing was captured.  Others: captured in part. */
static int capture(struct store *s, const struct flush_waiter *list)
{
	const struct store_hooks *h = &s->cfg.hooks;
	unsigned g;
	int r = 0;

	pthread_rwlock_wrlock(&s->gate);
	if (estimate_bytes(list) > FLUSH_LOG_BYTES_MAX || locked_waits(list)) {
		/*
		 * No rows either: the next flush would log them, without the content that they tell
		 * of.
		 */
		pthread_rwlock_unlock(&s->gate);
		return -EFBIG;
	}
	for (const struct flush_waiter *w = list; h->collect_rows && w; w = w->next)
		if (w->image)
			h->collect_rows(h->arg, w->image->id);
	const uint64_t open = atomic_load(&s->txg_open);
	ilog_batch_begin(s->log);
	if (txg_frozen(s, &g))
		r = add_group(s, list, open - 1);
	if (r == 0)
		r = add_group(s, list, open);
	pthread_rwlock_unlock(&s->gate);
	return r;
}

/* --- group commit --- */

static void disable_log(struct store *s)
{
	pthread_mutex_lock(&s->flush.lock);
	s->flush.disabled_until = MAX(s->flush.disabled_until, atomic_load(&s->txg_open));
	pthread_mutex_unlock(&s->flush.lock);
}

static bool log_disabled(struct store *s)
{
	pthread_mutex_lock(&s->flush.lock);
	const bool disabled = s->flush.disabled_until != 0 || s->flush.wiping;
	pthread_mutex_unlock(&s->flush.lock);
	return disabled;
}

static int flush_batch(struct store *s, const struct flush_waiter *list)
{
	if (log_disabled(s))
		return txg_wait(s, atomic_load(&s->txg_open));
	int r = capture(s, list);
	if (r == -EFBIG)
		return txg_wait(s, atomic_load(&s->txg_open));
	if (r == 0 && ilog_batch_bytes(s->log) > 0)
		r = ilog_commit(s->log);
	if (r < 0) {
		disable_log(s);
		if (r != -ENOSPC) {
			health_set(s, HEALTH_LOG,
			        "the intent log cannot be written (%s); flushes commit whole "
			        "groups until it is replaced",
			        strerror(-r));
		}
		return txg_wait(s, atomic_load(&s->txg_open));
	}
	if (log_filling(s))
		txg_kick(s);
	return 0;
}

/*
 * One batch, the leader's own among them.  Whoever came meanwhile has a leader of their own: with
 * flushes coming all the time this one would never return.
 */
static void lead(struct store *s)
{
	struct flush_control *f = &s->flush;

	struct flush_waiter *list = STEAL(f->queue);

	f->leading = true;
	pthread_mutex_unlock(&f->lock);
	const int r = flush_batch(s, list);
	pthread_mutex_lock(&f->lock);
	f->leading = false;
	while (list) {
		struct flush_waiter *next = list->next; /* list is gone once it is done */
		list->result = r;
		list->done = true;
		list = next;
	}
	pthread_cond_broadcast(&f->cond);
}

static void flush_wait(struct flush_control *f)
{
	blocking_begin();
	pthread_cond_wait(&f->cond, &f->lock);
	blocking_end();
}

int store_flush(struct store *s, struct image *img)
{
	struct flush_control *f = &s->flush;
	struct flush_waiter w = {.image = img};

	if (s->cfg.read_only)
		return 0;
	atomic_fetch_add_explicit(&s->count.flushes, 1, memory_order_relaxed);
	pthread_mutex_lock(&f->lock);
	w.next = f->queue;
	f->queue = &w;
	while (!w.done) {
		if (f->leading)
			flush_wait(f);
		else
			lead(s);
	}
	pthread_mutex_unlock(&f->lock);
	return w.result;
}

int flush_wipe(struct store *s)
{
	struct flush_control *f = &s->flush;

	pthread_mutex_lock(&f->lock);
	const bool busy = f->wiping;
	f->wiping = true; /* from now on nobody writes to the log */
	while (!busy && f->leading)
		flush_wait(f);
	pthread_mutex_unlock(&f->lock);
	if (busy)
		return -EBUSY;
	int r = store_sync(s); /* nothing in it matters any more */
	if (r == 0 && ilog_poisoned(s->log))
		r = -EIO; /* it is about to be replaced */
	if (r == 0) {
		ilog_batch_begin(s->log);
		r = ilog_wipe(s->log);
	}
	pthread_mutex_lock(&f->lock);
	f->wiping = false;
	pthread_mutex_unlock(&f->lock);
	return r;
}

/*
 * Not more often than every REPLACE_NS: a new log is written in full before it turns out that it
 * cannot be had.
 */
static bool log_replace(struct store *s)
{
	struct flush_control *f = &s->flush;
	const uint64_t now = clock_now_ns();

	if (f->replace_tried_ns && now - f->replace_tried_ns < REPLACE_NS)
		return false;
	f->replace_tried_ns = now;
	const int r = ilog_reset(s->log, s->state.log_epoch + 1);
	if (r < 0)
		return false;
	s->state.log_epoch++;
	log_note("the intent log was replaced");
	return true;
}

/*
 * The group that was open when the log failed is committed: everything captured in vain is durable.
 * A poisoned log is replaced first; it may be used once a transaction holds its epoch.
 */
void flush_txg_committed(struct store *s, uint64_t txg)
{
	struct flush_control *f = &s->flush;

	pthread_mutex_lock(&f->lock);
	const bool due = f->disabled_until && txg >= f->disabled_until;
	pthread_mutex_unlock(&f->lock);
	if (!due)
		return;
	const bool poisoned = ilog_poisoned(s->log);
	const bool replaced = poisoned && log_replace(s);
	pthread_mutex_lock(&f->lock);
	f->disabled_until = poisoned ? atomic_load(&s->txg_open) : 0;
	pthread_mutex_unlock(&f->lock);
	if (replaced)
		txg_kick(s);
	if (!poisoned)
		health_clear(s, HEALTH_LOG, "the intent log works again");
}
