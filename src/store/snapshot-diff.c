/*
 * snapshot-diff.c - where two maps differ
 *
 * Both trees are walked side by side, from the higher one's root; where the same id stands in both, all that
 * is below is the same.  A node of an open image may be found, by its place, in a newer form than the
 * id that led to it: then that form is compared.
 */
#include <errno.h>

#include "store/map-private.h"
#include "store/snapshot.h"
#include "store/store-priv.h"

/* One of the two; map NULL: empty. */
struct side {
	struct image *
	        held; /* of a snapshot, so that the collector leaves it alone if it is deleted meanwhile */
	struct map *map;
	struct image_row row;
};

struct diff {
	struct side sides[2];
	diff_fn *fn;
	void *arg;
	struct store *store;
	/* The extent that is being gathered, in chunks; n 0: none. */
	uint64_t first, n;
	enum diff_state state;
};

static int extent_tell(struct diff *d)
{
	const uint64_t n = d->n;

	d->n = 0;
	return n ? d->fn(d->arg, d->first * CHUNK_SIZE, n * CHUNK_SIZE, d->state) : 0;
}

static int extent_add(struct diff *d, uint64_t first, uint64_t n, enum diff_state state)
{
	int r = 0;

	if (d->n && (d->first + d->n != first || d->state != state))
		r = extent_tell(d);
	if (r != 0)
		return r;
	if (!d->n) {
		d->first = first;
		d->state = state;
	}
	d->n += n;
	return 0;
}

static enum diff_state entry_diff_state(uint64_t entry)
{
	if (entry == ENTRY_ZERO)
		return DIFF_ZERO;
	return entry == ENTRY_HOLE ? DIFF_HOLE : DIFF_DATA;
}

/* The values of the node at (level, index); what is a hole or zeros as a whole is so in each of them. */
static int side_load(
        struct side *sd, unsigned level, uint32_t index, uint64_t id, uint64_t *ret_values)
{
	struct map_found found = {.id = id};
	struct map_node body;
	int r = 0;

	if (!map_is_marker(id))
		r = map_visit_load(sd->map, level, index, id, &found, &body);
	if (r < 0)
		return r;
	if (!map_is_marker(found.id)) {
		memcpy(ret_values, body.values, sizeof(body.values));
		return 0;
	}
	const uint64_t leaf_value = found.id ? ENTRY_ZERO : ENTRY_HOLE;
	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		ret_values[i] = level ? found.id : leaf_value;
	return 0;
}

static int diff_nodes(struct diff *d, unsigned level, uint32_t index, const uint64_t ids[static 2]);

/* What the side has at this level from the root down: its root may be lower. */
static int side_values(
        struct side *sd, unsigned level, uint32_t index, uint64_t id, uint64_t *ret_values)
{
	if (level < sd->row.height)
		return side_load(sd, level, index, id, ret_values);
	memset(ret_values, 0, LEAF_CHUNKS * sizeof(*ret_values));
	ret_values[0] = id; /* above the root: its tree lies at the left edge */
	return 0;
}

/*
 * The id stands for all of a subtree of this level: not if it is that of a lower root at its left
 * edge, of which the marker for zeros does not tell the level.
 */
static bool is_whole(const struct side *sd, unsigned level, uint64_t id)
{
	return id == 0 || (id == MAP_NODE_ALL_ZERO && level < sd->row.height);
}

/* Nothing below differs. */
static bool same(const struct diff *d, unsigned level, const uint64_t ids[static 2])
{
	if (ids[0] != ids[1] || !map_is_marker(ids[0]))
		return ids[0] == ids[1];
	return is_whole(&d->sides[0], level, ids[0]) && is_whole(&d->sides[1], level, ids[1]);
}

static int diff_values(
        struct diff *d, unsigned level, uint32_t index, const uint64_t *a, const uint64_t *b)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < LEAF_CHUNKS; i++) {
		const uint64_t first = ((uint64_t)index << LEAF_SHIFT) + i;
		const uint64_t ids[2] = {a[i], b[i]};

		if (level ? same(d, level - 1, ids) : a[i] == b[i])
			continue;
		r = level ? diff_nodes(d, level - 1, (uint32_t)first, ids)
		          : extent_add(d, first, 1, entry_diff_state(b[i]));
	}
	return r;
}

/* Different ids; either may be a marker. */
static int diff_nodes(struct diff *d, unsigned level, uint32_t index, const uint64_t ids[static 2])
{
	const unsigned shift = LEAF_SHIFT * (level + 1);
	uint64_t(*values)[LEAF_CHUNKS];
	int r = 0;

	if (is_whole(&d->sides[0], level, ids[0]) && is_whole(&d->sides[1], level, ids[1]))
		return extent_add(
		        d, (uint64_t)index << shift, 1ull << shift, ids[1] ? DIFF_ZERO : DIFF_HOLE);
	if (d->store->stopping)
		return -EINTR;
	values = malloc(2 * sizeof(*values));
	if (!values)
		return -ENOMEM;
	for (unsigned k = 0; r == 0 && k < 2; k++)
		r = side_values(&d->sides[k], level, index, ids[k], values[k]);
	if (r == 0)
		r = diff_values(d, level, index, values[0], values[1]);
	free(values);
	return r;
}

static int side_open(struct store *s, uint64_t image, struct side *sd)
{
	int r = image & SNAPSHOT_BIT ? store_image_open(s, image, &sd->held) : 0;

	if (r == 0 && image)
		r = map_open(s->maps, image, &sd->map);
	if (r == 0 && sd->map)
		map_row(sd->map, &sd->row);
	if (!sd->row.root)
		sd->row.height = 0;
	return r;
}

static int diff_run(struct diff *d)
{
	const uint64_t ids[2] = {d->sides[0].row.root, d->sides[1].row.root};
	const unsigned height = MAX(d->sides[0].row.height, d->sides[1].row.height);
	int r = 0;

	if (height && !same(d, height - 1, ids))
		r = diff_nodes(d, height - 1, 0, ids);
	return r == 0 ? extent_tell(d) : r;
}

int store_diff(struct store *s, uint64_t a, uint64_t b, diff_fn *fn, void *arg)
{
	struct diff d = {.fn = fn, .arg = arg, .store = s};
	const bool committed = (!a || a & SNAPSHOT_BIT) && (!b || b & SNAPSHOT_BIT);
	int r = committed ? 0 : store_sync(s);

	if (r == 0)
		r = side_open(s, a, &d.sides[0]);
	if (r == 0)
		r = side_open(s, b, &d.sides[1]);
	if (r == 0)
		r = diff_run(&d);
	for (unsigned k = 0; k < 2; k++) {
		map_close(d.sides[k].map);
		store_image_close(d.sides[k].held);
	}
	return r;
}
