/*
 * policy.c - what an image's policy says, and what it has cost
 *
 * The policy is one word that is read and written whole, so that a commit worker needs no lock for
 * it.  It changes inside the gate: the group that is open then is the first that is stored
 * accordingly.  (The group before, if it is still being stored, may follow either policy;
 * img->policy_txg tells who needs to know.)
 *
 * Costs are gathered by each worker for the leaf under way and added here once a leaf.
 */
#include <errno.h>

#include "store/snapshot.h"
#include "store/store-priv.h"

static uint64_t policy_pack(const struct image_policy *p)
{
	return (uint64_t)p->domain << 32 | (uint64_t)(p->dedupe & 0xff) << 16 |
	       (uint64_t)p->level << 8 | (p->compress & 0xff);
}

static struct image_policy policy_unpack(uint64_t v)
{
	return (struct image_policy){
	        .domain = (uint32_t)(v >> 32),
	        .compress = (enum policy_compress)(v & 0xff),
	        .level = (uint8_t)(v >> 8),
	        .dedupe = (enum policy_dedupe)(v >> 16 & 0xff),
	};
}

struct image_policy image_policy(const struct image *img)
{
	return policy_unpack(atomic_load_explicit(&img->policy, memory_order_acquire));
}

bool image_unlocked(const struct image *img)
{
	const uint32_t domain = image_policy(img).domain;

	return domain == 0 || keyring_has(img->store->keyring, domain);
}

int image_policy_ask(struct image *img)
{
	const struct store_hooks *h = &img->store->cfg.hooks;
	struct image_policy p = {0};
	struct snapshot_row row = {0};
	int r = 0;

	if (image_is_snapshot(img)) {
		r = store_snapshot_get(img->store, img->id & ~SNAPSHOT_BIT, &row);
		p.domain = row.domain;
	} else if (h->policy) {
		r = h->policy(h->arg, img->id, &p);
	}

	if (r < 0)
		return r;
	atomic_store_explicit(&img->policy, policy_pack(&p), memory_order_release);
	image_lock_update(img);
	return 0;
}

void store_policy_set(struct image *img, const struct image_policy *policy)
{
	atomic_store(&img->policy_txg, atomic_load(&img->store->txg_open));
	atomic_store_explicit(&img->policy, policy_pack(policy), memory_order_release);
	image_lock_update(img);
}

void store_policy_get(struct image *img, struct image_policy *ret_policy)
{
	*ret_policy = image_policy(img);
}

/* --- costs --- */

_Static_assert(sizeof(struct policy_cost) % sizeof(uint64_t) == 0, "made of counters");

/* The counters of struct policy_cost, as an array. */
void image_cost_add(struct image *img, const struct policy_cost *cost)
{
	const uint64_t *from = (const uint64_t *)cost;

	for (unsigned i = 0; i < POLICY_COUNTERS; i++)
		if (from[i])
			atomic_fetch_add_explicit(&img->cost[i], from[i], memory_order_relaxed);
}

void store_policy_cost(struct image *img, struct policy_cost *ret_cost)
{
	uint64_t *to = (uint64_t *)ret_cost;

	for (unsigned i = 0; i < POLICY_COUNTERS; i++)
		to[i] = atomic_load_explicit(&img->cost[i], memory_order_relaxed);
}
