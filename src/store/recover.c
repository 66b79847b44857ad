/*
 * recover.c - records of the intent log, back into the overlay
 *
 * At opening, the metadata store holds the last committed group and the log's tail.  Batches from
 * there on are replayed: records of groups already committed are skipped, the others go into the
 * overlay and the row log as if they were written now.  Then one group is committed, under a new
 * log epoch, which empties the log.  Nothing else is needed; how long it takes is bounded by the
 * log's size.  A crash during recovery leaves the log and the old state as they were.
 *
 * Records of an image whose crypto domain is locked cannot go into the overlay: they are sealed, or
 * committing them would take what is (a leaf of the map, or the chunk under a partial write).  From
 * the first such record on, all of that image are *parked* (parked.c), in order, until keys come.
 * The same functions apply them then: to take up a record (open the image, unseal, see that all it
 * needs is there) and, with nothing left that can block, to apply it.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "store/ilog-format.h"
#include "store/store-priv.h"

/* --- what a record needs --- */

/* The leaf that holds chunk is not sealed under a locked domain; damage is the commit's business. */
static int leaf_unlocked(struct image *img, uint64_t chunk, uint64_t *ret_entry)
{
	const int r = map_get(img->map, chunk, 1, ret_entry);

	if (r == -EIO)
		*ret_entry = ENTRY_HOLE;
	return r == -EIO ? 0 : r;
}

/* The same, and the chunk's content can be read: a part of it is to be overwritten. */
static int chunk_unlocked(struct image *img, uint64_t chunk)
{
	struct store *s = img->store;
	uint32_t domain = 0;
	uint64_t entry;
	const int r = leaf_unlocked(img, chunk, &entry);

	if (r < 0 || entry_state(entry) != ENTRY_DATA ||
	        segments_domain(s->segments, loc_segment(entry_loc(entry)), &domain) < 0)
		return r;
	return domain == 0 || keyring_has(s->keyring, domain) ? 0 : -ENOKEY;
}

static uint64_t record_end(const struct ilog_record *rec)
{
	return rec->off + (rec->type == ILOG_SHARE ? rec->len / 8 * CHUNK_SIZE : rec->len);
}

/* Leaves and chunks of which a content record changes a part.  0, or -ENOKEY. */
static int record_unlocked(struct image *img, const struct ilog_record *rec)
{
	const bool range = rec->type == ILOG_PUNCH || rec->type == ILOG_ZERO;
	const uint64_t end = record_end(rec), last_leaf = (end - 1) / LEAF_BYTES;
	uint64_t entry;
	int r = 0;

	if (end == rec->off)
		return 0;
	for (uint64_t leaf = rec->off / LEAF_BYTES; r == 0 && leaf <= last_leaf; leaf++) {
		r = leaf_unlocked(img, leaf * LEAF_CHUNKS, &entry);
		if (range && leaf + 1 < last_leaf)
			leaf = last_leaf - 1; /* what lies between goes whole, with its leaves */
	}
	if (r == 0 && rec->off % CHUNK_SIZE)
		r = chunk_unlocked(img, rec->off / CHUNK_SIZE);
	if (r == 0 && end % CHUNK_SIZE)
		r = chunk_unlocked(img, end / CHUNK_SIZE);
	return r;
}

/* --- applying --- */

static int share_apply(struct image *img, const struct ilog_record *rec)
{
	for (uint64_t i = 0; i < rec->len / 8; i++) {
		const uint64_t e = get_u64((const uint8_t *)rec->data + i * 8);
		if (entry_state(e) != ENTRY_DATA)
			return -EUCLEAN;
		gc_mark_entry(img->store, e);
		const int r = overlay_set(img, rec->off / CHUNK_SIZE + i, e);
		if (r < 0)
			return r;
	}
	return 0;
}

static int record_apply(struct image *img, const struct ilog_record *rec)
{
	if (rec->type == ILOG_DATA)
		return overlay_write(img, rec->off, rec->data, rec->len);
	if (rec->type == ILOG_SHARE)
		return share_apply(img, rec);
	return overlay_punch(img, rec->off, rec->len, rec->type == ILOG_ZERO);
}

/* Calls fn for the record, or for each in it. */
static int records_each(const struct replay *rp,
        int (*fn)(struct image *img, const struct ilog_record *rec), struct image *img)
{
	struct bytes_in in = {.data = rp->plain, .len = rp->plain_len};
	struct ilog_record rec;
	int r = 0;

	if (!rp->plain)
		return fn(img, rp->rec);
	while (r == 0 && in.pos < in.len) {
		r = ilog_record_decode(&in, &rec);
		if (r == 0)
			r = fn(img, &rec);
	}
	return r;
}

static int record_unseal(struct store *s, struct replay *rp)
{
	const struct ilog_record *rec = rp->rec;
	const struct crypto_domain *d = keyring_get(s->keyring, rec->domain);

	if (!d)
		return -ENOKEY;
	rp->plain_len = rec->len - ILOG_SEALED_OVERHEAD;
	rp->plain = malloc(rp->plain_len);
	const int r = rp->plain ? ilog_sealed_open(rec, d->log, rp->plain) : -ENOMEM;
	keyring_put(s->keyring, d);
	if (r == -EUCLEAN)
		log_error("image %llu: a sealed record of the intent log is not authentic",
		        (unsigned long long)rec->image);
	return r;
}

int replay_take(struct store *s, const struct ilog_record *rec, struct replay *rp)
{
	*rp = (struct replay){.rec = rec};
	int r = store_image_open(s, rec->image, &rp->img);

	if (r == 0 && !image_unlocked(rp->img))
		r = -ENOKEY;
	if (r == 0 && rec->type == ILOG_SEALED)
		r = record_unseal(s, rp);
	if (r == 0)
		r = records_each(rp, record_unlocked, rp->img);
	if (r < 0)
		replay_release(rp);
	return r;
}

int replay_apply(struct replay *rp)
{
	return records_each(rp, record_apply, rp->img);
}

void replay_release(struct replay *rp)
{
	if (rp->plain)
		explicit_bzero(rp->plain, rp->plain_len);
	free(rp->plain);
	store_image_close(rp->img);
	*rp = (struct replay){0};
}

/* --- at opening --- */

static int replay_content(struct store *s, const struct ilog_record *rec)
{
	struct replay rp;

	if (rec->type == ILOG_DELETE)
		return store_image_delete(s, rec->image);
	if (parked_has(s, rec->image))
		return parked_add(s, rec);
	int r = replay_take(s, rec, &rp);
	if (r == -ENOKEY)
		return parked_add(s, rec);
	if (r < 0)
		return r;
	r = replay_apply(&rp);
	replay_release(&rp);
	return r;
}

static int replay_record(void *arg, const struct ilog_record *rec)
{
	struct store *s = arg;
	const struct store_hooks *h = &s->cfg.hooks;

	if (rec->txg <= s->state.txg)
		return 0;
	if (rec->type != ILOG_ROWS)
		return replay_content(s, rec);
	const int r = store_rows_append(s, rec->data, rec->len);
	if (r < 0 || !h->replay_rows)
		return r;
	return h->replay_rows(h->arg, rec->data, rec->len);
}

/*
 * Rows that came later may have changed a policy.  Where that leads to a domain that is locked, what
 * was replayed follows the policy it was written under; whoever changed it has the rest rewritten.
 */
static int policy_again(void *arg, struct image *img)
{
	const struct image_policy before = image_policy(img);

	(void)arg;
	pthread_mutex_lock(&img->lock);
	const bool deleted = img->groups[0].deleted || img->groups[1].deleted;
	pthread_mutex_unlock(&img->lock);
	const int r = deleted ? 0 : image_policy_ask(img);
	if (r == 0 && !image_unlocked(img) && !parked_has(img->store, img->id))
		store_policy_set(img, &before);
	return r;
}

int recover(struct store *s, struct errmsg *em)
{
	struct store_state *st = &s->state;
	uint64_t off, seq;
	int r = parked_load(s);

	if (r < 0)
		return errmsg_set(em, r, "cannot read what waits for a key: %s", strerror(-r));
	r = ilog_replay(s->log, st->log_epoch, st->log_tail_off, st->log_tail_seq, replay_record, s,
	        &off, &seq, em);
	if (r == -EUCLEAN && em && em->text[0])
		return r;
	if (r == 0)
		r = images_each(s, policy_again, NULL);
	if (r < 0)
		return errmsg_set(em, r, "cannot replay the intent log: %s", strerror(-r));
	if (s->cfg.read_only)
		return 0;
	/*
	 * Everything replayed goes into one group; its commit names the new epoch and an empty log.
	 */
	const uint64_t epoch = st->log_epoch + 1;
	ilog_start(s->log, epoch, off, off, seq);
	st->log_epoch = epoch;
	r = txg_commit_now(s);
	if (r < 0)
		return errmsg_set(
		        em, r, "cannot commit what the intent log held: %s", strerror(-r));
	return 0;
}
