#include "crash/model.h"

#include "store/snapshot.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* Distinct contents that writes choose from: so that there are duplicates. */
#define PATTERNS 64

#define SNAPSHOTS 6u

/* A snapshot, or, with sure false, one that may or may not have been made (or deleted) when it all ended. */
struct model_snapshot {
	uint64_t id; /* 0: none */
	unsigned image;
	uint32_t domain; /* that the image's policy named */
	bool sure;
	uint8_t *content;
};

/* One acknowledged change: bytes [off, off + len) became data. */
struct change {
	struct change *next;
	uint32_t off, len;
	uint8_t data[];
};

struct model_image {
	struct image *handle;
	uint8_t *durable;            /* the state that the last flush made durable */
	uint8_t *now;                /* the last acknowledged state */
	struct change *head, **tail; /* from durable to now */
	unsigned n_changes;
	bool deleted; /* and that not committed yet: it may not be changed until then */
	bool pending; /* it has been replaced, and that not committed yet: not to be used until then */
	struct image_policy policy;
};

struct model {
	struct rng rng;
	struct store *store;
	uint64_t first_image;
	struct model_image images[MODEL_IMAGES];
	struct model_snapshot snapshots[SNAPSHOTS];
	uint64_t next_set;
	pthread_mutex_t lock; /* of the policies */
	uint8_t *buf;
	char op[160];
};

char model_context[80];

static void die(const struct model *m, const char *what, unsigned i, size_t at)
{
	fprintf(stderr, "%s: %s: image %u at byte %zu (chunk %zu); last operation: %s\n",
	        model_context, what, i, at, at / CHUNK_SIZE, m->op);
	abort();
}

static size_t first_difference(const uint8_t *a, const uint8_t *b)
{
	size_t i = 0;

	while (i < MODEL_BYTES && a[i] == b[i])
		i++;
	return i;
}

static struct image_policy policy_random(struct model *m)
{
	return (struct image_policy){
	        .domain = (uint32_t)rng_below(&m->rng, MODEL_DOMAINS),
	        .compress = (enum policy_compress)rng_below(&m->rng, 4),
	        .level = (uint8_t)(3 + rng_below(&m->rng, 4)),
	        .dedupe = rng_below(&m->rng, 3) ? POLICY_DEDUPE_ON
	                                        : (enum policy_dedupe)rng_below(&m->rng, 3),
	};
}

bool model_policy(struct model *m, uint64_t image, struct image_policy *ret_policy)
{
	if (image < m->first_image || image >= m->first_image + MODEL_IMAGES)
		return false;
	pthread_mutex_lock(&m->lock);
	*ret_policy = m->images[image - m->first_image].policy;
	pthread_mutex_unlock(&m->lock);
	return true;
}

void model_create_at(uint64_t seed, uint64_t first_image, struct model **ret_model)
{
	struct model *m = calloc(1, sizeof(*m));

	m->rng = rng_fork(seed, first_image - MODEL_FIRST_IMAGE);
	m->first_image = first_image;
	pthread_mutex_init(&m->lock, NULL);
	m->buf = malloc(MODEL_BYTES);
	m->next_set = first_image << 16 | 1; /* several models, several ids */
	for (unsigned k = 0; k < SNAPSHOTS; k++)
		m->snapshots[k].content = calloc(1, MODEL_BYTES);
	for (unsigned i = 0; i < MODEL_IMAGES; i++) {
		m->images[i].durable = calloc(1, MODEL_BYTES);
		m->images[i].now = calloc(1, MODEL_BYTES);
		m->images[i].tail = &m->images[i].head;
		m->images[i].policy = policy_random(m);
	}
	*ret_model = m;
}

void model_create(uint64_t seed, struct model **ret_model)
{
	model_create_at(seed, MODEL_FIRST_IMAGE, ret_model);
}

static void forget_changes(struct model_image *mi)
{
	while (mi->head) {
		struct change *c = mi->head;
		mi->head = c->next;
		free(c);
	}
	mi->tail = &mi->head;
	mi->n_changes = 0;
}

void model_free(struct model *m)
{
	for (unsigned i = 0; i < MODEL_IMAGES; i++) {
		forget_changes(&m->images[i]);
		free(m->images[i].durable);
		free(m->images[i].now);
	}
	for (unsigned k = 0; k < SNAPSHOTS; k++)
		free(m->snapshots[k].content);
	pthread_mutex_destroy(&m->lock);
	free(m->buf);
	free(m);
}

int model_attach(struct model *m, struct store *s)
{
	m->store = s;
	for (unsigned i = 0; i < MODEL_IMAGES; i++) {
		const int r = store_image_open(s, m->first_image + i, &m->images[i].handle);
		if (r < 0) {
			model_detach(m);
			return r;
		}
	}
	return 0;
}

void model_detach(struct model *m)
{
	for (unsigned i = 0; i < MODEL_IMAGES; i++) {
		store_image_close(m->images[i].handle);
		m->images[i].handle = NULL;
	}
	m->store = NULL;
}

/* The change is acknowledged; its bytes are in m->buf, or zeros. */
static void acknowledge(struct model_image *mi, uint32_t off, uint32_t len, const uint8_t *data)
{
	struct change *c = malloc(sizeof(*c) + len);

	c->next = NULL;
	c->off = off;
	c->len = len;
	if (data)
		memcpy(c->data, data, len);
	else
		memset(c->data, 0, len);
	memcpy(mi->now + off, c->data, len);
	*mi->tail = c;
	mi->tail = &c->next;
	mi->n_changes++;
}

static void made_durable(struct model_image *mi)
{
	memcpy(mi->durable, mi->now, MODEL_BYTES);
	forget_changes(mi);
}

/* --- operations --- */

/* Content that compresses, repeats, or does neither. */
static void fill_content(struct model *m, uint8_t *to, size_t len)
{
	const unsigned kind = (unsigned)rng_below(&m->rng, 10);

	for (size_t at = 0; at < len; at += CHUNK_SIZE) {
		const size_t n = MIN(len - at, CHUNK_SIZE);
		struct rng r;
		if (kind == 0) {
			memset(to + at, 0, n);
			continue;
		}
		r = rng_fork(kind < 6 ? rng_below(&m->rng, PATTERNS) : rng_next(&m->rng), 1);
		for (size_t i = 0; i < n; i++)
			to[at + i] = (uint8_t)(kind < 8 && i % 64 > 8 ? i / 64 : rng_next(&r));
	}
}

static void pick_range(struct model *m, uint32_t *ret_off, uint32_t *ret_len)
{
	const unsigned kind = (unsigned)rng_below(&m->rng, 8);
	uint64_t off = rng_below(&m->rng, MODEL_BYTES), len;

	if (kind < 4) { /* whole chunks */
		off -= off % CHUNK_SIZE;
		len = CHUNK_SIZE << rng_below(&m->rng, 5);
	} else if (kind < 6) { /* sectors */
		off -= off % 512;
		len = 512 * (1 + rng_below(&m->rng, 40));
	} else if (kind == 6) { /* any bytes */
		len = 1 + rng_below(&m->rng, 9000);
	} else { /* big */
		off -= off % CHUNK_SIZE;
		len = CHUNK_SIZE * (1 + rng_below(&m->rng, 300));
	}
	*ret_off = (uint32_t)off;
	*ret_len = (uint32_t)MIN(len, MODEL_BYTES - off);
}

static int do_write(struct model *m, unsigned i)
{
	struct model_image *mi = &m->images[i];
	uint32_t off, len;

	pick_range(m, &off, &len);
	fill_content(m, m->buf, len);
	snprintf(m->op, sizeof(m->op), "write image %u at %u, %u bytes", i, off, len);
	int r = store_throttle(m->store, len);
	if (r < 0)
		return r;
	store_enter(m->store);
	r = store_write(mi->handle, off, m->buf, len);
	store_leave(m->store);
	if (r == 0)
		acknowledge(mi, off, len, m->buf);
	return r;
}

static int do_punch(struct model *m, unsigned i)
{
	struct model_image *mi = &m->images[i];
	const bool zero = rng_below(&m->rng, 2);
	uint32_t off, len;

	pick_range(m, &off, &len);
	if (rng_below(&m->rng, 6) == 0)
		len = MODEL_BYTES - off; /* truncate */
	snprintf(m->op, sizeof(m->op), "punch image %u at %u, %u bytes%s", i, off, len,
	        zero ? ", zeros" : "");
	int r = store_throttle(m->store, 0);
	if (r < 0)
		return r;
	store_enter(m->store);
	r = store_punch(mi->handle, off, off + len == MODEL_BYTES ? IMAGE_SIZE_MAX - off : len,
	        zero && off + len != MODEL_BYTES);
	store_leave(m->store);
	if (r == 0)
		acknowledge(mi, off, len, NULL);
	return r;
}

static int do_share(struct model *m, unsigned i)
{
	const unsigned j = (i + 1) % MODEL_IMAGES;
	struct model_image *from = &m->images[i], *to = &m->images[j];
	const uint32_t chunks = MODEL_BYTES / CHUNK_SIZE;
	const uint32_t src = (uint32_t)rng_below(&m->rng, chunks),
	               dst = (uint32_t)rng_below(&m->rng, chunks);
	const uint32_t wanted = 1 + (uint32_t)rng_below(&m->rng, 400);
	const uint32_t n = MIN(wanted, chunks - MAX(src, dst));

	snprintf(m->op, sizeof(m->op), "share image %u chunk %u to image %u chunk %u, %u chunks", i,
	        src, j, dst, n);
	int r = store_throttle(m->store, 0);
	if (r < 0)
		return r;
	uint64_t shared;
	/* One chunk at a time: each call is all or nothing, as the model has it. */
	for (uint32_t k = 0; k < n; k++) {
		store_enter(m->store);
		r = store_share(from->handle, (uint64_t)(src + k) * CHUNK_SIZE, to->handle,
		        (uint64_t)(dst + k) * CHUNK_SIZE, CHUNK_SIZE, &shared);
		store_leave(m->store);
		if (r == -EAGAIN)
			continue;
		if (r == -EXDEV)
			return 0; /* of different crypto domains */
		if (r < 0)
			return r;
		acknowledge(to, (dst + k) * CHUNK_SIZE, CHUNK_SIZE,
		        from->now + (size_t)(src + k) * CHUNK_SIZE);
	}
	return 0;
}

static int do_delete(struct model *m, unsigned i)
{
	snprintf(m->op, sizeof(m->op), "delete image %u", i);
	int r = store_throttle(m->store, 0);
	if (r < 0)
		return r;
	store_enter(m->store);
	r = store_image_delete(m->store, m->first_image + i);
	store_leave(m->store);
	if (r == 0) {
		acknowledge(&m->images[i], 0, MODEL_BYTES, NULL);
		m->images[i].deleted = true;
	}
	return r;
}

static int do_flush(struct model *m, unsigned i)
{
	snprintf(m->op, sizeof(m->op), "flush image %u", i);
	const int r = store_flush(m->store, m->images[i].handle);
	if (r == 0)
		made_durable(&m->images[i]);
	return r;
}

int model_sync(struct model *m)
{
	snprintf(m->op, sizeof(m->op), "sync");
	const int r = store_sync(m->store);
	for (unsigned i = 0; r == 0 && i < MODEL_IMAGES; i++) {
		made_durable(&m->images[i]);
		m->images[i].deleted = m->images[i].pending = false;
	}
	return r;
}

static int do_read(struct model *m, unsigned i)
{
	uint32_t off, len;

	pick_range(m, &off, &len);
	snprintf(m->op, sizeof(m->op), "read image %u at %u, %u bytes", i, off, len);
	const int r = store_read(m->images[i].handle, off, m->buf, len);
	for (uint32_t k = 0; r == 0 && k < len; k++)
		if (m->buf[k] != m->images[i].now[off + k])
			die(m, "wrong data read", i, off + k);
	return r;
}

static int do_gc(struct model *m)
{
	struct gc_report report;
	const bool full = rng_below(&m->rng, 2);

	snprintf(m->op, sizeof(m->op), "collect%s", full ? ", full" : "");
	return store_gc(m->store, full, NULL, NULL, &report);
}

static int do_policy(struct model *m, unsigned i)
{
	struct model_image *mi = &m->images[i];
	const struct image_policy p = policy_random(m);

	snprintf(m->op, sizeof(m->op), "policy of image %u: domain %u", i, p.domain);
	store_enter(m->store);
	pthread_mutex_lock(&m->lock);
	mi->policy = p;
	pthread_mutex_unlock(&m->lock);
	store_policy_set(mi->handle, &p);
	store_leave(m->store);
	return 0;
}

static int do_reseal(struct model *m, unsigned i)
{
	uint64_t found, off = rng_below(&m->rng, 2) * (MODEL_BYTES / 2);

	snprintf(m->op, sizeof(m->op), "move image %u from %llu on to its domain", i,
	        (unsigned long long)off);
	return store_reseal(m->images[i].handle, off, IMAGE_SIZE_MAX - off, &found);
}

static int do_wipe(struct model *m)
{
	snprintf(m->op, sizeof(m->op), "wipe");
	const int r =
	        store_wipe_dead(m->store, (uint32_t)rng_below(&m->rng, MODEL_DOMAINS), NULL, NULL);
	return r == -EBUSY ? 0 : r; /* it could not be done, and said so */
}

/* --- operations on roots --- */

/*
 * They commit a group: with it, all that was acknowledged is durable.  One that failed may still be done by a later
 * commit, or by none; a sync settles it.
 */
static int roots_settle(struct model *m, int r)
{
	if (r == 0) {
		for (unsigned i = 0; i < MODEL_IMAGES; i++) {
			made_durable(&m->images[i]);
			m->images[i].deleted = m->images[i].pending = false;
		}
	}
	return r;
}

static int do_snapshot(struct model *m, unsigned i)
{
	struct model_snapshot *sn = &m->snapshots[rng_below(&m->rng, SNAPSHOTS)];

	if (sn->id)
		return do_flush(m, i);
	const struct snapshot_ref ref = {
	        .id = snapshot_id(m->next_set++, 0), .image = m->first_image + i};
	snprintf(m->op, sizeof(m->op), "snapshot %llu of image %u", (unsigned long long)ref.id, i);
	memcpy(sn->content, m->images[i].now, MODEL_BYTES);
	sn->id = ref.id;
	sn->image = i;
	sn->domain = m->images[i].policy.domain;
	sn->sure = false;
	const int r = store_snapshot_create(m->store, &ref, 1, NULL, NULL);
	sn->sure = r == 0;
	if (r < 0 && r != -EINPROGRESS)
		sn->id = 0;
	return roots_settle(m, r == -EINPROGRESS ? -EIO : r);
}

static int do_snapshot_delete(struct model *m)
{
	struct model_snapshot *sn = &m->snapshots[rng_below(&m->rng, SNAPSHOTS)];

	if (!sn->id || !sn->sure)
		return model_sync(m);
	snprintf(m->op, sizeof(m->op), "delete snapshot %llu", (unsigned long long)sn->id);
	sn->sure = false;
	const int r = store_snapshot_delete(m->store, &sn->id, 1, NULL, NULL);
	if (r == 0)
		sn->id = 0;
	else
		sn->sure = r != -EINPROGRESS;
	return roots_settle(m, r == -EINPROGRESS ? -EIO : r);
}

/* Image i's content is replaced by that of a snapshot (of any image: a clone; of its own: a rollback). */
static int do_replace(struct model *m, unsigned i)
{
	const struct model_snapshot *sn = &m->snapshots[rng_below(&m->rng, SNAPSHOTS)];
	struct model_image *mi = &m->images[i];
	int r;

	if (!sn->id || !sn->sure)
		return model_sync(m);
	snprintf(m->op, sizeof(m->op), "image %u becomes snapshot %llu", i,
	        (unsigned long long)sn->id);
	if (sn->image == i && rng_below(&m->rng, 2)) {
		const struct rollback_ref ref = {.image = m->first_image + i, .id = sn->id};
		r = store_snapshot_rollback(m->store, &ref, 1, NULL, NULL);
	} else {
		const struct clone_ref ref = {
		        snapshot_image(sn->id), m->first_image + i, mi->policy.domain};
		r = store_clone(m->store, &ref, 1, NULL, NULL);
	}
	if (r == 0 && mi->policy.domain != sn->domain)
		die(m, "content of one domain came under a policy of another", i, 0);
	if (r == -EXDEV && mi->policy.domain != sn->domain)
		return 0;
	/* One that may still be done is a change that may or may not be there after a crash. */
	if (r == 0 || r == -EINPROGRESS)
		acknowledge(mi, 0, MODEL_BYTES, sn->content);
	mi->pending = r == -EINPROGRESS;
	if (r == -EINPROGRESS)
		r = -EIO;
	return roots_settle(m, r);
}

/* A clone of another image as it is. */
static int do_clone(struct model *m, unsigned i)
{
	const unsigned j = (i + 1) % MODEL_IMAGES;
	const uint32_t domain = m->images[j].policy.domain;
	const struct clone_ref ref = {m->first_image + i, m->first_image + j, domain};

	snprintf(m->op, sizeof(m->op), "image %u becomes a clone of image %u", j, i);
	int r = store_clone(m->store, &ref, 1, NULL, NULL);
	if (r == 0 && m->images[i].policy.domain != domain)
		die(m, "content of one domain came under a policy of another", j, 0);
	if (r == -EXDEV && m->images[i].policy.domain != domain)
		return 0;
	if (r == 0 || r == -EINPROGRESS)
		acknowledge(&m->images[j], 0, MODEL_BYTES, m->images[i].now);
	m->images[j].pending = r == -EINPROGRESS;
	if (r == -EINPROGRESS)
		r = -EIO;
	return roots_settle(m, r);
}

static int do_roots(struct model *m, unsigned i)
{
	const unsigned what = (unsigned)rng_below(&m->rng, 10);

	if (what < 4)
		return do_snapshot(m, i);
	if (what < 6)
		return do_snapshot_delete(m);
	return what < 9 ? do_replace(m, i) : do_clone(m, i);
}

static bool any_pending(const struct model *m)
{
	for (unsigned i = 0; i < MODEL_IMAGES; i++)
		if (m->images[i].pending)
			return true;
	return false;
}

int model_step(struct model *m)
{
	const unsigned i = (unsigned)rng_below(&m->rng, MODEL_IMAGES);
	const unsigned what = (unsigned)rng_below(&m->rng, 100);

	if (any_pending(m))
		return model_sync(m);
	if (what < 58 && (m->images[i].deleted || m->images[(i + 1) % MODEL_IMAGES].deleted))
		return model_sync(m);
	if (what < 7)
		return do_roots(m, i);
	if (what < 45)
		return do_write(m, i);
	if (what < 53)
		return do_punch(m, i);
	if (what < 58)
		return do_share(m, i);
	if (what < 60)
		return do_delete(m, i);
	if (what < 72)
		return do_flush(m, i);
	if (what < 80)
		return model_sync(m);
	if (what < 91)
		return do_read(m, i);
	if (what < 93)
		return do_policy(m, i);
	if (what < 97)
		return do_reseal(m, i);
	return what < 99 ? do_gc(m) : do_wipe(m);
}

const char *model_last_op(const struct model *m)
{
	return m->op;
}

/* --- checks --- */

static void snapshot_verify(struct model *m, const struct model_snapshot *sn)
{
	struct image *img;
	int r = store_image_open(m->store, snapshot_image(sn->id), &img);

	if (r < 0) {
		fprintf(stderr, "snapshot %llu: ", (unsigned long long)sn->id);
		die(m, strerror(-r), sn->image, 0);
	}
	r = store_read(img, 0, m->buf, MODEL_BYTES);
	store_image_close(img);
	if (r == 0 && memcmp(m->buf, sn->content, MODEL_BYTES) != 0)
		r = -EUCLEAN;
	if (r == 0 || r == -EIO) /* faults may be on */
		return;
	fprintf(stderr, "snapshot %llu: ", (unsigned long long)sn->id);
	die(m, strerror(-r), sn->image, first_difference(m->buf, sn->content));
}

void model_verify(struct model *m)
{
	for (unsigned i = 0; i < MODEL_IMAGES; i++) {
		if (m->images[i].pending)
			continue;
		const int r = store_read(m->images[i].handle, 0, m->buf, MODEL_BYTES);
		if (r < 0)
			die(m, strerror(-r), i, 0);
		if (memcmp(m->buf, m->images[i].now, MODEL_BYTES) != 0)
			die(m, "wrong content", i, first_difference(m->buf, m->images[i].now));
	}
	for (unsigned k = 0; k < SNAPSHOTS; k++)
		if (m->snapshots[k].id && m->snapshots[k].sure)
			snapshot_verify(m, &m->snapshots[k]);
}

static int snapshots_recovered(struct model *m)
{
	for (unsigned k = 0; k < SNAPSHOTS; k++) {
		struct model_snapshot *sn = &m->snapshots[k];
		struct snapshot_row row;
		int r;

		if (!sn->id)
			continue;
		r = store_snapshot_get(m->store, sn->id, &row);
		if (r == -ENOENT && !sn->sure)
			sn->id = 0;
		else if (r < 0 && r != -ENOENT)
			return r;
		else
			snapshot_verify(m, sn);
		sn->sure = true;
	}
	return 0;
}

static int image_recovered(struct model *m, unsigned i)
{
	struct model_image *mi = &m->images[i];
	const int r = store_read(mi->handle, 0, m->buf, MODEL_BYTES);
	unsigned n = 0;

	if (r < 0)
		return r;
	const size_t from_durable = first_difference(m->buf, mi->durable);
	for (const struct change *c = mi->head; memcmp(m->buf, mi->durable, MODEL_BYTES) != 0;
	        c = c->next, n++) {
		if (!c) {
			fprintf(stderr, "model: %u changes since the flush, none of those states\n",
			        mi->n_changes);
			die(m, "not a prefix of what was acknowledged", i, from_durable);
		}
		memcpy(mi->durable + c->off, c->data, c->len);
	}
	memcpy(mi->now, mi->durable, MODEL_BYTES);
	forget_changes(mi);
	mi->deleted = mi->pending = false;
	return 0;
}

int model_recovered(struct model *m)
{
	int r = 0;

	snprintf(m->op, sizeof(m->op), "recovery");
	for (unsigned i = 0; r == 0 && i < MODEL_IMAGES; i++)
		r = image_recovered(m, i);
	return r == 0 ? snapshots_recovered(m) : r;
}
