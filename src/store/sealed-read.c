/*
 * sealed-read.c - an encrypted snapshot as it is stored, without its key
 *
 * The nodes of a snapshot never change and are not deleted while a handle of it is open, so they are
 * read from the metadata store by their ids, side by side with those of the base: where both have the
 * same id, all below is the same.  The cache is passed by: it holds decoded nodes.
 *
 * Segments are copied from their files, each held by a reference while it is read; one that goes
 * meanwhile held nothing live, and is left out.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/log.h"
#include "store/map-private.h"
#include "store/sealed.h"
#include "store/snapshot.h"
#include "store/store-priv.h"

#define ROWS_BATCH 64u

struct sealed_read {
	struct store *store;
	/* [0] base, [1] what is told; handles keep nodes and chunks. */
	struct image *images[2];
	struct snapshot_row rows[2];
	uint64_t first_segment;
	struct sealed_info info;
	/* sealed_items() */
	uint32_t from;
	sealed_item_fn *fn;
	void *arg;
};

/* --- opening --- */

static int side_open(struct sealed_read *sr, unsigned side, uint64_t id)
{
	int r = store_image_open(sr->store, snapshot_image(id), &sr->images[side]);

	if (r == 0)
		r = store_snapshot_get(sr->store, id, &sr->rows[side]);
	if (r == 0 && !sr->rows[side].root)
		sr->rows[side].height = 0;
	return r;
}

typedef int row_fn(struct sealed_read *sr, const struct segment_row *row, void *arg);

static int rows_each(struct sealed_read *sr, uint64_t after, row_fn *fn, void *arg)
{
	struct segment_row rows[ROWS_BATCH];
	unsigned n;
	int r = 0;

	while (r == 0 && (n = segments_list(sr->store->segments, after, rows, ROWS_BATCH))) {
		for (unsigned i = 0; r == 0 && i < n; i++)
			if (rows[i].domain == sr->info.domain &&
			        rows[i].created_txg <= sr->rows[1].txg)
				r = fn(sr, &rows[i], arg);
		after = rows[n - 1].id;
	}
	return r;
}

/* The last one created by the time of the base: the one that may have been appended to since. */
static int note_first(struct sealed_read *sr, const struct segment_row *row, void *arg)
{
	(void)arg;
	if (sr->images[0] && row->created_txg <= sr->rows[0].txg)
		sr->first_segment = row->id;
	return 0;
}

static int note_sum(struct sealed_read *sr, const struct segment_row *row, void *arg)
{
	(void)arg;
	if (row->id >= sr->first_segment) {
		sr->info.segments++;
		sr->info.segment_bytes += row->bytes;
	}
	return 0;
}

static int info_fill(struct sealed_read *sr)
{
	memcpy(sr->info.uuid, sr->store->uuid, sizeof(sr->info.uuid));
	sr->info.domain = sr->rows[1].domain;
	if (sr->info.domain == 0)
		return sr->rows[1].root ? -EXDEV : 0;
	int r = rows_each(sr, 0, note_first, NULL);
	if (r == 0)
		r = rows_each(sr, 0, note_sum, NULL);
	return r;
}

int sealed_read_open(struct store *s, uint64_t snapshot, uint64_t base, struct sealed_read **ret_sr)
{
	struct sealed_read *sr = calloc(1, sizeof(*sr));

	if (!sr)
		return -ENOMEM;
	sr->store = s;
	int r = side_open(sr, 1, snapshot);
	if (r == 0 && base)
		r = side_open(sr, 0, base);
	if (r == 0 && base && sr->rows[0].root && sr->rows[0].domain != sr->rows[1].domain)
		r = -EXDEV;
	if (r == 0)
		r = info_fill(sr);
	if (r < 0) {
		sealed_read_close(sr);
		return r;
	}
	*ret_sr = sr;
	return 0;
}

void sealed_read_close(struct sealed_read *sr)
{
	if (!sr)
		return;
	store_image_close(sr->images[0]);
	store_image_close(sr->images[1]);
	free(sr);
}

void sealed_read_info(const struct sealed_read *sr, struct sealed_info *ret_info)
{
	*ret_info = sr->info;
}

/* --- the map --- */

/* Ids of a subtree's root on both sides; [0] base. */
struct pair {
	uint64_t ids[2];
};

/* Two inner nodes, and a blob. */
struct work {
	uint64_t values[2][LEAF_CHUNKS];
};

/* The id stands for the whole subtree of this level, and not for a lower root at its left edge. */
static bool is_whole(const struct sealed_read *sr, unsigned side, unsigned level, uint64_t id)
{
	return id == 0 || (id == MAP_NODE_ALL_ZERO && level < sr->rows[side].height);
}

static bool is_same(const struct sealed_read *sr, unsigned level, const struct pair *p)
{
	if (p->ids[0] != p->ids[1] || !map_is_marker(p->ids[0]))
		return p->ids[0] == p->ids[1];
	return is_whole(sr, 0, level, p->ids[0]) && is_whole(sr, 1, level, p->ids[1]);
}

static int damaged(uint64_t id)
{
	log_error("map node %" PRIu64 " of a snapshot is damaged or cannot be read", id);
	return -EIO;
}

static int inner_values(
        struct sealed_read *sr, unsigned side, unsigned level, uint64_t id, uint64_t *ret_values)
{
	struct meta *m = sr->store->cfg.meta;
	uint8_t blob[NODE_BLOB_MAX];
	struct map_node node;
	size_t len = 0;

	memset(ret_values, 0, LEAF_CHUNKS * sizeof(*ret_values));
	if (level >= sr->rows[side].height) { /* above the root: it stands at the left edge */
		ret_values[0] = id;
		return 0;
	}
	if (map_is_marker(id)) {
		for (unsigned i = 0; i < LEAF_CHUNKS; i++)
			ret_values[i] = id;
		return 0;
	}
	if (m->ops->node_get(m, id, blob, sizeof(blob), &len) < 0 ||
	        map_node_decode(blob, len, id, &node) < 0 || node.level != level)
		return damaged(id);
	memcpy(ret_values, node.values, sizeof(node.values));
	return 0;
}

static int leaf_tell(struct sealed_read *sr, uint32_t index, uint64_t id)
{
	struct meta *m = sr->store->cfg.meta;
	uint8_t blob[NODE_BLOB_MAX];
	struct map_node node;
	size_t len = 0;

	if (m->ops->node_get(m, id, blob, sizeof(blob), &len) < 0)
		return damaged(id);
	const int r = map_node_decode(blob, len, id, &node);
	if (r < 0 && r != -ENOKEY)
		return damaged(id);
	if (r == 0 || node.domain != sr->info.domain || node.foreign)
		return -EXDEV;
	const struct sealed_item item = {SEALED_LEAF, index, 1, id, blob, len};
	return sr->fn(sr->arg, &item);
}

/* All of the subtree is a hole or zeros now; what lies before `from` is left out. */
static int range_tell(struct sealed_read *sr, unsigned level, uint32_t index, uint64_t id)
{
	const uint64_t n = 1ull << LEAF_SHIFT * level,
	               first = (uint64_t)index << LEAF_SHIFT * level;
	const uint64_t start = MAX(first, (uint64_t)sr->from);
	const struct sealed_item item = {
	        .kind = id ? SEALED_ZERO : SEALED_HOLE,
	        .first = (uint32_t)start,
	        .n = (uint32_t)(first + n - start),
	};
	return sr->fn(sr->arg, &item);
}

static int pair_tell(struct sealed_read *sr, unsigned level, uint32_t index, const struct pair *p);

static int inner_tell(struct sealed_read *sr, unsigned level, uint32_t index, const struct pair *p)
{
	CLEANUP(free_ptr) struct work *w = malloc(sizeof(*w));
	int r = w ? 0 : -ENOMEM;

	for (unsigned side = 0; r == 0 && side < 2; side++)
		r = inner_values(sr, side, level, p->ids[side], w->values[side]);
	for (unsigned i = 0; r == 0 && i < LEAF_CHUNKS; i++) {
		const struct pair child = {{w->values[0][i], w->values[1][i]}};
		r = pair_tell(sr, level - 1, (index << LEAF_SHIFT) + i, &child);
	}
	return r;
}

static int pair_tell(struct sealed_read *sr, unsigned level, uint32_t index, const struct pair *p)
{
	const uint64_t end = ((uint64_t)index + 1) << LEAF_SHIFT * level;

	if (end <= sr->from || is_same(sr, level, p))
		return 0;
	if (sr->store->stopping)
		return -EINTR;
	if (is_whole(sr, 1, level, p->ids[1]))
		return range_tell(sr, level, index, p->ids[1]);
	return level ? inner_tell(sr, level, index, p) : leaf_tell(sr, index, p->ids[1]);
}

int sealed_items(struct sealed_read *sr, uint32_t from, sealed_item_fn *fn, void *arg)
{
	const unsigned height = MAX(sr->rows[0].height, sr->rows[1].height);
	const struct pair roots = {{sr->rows[0].root, sr->rows[1].root}};

	sr->from = from;
	sr->fn = fn;
	sr->arg = arg;
	return height ? pair_tell(sr, height - 1, 0, &roots) : 0;
}

/* --- segments --- */

struct segment_tell {
	uint8_t *buf; /* SEGMENT_BYTES_MAX, aligned; owned */
	sealed_segment_fn *fn;
	void *arg;
};

static int segment_tell(struct sealed_read *sr, const struct segment_row *listed, void *arg)
{
	struct segment_tell *t = arg;
	struct segment_row row;

	if (listed->id < sr->first_segment)
		return 0;
	if (sr->store->stopping)
		return -EINTR;
	const int r = segments_copy(sr->store->segments, listed->id, t->buf, &row);
	if (r == -ESTALE)
		return 0;
	return r < 0 ? r
	             : t->fn(t->arg, &row, t->buf + SEGMENT_HEADER_LEN,
	                       row.bytes - SEGMENT_HEADER_LEN);
}

int sealed_segments(struct sealed_read *sr, uint64_t after, sealed_segment_fn *fn, void *arg)
{
	CLEANUP(free_ptr) uint8_t *buf = aligned_alloc(IO_ALIGN, SEGMENT_BYTES_MAX);
	struct segment_tell t = {buf, fn, arg};

	if (!buf)
		return -ENOMEM;
	return sr->info.domain ? rows_each(sr, after, segment_tell, &t) : 0;
}
