/*
 * parked.c - records of the intent log that wait for a key
 *
 * Recovery meets records of images whose crypto domain is locked (recover.c).  They leave the log
 * all the same, for its space is needed: as they are, still sealed, they become rows of the
 * metadata store in the very transaction that moves the log's tail past them.  Until they are
 * applied, the image is locked: it can be deleted, which drops them, and nothing else.
 *
 * When a key comes, the records of each image that now has all keys are applied, in order, each
 * inside the gate; the transaction of the group that it went into deletes its row too.  So a crash
 * repeats a record or has done it wholly; and a repetition from the first one that is left, in
 * order, ends in the same content, as each says absolutely what a range holds.
 *
 * RAM: counts for each image and domain, and what the next transaction is to put or delete.  (A
 * store opened read-only puts nothing: it keeps the records of its log here.)
 *
 * Locks: apply_lock, one application at a time, above all others; lock guards the rest, nothing is
 * taken inside but the metadata store's own.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "store/ilog-format.h"
#include "store/store-priv.h"

/* Records of one image and domain (0: they are not sealed). */
struct parked_count {
	uint64_t image;
	uint32_t domain;
	uint64_t n, n_shares, n_foreign;
};

struct parked_record {
	uint64_t image, id;
	uint8_t *blob; /* owned */
	size_t len;
};

/* Done with: its content is in group txg.  id 0: the image is deleted. */
struct parked_done {
	uint64_t image, id, txg;
	uint32_t domain, flags;
};

static int grow(void *array, size_t n, size_t *cap, size_t size)
{
	void **at = array;

	if (n < *cap)
		return 0;
	const size_t more = MAX(*cap * 2, 16);
	void *p = reallocarray(*at, more, size);
	if (!p)
		return -ENOMEM;
	*at = p;
	*cap = more;
	return 0;
}

/* --- counts; lock held --- */

static struct parked_count *count_find(struct parked *pk, uint64_t image, uint32_t domain)
{
	for (size_t i = 0; i < pk->n_counts; i++)
		if (pk->counts[i].image == image && pk->counts[i].domain == domain)
			return &pk->counts[i];
	return NULL;
}

/* ILOG_SEALED_* of any record. */
static int record_flags(const struct ilog_record *rec, uint32_t *ret_flags)
{
	struct ilog_sealed s = {0};

	if (rec->type == ILOG_SEALED) {
		const int r = ilog_sealed_decode(rec, &s);
		if (r < 0)
			return r;
	} else if (rec->type == ILOG_SHARE) { /* to whatever segments */
		s.flags = ILOG_SEALED_SHARES | ILOG_SEALED_FOREIGN;
	}
	*ret_flags = s.flags;
	return 0;
}

static void count_change(struct parked_count *c, uint32_t flags, uint64_t by)
{
	c->n += by;
	c->n_shares += flags & ILOG_SEALED_SHARES ? by : 0;
	c->n_foreign += flags & ILOG_SEALED_FOREIGN ? by : 0;
}

static int count_add(struct parked *pk, uint64_t image, uint32_t domain, uint32_t flags)
{
	struct parked_count *c = count_find(pk, image, domain);

	if (!c) {
		if (grow(&pk->counts, pk->n_counts, &pk->counts_cap, sizeof(*c)) < 0)
			return -ENOMEM;
		c = &pk->counts[pk->n_counts++];
		*c = (struct parked_count){.image = image, .domain = domain};
	}
	count_change(c, flags, 1);
	atomic_fetch_add(&pk->n, 1);
	return 0;
}

static void count_drop_image(struct parked *pk, uint64_t image)
{
	for (size_t i = 0; i < pk->n_counts;) {
		if (pk->counts[i].image != image) {
			i++;
			continue;
		}
		atomic_fetch_sub(&pk->n, pk->counts[i].n);
		pk->counts[i] = pk->counts[--pk->n_counts];
	}
}

static void count_drop(struct parked *pk, const struct parked_done *d)
{
	struct parked_count *c = count_find(pk, d->image, d->domain);

	if (!c)
		return; /* the image was deleted meanwhile */
	count_change(c, d->flags, (uint64_t)-1);
	atomic_fetch_sub(&pk->n, 1);
	if (c->n == 0)
		*c = pk->counts[--pk->n_counts];
}

bool parked_has(struct store *s, uint64_t image)
{
	struct parked *pk = &s->parked;
	bool found = false;

	if (LIKELY(atomic_load(&pk->n) == 0))
		return false;
	pthread_mutex_lock(&pk->lock);
	for (size_t i = 0; i < pk->n_counts && !found; i++)
		found = pk->counts[i].image == image;
	pthread_mutex_unlock(&pk->lock);
	return found;
}

void parked_shares(struct store *s, parked_share_fn *fn, void *arg)
{
	struct parked *pk = &s->parked;

	pthread_mutex_lock(&pk->lock);
	for (size_t i = 0; i < pk->n_counts; i++)
		if (pk->counts[i].n_shares)
			fn(arg, pk->counts[i].domain, pk->counts[i].n_foreign > 0);
	pthread_mutex_unlock(&pk->lock);
}

/* --- parking --- */

static int blob_decode(const void *blob, size_t len, uint64_t image, struct ilog_record *ret_rec)
{
	struct bytes_in in = {.data = blob, .len = len};
	struct ilog_record rec;

	if (ilog_record_decode(&in, &rec) < 0 || in.pos != len || rec.image != image)
		return -EUCLEAN;
	*ret_rec = rec;
	return 0;
}

static int load_one(void *arg, uint64_t image, uint64_t id, const void *blob, size_t len)
{
	struct store *s = arg;
	struct parked *pk = &s->parked;
	struct ilog_record rec;
	uint32_t flags = ILOG_SEALED_SHARES | ILOG_SEALED_FOREIGN;
	uint32_t domain = 0;

	/* One that is damaged keeps its image locked and all segments; check says so. */
	if (blob_decode(blob, len, image, &rec) == 0 && record_flags(&rec, &flags) == 0)
		domain = rec.domain;
	else
		log_error("image %llu: a record that waits for a key is damaged",
		        (unsigned long long)image);
	pthread_mutex_lock(&pk->lock);
	pk->next_id = MAX(pk->next_id, id + 1);
	const int r = count_add(pk, image, domain, flags);
	pthread_mutex_unlock(&pk->lock);
	return r;
}

int parked_load(struct store *s)
{
	struct meta *m = s->cfg.meta;

	s->parked.next_id = 1;
	return m->ops->parked_each(m, 0, load_one, s);
}

static uint8_t *blob_encode(const struct ilog_record *rec, size_t *ret_len)
{
	const size_t len = ilog_record_size(rec);
	uint8_t *blob = malloc(len);

	if (!blob)
		return NULL;
	uint8_t *data = ilog_record_encode(rec, blob);
	if (ilog_record_has_data(rec->type) && rec->len > 0)
		memcpy(data, rec->data, rec->len);
	*ret_len = len;
	return blob;
}

int parked_add(struct store *s, const struct ilog_record *rec)
{
	struct parked *pk = &s->parked;
	struct parked_record p = {.image = rec->image};
	uint32_t flags = 0;
	int r = record_flags(rec, &flags);

	if (r < 0)
		return r;
	p.blob = blob_encode(rec, &p.len);
	if (!p.blob)
		return -ENOMEM;
	pthread_mutex_lock(&pk->lock);
	p.id = pk->next_id++;
	r = grow(&pk->pending, pk->n_pending, &pk->pending_cap, sizeof(p));
	if (r == 0)
		r = count_add(pk, rec->image, rec->domain, flags);
	if (r == 0)
		pk->pending[pk->n_pending++] = p;
	pthread_mutex_unlock(&pk->lock);
	if (r < 0)
		free(p.blob);
	return r;
}

/* --- done with --- */

static void pending_forget(struct parked *pk, uint64_t image)
{
	size_t n = 0;

	for (size_t i = 0; i < pk->n_pending; i++) {
		if (pk->pending[i].image == image)
			free(pk->pending[i].blob);
		else
			pk->pending[n++] = pk->pending[i];
	}
	pk->n_pending = n;
}

static int done_add(struct store *s, const struct parked_done *d)
{
	struct parked *pk = &s->parked;
	int r = 0;

	pthread_mutex_lock(&pk->lock);
	if (d->id == 0)
		pending_forget(pk, d->image);
	if (s->cfg.read_only && d->id == 0)
		count_drop_image(pk, d->image);
	else if (s->cfg.read_only)
		count_drop(pk, d);
	else
		r = grow(&pk->done, pk->n_done, &pk->done_cap, sizeof(*d));
	if (r == 0 && !s->cfg.read_only)
		pk->done[pk->n_done++] = *d;
	pthread_mutex_unlock(&pk->lock);
	return r;
}

int parked_drop(struct store *s, uint64_t image)
{
	const struct parked_done d = {.image = image, .txg = atomic_load(&s->txg_open)};

	return parked_has(s, image) ? done_add(s, &d) : 0;
}

int parked_txg_write(struct store *s, uint64_t txg)
{
	struct parked *pk = &s->parked;
	struct meta *m = s->cfg.meta;
	int r = 0;

	if (LIKELY(atomic_load(&pk->n) == 0))
		return 0;
	pthread_mutex_lock(&pk->lock);
	for (size_t i = 0; r == 0 && i < pk->n_pending; i++) {
		const struct parked_record *p = &pk->pending[i];
		r = m->ops->parked_put(m, p->image, p->id, p->blob, p->len);
	}
	for (size_t i = 0; r == 0 && i < pk->n_done; i++)
		if (pk->done[i].txg == txg)
			r = m->ops->parked_del(m, pk->done[i].image, pk->done[i].id);
	pthread_mutex_unlock(&pk->lock);
	return r;
}

static void pending_free(struct parked *pk)
{
	for (size_t i = 0; i < pk->n_pending; i++)
		free(pk->pending[i].blob);
	free(pk->pending);
	pk->pending = NULL;
	pk->n_pending = pk->pending_cap = 0;
}

void parked_txg_committed(struct store *s, uint64_t txg)
{
	struct parked *pk = &s->parked;
	size_t n = 0;

	if (LIKELY(atomic_load(&pk->n) == 0))
		return;
	pthread_mutex_lock(&pk->lock);
	pending_free(pk);
	for (size_t i = 0; i < pk->n_done; i++) {
		const struct parked_done *d = &pk->done[i];

		if (d->txg != txg)
			pk->done[n++] = *d;
		else if (d->id == 0)
			count_drop_image(pk, d->image);
		else
			count_drop(pk, d);
	}
	pk->n_done = n;
	pthread_mutex_unlock(&pk->lock);
}

/* --- applying --- */

/* The image was deleted; inside the gate, where that happens. */
static bool dropped(struct parked *pk, uint64_t image)
{
	bool found = false, drop = false;

	pthread_mutex_lock(&pk->lock);
	for (size_t i = 0; i < pk->n_counts && !found; i++)
		found = pk->counts[i].image == image;
	for (size_t i = 0; i < pk->n_done && !drop; i++)
		drop = pk->done[i].image == image && pk->done[i].id == 0;
	pthread_mutex_unlock(&pk->lock);
	return !found || drop;
}

static int apply_record(struct store *s, const struct ilog_record *rec, struct parked_done *d)
{
	struct replay rp;
	int r = record_flags(rec, &d->flags);

	if (r == 0 && !s->cfg.read_only)
		r = store_throttle(s, rec->len);
	if (r == 0)
		r = replay_take(s, rec, &rp);
	if (r < 0)
		return r;
	d->domain = rec->domain;
	store_enter(s);
	d->txg = atomic_load(&s->txg_open);
	if (!dropped(&s->parked, rec->image)) {
		r = replay_apply(&rp);
		if (r == 0)
			r = done_add(s, d);
	}
	store_leave(s);
	replay_release(&rp);
	return r;
}

static int apply_blob(void *arg, uint64_t image, uint64_t id, const void *blob, size_t len)
{
	struct parked_done d = {.image = image, .id = id};
	struct ilog_record rec;
	const int r = blob_decode(blob, len, image, &rec);

	return r < 0 ? r : apply_record(arg, &rec, &d);
}

/* What a read-only store keeps in RAM: behind what the metadata store has. */
static int apply_pending(struct store *s, uint64_t image)
{
	struct parked *pk = &s->parked;
	int r = 0;

	for (size_t i = 0; r == 0 && i < pk->n_pending; i++)
		if (pk->pending[i].image == image)
			r = apply_blob(s, image, pk->pending[i].id, pk->pending[i].blob,
			        pk->pending[i].len);
	if (r == 0)
		pending_forget(pk, image);
	return r;
}

static int apply_image(struct store *s, uint64_t image)
{
	struct meta *m = s->cfg.meta;
	int r = m->ops->parked_each(m, image, apply_blob, s);

	if (r == 0 && s->cfg.read_only)
		r = apply_pending(s, image);
	if (r == -ENOKEY)
		return 0; /* it takes another key as well, which may come later */
	if (r < 0)
		log_error("image %llu: what was flushed before the crash cannot be applied: %s",
		        (unsigned long long)image, strerror(-r));
	return r;
}

/* The next image after `after` all of whose records can be opened; 0: none. */
static uint64_t next_ready(struct store *s, uint64_t after)
{
	struct parked *pk = &s->parked;
	uint64_t next = 0;

	pthread_mutex_lock(&pk->lock);
	for (size_t i = 0; i < pk->n_counts; i++) {
		const uint64_t image = pk->counts[i].image;
		bool ready = image > after && (next == 0 || image < next);

		for (size_t k = 0; ready && k < pk->n_counts; k++)
			ready = pk->counts[k].image != image || pk->counts[k].domain == 0 ||
			        keyring_has(s->keyring, pk->counts[k].domain);
		if (ready)
			next = image;
	}
	pthread_mutex_unlock(&pk->lock);
	return next;
}

static bool done_waits(struct parked *pk)
{
	pthread_mutex_lock(&pk->lock);
	const bool waits = pk->n_done > 0;
	pthread_mutex_unlock(&pk->lock);
	return waits;
}

static int apply_ready(struct store *s)
{
	int r = 0;

	for (uint64_t image = next_ready(s, 0); image; image = next_ready(s, image)) {
		const int image_r = apply_image(s, image);
		if (r == 0)
			r = image_r;
	}
	return r;
}

int parked_apply(struct store *s)
{
	struct parked *pk = &s->parked;
	int r = 0;

	if (atomic_load(&pk->n) == 0)
		return 0;
	pthread_mutex_lock(&pk->apply_lock);
	if (done_waits(pk)) /* of an earlier call whose commit failed */
		r = store_sync(s);
	if (r == 0)
		r = apply_ready(s);
	if (done_waits(pk)) {
		const int sync_r = store_sync(s);
		if (r == 0)
			r = sync_r;
	}
	pthread_mutex_unlock(&pk->apply_lock);
	return r;
}

void parked_init(struct store *s)
{
	pthread_mutex_init(&s->parked.lock, NULL);
	pthread_mutex_init(&s->parked.apply_lock, NULL);
}

void parked_free(struct store *s)
{
	struct parked *pk = &s->parked;

	pending_free(pk);
	free(pk->counts);
	free(pk->done);
	pthread_mutex_destroy(&pk->lock);
	pthread_mutex_destroy(&pk->apply_lock);
}
