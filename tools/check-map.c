/*
 * check-map.c - the tree of every image and snapshot, node by node
 *
 * Recursion is at most as deep as a tree is high (4); the blob in work is decoded before its
 * children are read, so there is one buffer.  A tree is walked once for each batch of segments;
 * findings about its structure are made in the first walk only.  Of a snapshot, what another tree has
 * led to already is not walked again; its counters are compared when all of it was walked.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "store/map.h"
#include "store/snapshot.h"
#include "tools/check.h"

#define TREE_HEIGHT_MAX 4u

struct walk {
	struct check *c;
	const struct image_row *row;
	bool snapshot;      /* row is made of a snapshot's */
	bool whole;         /* check structure too */
	bool incomplete;    /* some part could not be read: counters cannot be judged */
	uint64_t end_chunk; /* size of the file, rounded up */
	uint64_t data_chunks, zero_chunks;
	uint64_t nodes_walked;
	struct progress progress;
	char path[PATH_MAX];
};

static uint64_t chunks_below(unsigned level)
{
	return 1ull << (8 * level);
}

static void range_add(struct walk *w, enum finding_kind kind, enum finding_severity severity,
        uint64_t first_chunk, uint64_t chunks, uint64_t segment, uint64_t slot, const char *text)
{
	const struct finding range = {
	        .kind = kind,
	        .severity = severity,
	        .image = w->row->image,
	        .offset = first_chunk * CHUNK_SIZE,
	        .length = chunks * CHUNK_SIZE,
	        .segment = segment,
	        .slot = slot,
	        .text = (char *)text,
	};
	finding_add_range(&w->c->findings, &range, w->path);
}

/* Why an entry cannot be read, or NULL when it can. */
static const char *entry_problem(const struct check_segment *seg, uint64_t entry)
{
	const unsigned slot = loc_slot(entry_loc(entry));

	if (!seg)
		return "lost: the segment it is in does not exist";
	if (seg->problems & PROBLEM_NO_FILE)
		return "lost: the segment's file is missing";
	if (!seg->loaded)
		return NULL;
	if (slot >= seg->n_slots || !(seg->slots[slot] & (SLOT_IS_PRESENT | SLOT_IS_DAMAGED)))
		return "lost: the segment has no such slot";
	if (seg->slots[slot] & SLOT_IS_DAMAGED)
		return "lost: the content is damaged";
	if ((seg->slots[slot] & SLOT_CHECK_MASK) != entry_check(entry))
		return "lost: the map points to other content";
	return NULL;
}

static void entry_check_data(struct walk *w, uint64_t chunk, uint64_t entry)
{
	const uint64_t id = loc_segment(entry_loc(entry));
	const unsigned slot = loc_slot(entry_loc(entry));
	struct check_segment *seg = check_table_find(&w->c->table, id);
	const char *problem = entry_problem(seg, entry);

	/* Said once: what has no slots to look at belongs to no batch. */
	if (problem && (w->whole || (seg && seg->loaded))) {
		const bool damaged = seg && seg->loaded && slot < seg->n_slots &&
		                     (seg->slots[slot] & SLOT_IS_DAMAGED);
		range_add(w, damaged ? FINDING_CHUNK : FINDING_MAP, SEVERITY_LOSS, chunk, 1, id,
		        slot, problem);
	}
	if (seg && seg->loaded && slot < seg->n_slots && !(seg->slots[slot] & SLOT_IS_REFERENCED)) {
		seg->slots[slot] |= SLOT_IS_REFERENCED;
		w->c->sum.referenced_chunks++;
	}
}

static void leaf_check(struct walk *w, const struct map_node *n, uint64_t first_chunk)
{
	for (unsigned i = 0; i < LEAF_CHUNKS; i++) {
		const uint64_t entry = n->values[i];

		if (entry_state(entry) == ENTRY_ZERO)
			w->zero_chunks++;
		if (entry_state(entry) != ENTRY_DATA)
			continue;
		w->data_chunks++;
		if (w->whole && first_chunk + i >= w->end_chunk)
			range_add(w, FINDING_PAST_END, SEVERITY_ERROR, first_chunk + i, 1,
			        FINDING_NONE, FINDING_NONE, "data beyond the end of the file");
		entry_check_data(w, first_chunk + i, entry);
	}
}

static uint64_t *node_find(struct check *c, uint64_t id)
{
	size_t lo = 0, hi = c->n_nodes;

	while (lo < hi) {
		const size_t mid = lo + (hi - lo) / 2;
		const uint64_t at = c->nodes[mid] & ~(NODE_SEEN | NODE_WALKED);
		if (at == id)
			return &c->nodes[mid];
		if (at < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

/* Birth, level and place of a node that could be decoded. */
static void node_check(struct walk *w, uint64_t id, const struct map_node *n, uint64_t first_chunk)
{
	struct check *c = w->c;
	uint64_t *seen = node_find(c, id);
	char text[128];

	if (n->birth_txg > c->state.txg) {
		snprintf(text, sizeof(text),
		        "map node %llu is of transaction group %llu, the last one is %llu",
		        (unsigned long long)id, (unsigned long long)n->birth_txg,
		        (unsigned long long)c->state.txg);
		range_add(w, FINDING_TREE, SEVERITY_ERROR, first_chunk, chunks_below(n->level + 1),
		        FINDING_NONE, FINDING_NONE, text);
	}
	if (seen && (*seen & NODE_SEEN) && n->birth_txg > w->row->snap_epoch) {
		snprintf(text, sizeof(text), "map node %llu is used in two places",
		        (unsigned long long)id);
		range_add(w, FINDING_TREE, SEVERITY_ERROR, first_chunk, chunks_below(n->level + 1),
		        FINDING_NONE, FINDING_NONE, text);
	}
	if (seen)
		*seen |= NODE_SEEN;
}

static void node_lost(
        struct walk *w, uint64_t id, unsigned level, uint64_t first_chunk, const char *why)
{
	char text[128];

	w->incomplete = true;
	w->c->incomplete = true;
	if (!w->whole)
		return;
	snprintf(text, sizeof(text), "lost: map node %llu %s", (unsigned long long)id, why);
	range_add(w, FINDING_NODE, SEVERITY_LOSS, first_chunk, chunks_below(level + 1),
	        FINDING_NONE, FINDING_NONE, text);
	uint64_t *seen = node_find(w->c, id);
	if (seen)
		*seen |= NODE_SEEN;
}

/* A leaf whose key is not there: where it is and when it was born can be checked, no more. */
static void leaf_locked(struct walk *w, uint64_t id, const struct map_node *n, uint64_t first_chunk)
{
	w->incomplete = true;
	check_locked_refs(w->c, n->domain, n->foreign);
	if (!w->whole)
		return;
	w->c->sum.locked_leaves++;
	node_check(w, id, n, first_chunk);
}

/* Reads and decodes; false when it is lost or locked, which has been reported. */
static bool node_read(struct walk *w, uint64_t id, unsigned level, uint64_t first_chunk,
        struct map_node *ret_node)
{
	static uint8_t blob[NODE_BLOB_MAX];
	struct check *c = w->c;
	struct map_node n;
	size_t len = 0;
	int r = c->meta->ops->node_get(c->meta, id, blob, sizeof(blob), &len);
	const char *why = r == -ENOENT ? "does not exist" : r < 0 ? "cannot be read" : NULL;

	if (!why) {
		r = map_node_decode(blob, len, id, &n);
		if (r == -ENOKEY)
			r = check_leaf_unseal(c, blob, len, id, n.domain, &n);
		if (r < 0 && r != -ENOKEY)
			why = "is damaged";
		else if (n.level != level)
			why = "is of another level";
	}
	if (why) {
		node_lost(w, id, level, first_chunk, why);
		return false;
	}
	if (r == -ENOKEY) {
		leaf_locked(w, id, &n, first_chunk);
		return false;
	}
	*ret_node = n;
	return true;
}

static void tree_walk(struct walk *w, uint64_t id, unsigned level, uint64_t first_chunk)
{
	struct map_node n;

	if (id == 0)
		return;
	if (id == MAP_NODE_ALL_ZERO) {
		w->zero_chunks += chunks_below(level + 1);
		return;
	}
	uint64_t *walked = node_find(w->c, id);
	if (w->snapshot && walked && (*walked & NODE_WALKED)) {
		w->incomplete = true;
		return;
	}
	if (walked)
		*walked |= NODE_WALKED;
	progress_update(&w->progress, w->nodes_walked++, w->c->n_nodes);
	if (!node_read(w, id, level, first_chunk, &n))
		return;
	if (w->whole)
		node_check(w, id, &n, first_chunk);
	if (level == 0) {
		leaf_check(w, &n, first_chunk);
		return;
	}
	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		tree_walk(w, n.values[i], level - 1, first_chunk + i * chunks_below(level));
}

static int counters_check(struct walk *w)
{
	struct repair_list *fix = &w->c->fix;
	const struct image_row *row = w->row;

	if (w->incomplete ||
	        (row->data_chunks == w->data_chunks && row->zero_chunks == w->zero_chunks))
		return 0;
	struct finding *fi = finding_add(&w->c->findings, FINDING_COUNTERS, SEVERITY_ERROR,
	        "counters say %llu data and %llu zero chunks, the map holds %llu and %llu",
	        (unsigned long long)row->data_chunks, (unsigned long long)row->zero_chunks,
	        (unsigned long long)w->data_chunks, (unsigned long long)w->zero_chunks);
	fi->image = row->image;
	if (fi->text)
		fi->path = strdup(w->path);
	if (!w->c->repair || w->snapshot)
		return 0;
	if (array_reserve(&fix->images, fix->n_images, &fix->images_cap, sizeof(*fix->images)) < 0)
		return -ENOMEM;
	fix->images[fix->n_images] = *row;
	fix->images[fix->n_images].data_chunks = w->data_chunks;
	fix->images[fix->n_images++].zero_chunks = w->zero_chunks;
	finding_mark_repaired(&w->c->findings, fi);
	return 0;
}

/* The file of the image: its size bounds the tree. */
static void image_check_inode(struct walk *w)
{
	struct ns_inode inode;
	const int r = ns_inode_get(w->c->ns, w->row->image, &inode);

	w->end_chunk = IMAGE_CHUNKS_MAX;
	if (r == 0 && S_ISREG(inode.mode)) {
		w->end_chunk = DIV_UP(inode.size, (uint64_t)CHUNK_SIZE);
		return;
	}
	if (!w->whole)
		return;
	struct finding *fi = finding_add(&w->c->findings, FINDING_IMAGE, SEVERITY_ERROR,
	        r == 0 ? "content belongs to what is not a regular file"
	               : "content without a file: no name leads to it");
	fi->image = w->row->image;
}

static bool image_row_valid(const struct image_row *row)
{
	return row->height <= TREE_HEIGHT_MAX && (row->root == 0) == (row->height == 0);
}

static int image_check(void *arg, const struct image_row *row)
{
	struct walk *w = arg;

	w->row = row;
	w->incomplete = false;
	w->data_chunks = w->zero_chunks = 0;
	check_path(w->c, row->image, w->path, sizeof(w->path));
	image_check_inode(w);
	if (w->whole)
		w->c->sum.images++;
	if (!image_row_valid(row)) {
		w->c->incomplete = true;
		if (w->whole)
			finding_add(&w->c->findings, FINDING_IMAGE, SEVERITY_LOSS,
			        "the map's root is not valid: all content is lost")
			        ->image = row->image;
		return 0;
	}
	if (row->height)
		tree_walk(w, row->root, row->height - 1, 0);
	if (!w->whole)
		return 0;
	w->c->sum.data_chunks += w->data_chunks;
	w->c->sum.zero_chunks += w->zero_chunks;
	return counters_check(w);
}

/* As an image's, but that it has no file, and may share all of its nodes. */
static int snapshot_check(void *arg, const struct snapshot_row *row)
{
	struct walk *w = arg;
	const struct image_row as_image = {.image = row->image,
	        .root = row->root,
	        .height = row->height,
	        .data_chunks = row->data_chunks,
	        .zero_chunks = row->zero_chunks,
	        .snap_epoch = row->txg};

	w->row = &as_image;
	w->incomplete = false;
	w->data_chunks = w->zero_chunks = 0;
	w->end_chunk = IMAGE_CHUNKS_MAX;
	snprintf(w->path, sizeof(w->path), "snapshot %llu.%llu",
	        (unsigned long long)snapshot_set(row->id),
	        (unsigned long long)(row->id - snapshot_id(snapshot_set(row->id), 0)));
	if (w->whole)
		w->c->sum.snapshots++;
	if (!image_row_valid(&as_image)) {
		w->c->incomplete = true;
		if (w->whole)
			finding_add(&w->c->findings, FINDING_IMAGE, SEVERITY_LOSS,
			        "%s: the map's root is not valid: all content is lost", w->path)
			        ->image = row->image;
		return 0;
	}
	if (row->height)
		tree_walk(w, row->root, row->height - 1, 0);
	return w->whole ? counters_check(w) : 0;
}

static int trees_each(struct walk *w)
{
	struct meta *m = w->c->meta;
	int r = m->ops->image_each(m, image_check, w);

	w->snapshot = true;
	return r == 0 ? m->ops->snapshot_each(m, snapshot_check, w) : r;
}

int check_images(struct check *c, bool whole)
{
	struct walk w = {.c = c, .whole = whole};

	for (size_t i = 0; i < c->n_nodes; i++)
		c->nodes[i] &= ~NODE_WALKED;
	progress_begin(&w.progress, "checking images", PROGRESS_PARTS);
	const int r = trees_each(&w);
	progress_end(&w.progress);
	if (r == 0 || r == -ENOMEM)
		return r;
	c->incomplete = true;
	if (whole)
		finding_add(&c->findings, FINDING_METADATA, SEVERITY_LOSS,
		        "not all images and snapshots can be read from meta.db: %s", strerror(-r));
	return 0;
}

static int node_collect(void *arg, uint64_t id)
{
	struct check *c = arg;

	if (array_reserve(&c->nodes, c->n_nodes, &c->nodes_cap, sizeof(*c->nodes)) < 0)
		return -ENOMEM;
	c->nodes[c->n_nodes++] = id;
	return 0;
}

int check_nodes_read(struct check *c)
{
	const int r = c->meta->ops->node_each(c->meta, 1, MAP_NODE_MAX, node_collect, c);

	if (r == -ENOMEM)
		return r;
	if (r < 0)
		finding_add(&c->findings, FINDING_METADATA, SEVERITY_LOSS,
		        "not all map nodes can be read from meta.db: %s", strerror(-r));
	c->sum.nodes = c->n_nodes;
	const uint64_t last = c->n_nodes ? c->nodes[c->n_nodes - 1] : 0;
	if (last < c->state.next_node)
		return 0;
	struct finding *fi = finding_add(&c->findings, FINDING_STATE, SEVERITY_ERROR,
	        "the next map node is said to be %llu, but %llu is in use",
	        (unsigned long long)c->state.next_node, (unsigned long long)last);
	if (c->repair) {
		c->fix.state.next_node = last + 1;
		c->fix.state_changed = true;
		finding_mark_repaired(&c->findings, fi);
	}
	return 0;
}

void check_nodes_report(struct check *c)
{
	uint64_t unseen = 0;

	for (size_t i = 0; i < c->n_nodes; i++)
		unseen += !(c->nodes[i] & NODE_SEEN);
	if (unseen && !c->incomplete)
		finding_add(&c->findings, FINDING_ORPHAN_NODE, SEVERITY_NOTE,
		        "%llu map nodes belong to no image or snapshot (weir gc removes them)",
		        (unsigned long long)unseen);
}
