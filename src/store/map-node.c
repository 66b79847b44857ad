/*
 * map-node.c - the bytes of a map node
 *
 * Pure encode and decode; no I/O, no allocation, any thread.  FORMAT.md describes the bytes.
 *
 * A leaf is kept as runs, because what is written together lies together: 1 MiB written in one go
 * is a few runs of consecutive slots, and the 12 bits of hash that each chunk keeps are all that
 * cannot be derived.  Leaves full of scattered duplicates would grow by that and are kept raw.
 *
 * A leaf of an image in a crypto domain is sealed: what it says about content is ciphertext, what
 * the collector, check and a deletion need without the key (level, birth, domain, whether segments
 * of other domains are referred to) is not.  All of that, and the node's id, is authenticated.  The
 * length stays visible, and with it about how scattered the leaf's chunks are.
 *
 * Nothing here trusts the checksum: it tells damage, not malice or our own mistakes, so each run,
 * entry and id is checked as well.  What map_node_decode accepts, the rest of the engine may use as
 * it is.
 */
#include <errno.h>

#include "base/bytes.h"
#include "store/map.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define NODE_VERSION     1
#define NODE_HEADER_LEN  12 /* version, kind, level, 0, birth txg */
#define NODE_TRAILER_LEN 8  /* checksum */
#define NODE_LEVEL_MAX   3
#define NODE_BITMAP_LEN  (LEAF_CHUNKS / 8)
#define NODE_RAW_LEN     (LEAF_CHUNKS * 8)
#define RUN_LOC_LEN      7
/* A sealed leaf: the header goes on with the domain; the plaintext is a kind and a payload. */
#define SEALED_HEADER_LEN 16
#define SEALED_AAD_LEN    (8 + SEALED_HEADER_LEN)
#define SEALED_PLAIN_MAX  (1 + NODE_RAW_LEN)

enum node_kind { NODE_LEAF_RUNS = 1, NODE_LEAF_RAW = 2, NODE_INNER = 3, NODE_LEAF_SEALED = 4 };
enum { SEALED_FOREIGN = BIT(0) };

_Static_assert(NODE_HEADER_LEN + NODE_BITMAP_LEN + NODE_RAW_LEN + NODE_TRAILER_LEN <= NODE_BLOB_MAX,
        "no node is larger than its buffer");
_Static_assert(
        SEALED_HEADER_LEN + SEALED_PLAIN_MAX + SEAL_OVERHEAD + NODE_TRAILER_LEN <= NODE_BLOB_MAX,
        "nor is a sealed one");

static bool loc_valid(uint64_t loc)
{
	return loc_segment(loc) >= 1 && loc_segment(loc) <= SEGMENT_ID_MAX &&
	       loc_slot(loc) < SEGMENT_SLOTS;
}

static bool entry_valid(uint64_t e)
{
	if (entry_state(e) == ENTRY_DATA)
		return loc_valid(entry_loc(e));
	return e == ENTRY_HOLE || e == ENTRY_ZERO;
}

static bool child_valid(uint64_t id)
{
	return (id >= 1 && id <= MAP_NODE_MAX) || id == MAP_NODE_ALL_ZERO;
}

/* Entries from v[i] on that one run can hold. */
static unsigned run_length(const uint64_t *v, unsigned i)
{
	const uint64_t first = v[i];
	unsigned n = 1;

	if (entry_state(first) != ENTRY_DATA) {
		while (i + n < LEAF_CHUNKS && v[i + n] == first)
			n++;
		return n;
	}
	/* Slot numbers end before the field does, so a location plus n stays in its segment. */
	while (i + n < LEAF_CHUNKS && entry_state(v[i + n]) == ENTRY_DATA &&
	        entry_loc(v[i + n]) == entry_loc(first) + n)
		n++;
	return n;
}

static size_t checks_len(unsigned n)
{
	return DIV_UP((size_t)n * 12, 8);
}

/* Two checks in three bytes, low bits first; the last half byte of an odd number is zero. */
static void checks_encode(const uint64_t *v, unsigned n, uint8_t *p)
{
	for (unsigned i = 0; i < n; i += 2, p += 3) {
		const unsigned a = entry_check(v[i]);
		const unsigned b = i + 1 < n ? entry_check(v[i + 1]) : 0;

		p[0] = (uint8_t)a;
		p[1] = (uint8_t)(a >> 8 | (b & 0xf) << 4);
		if (i + 1 < n)
			p[2] = (uint8_t)(b >> 4);
	}
}

static size_t runs_len(const uint64_t *v)
{
	size_t len = 0;

	for (unsigned i = 0; i < LEAF_CHUNKS;) {
		const unsigned n = run_length(v, i);

		len += 2;
		if (entry_state(v[i]) == ENTRY_DATA)
			len += RUN_LOC_LEN + checks_len(n);
		i += n;
	}
	return len;
}

static uint8_t *runs_encode(const uint64_t *v, uint8_t *p)
{
	for (unsigned i = 0; i < LEAF_CHUNKS;) {
		const unsigned n = run_length(v, i);

		*p++ = (uint8_t)entry_state(v[i]);
		*p++ = (uint8_t)(n - 1);
		if (entry_state(v[i]) == ENTRY_DATA) {
			for (unsigned b = 0; b < RUN_LOC_LEN; b++)
				*p++ = (uint8_t)(entry_loc(v[i]) >> 8 * b);
			checks_encode(v + i, n, p);
			p += checks_len(n);
		}
		i += n;
	}
	return p;
}

static uint8_t *raw_encode(const uint64_t *v, uint8_t *p)
{
	for (unsigned i = 0; i < LEAF_CHUNKS; i++, p += 8)
		put_u64(p, v[i]);
	return p;
}

static uint8_t *inner_encode(const uint64_t *v, uint8_t *p)
{
	uint8_t *bitmap = p;

	memset(bitmap, 0, NODE_BITMAP_LEN);
	p += NODE_BITMAP_LEN;
	for (unsigned i = 0; i < LEAF_CHUNKS; i++) {
		if (!v[i])
			continue;
		bitmap[i / 8] |= (uint8_t)(1 << i % 8);
		put_u64(p, v[i]);
		p += 8;
	}
	return p;
}

/* The payload of a leaf, in the smaller form; *ret_end is behind it. */
static enum node_kind leaf_encode(const uint64_t *v, uint8_t *p, uint8_t **ret_end)
{
	if (runs_len(v) < NODE_RAW_LEN) {
		*ret_end = runs_encode(v, p);
		return NODE_LEAF_RUNS;
	}
	*ret_end = raw_encode(v, p);
	return NODE_LEAF_RAW;
}

static void header_encode(
        const struct map_node *n, enum node_kind kind, unsigned flags, uint8_t *buf)
{
	put_u8(buf, NODE_VERSION);
	put_u8(buf + 1, kind);
	put_u8(buf + 2, (uint8_t)n->level);
	put_u8(buf + 3, (uint8_t)flags);
	put_u64(buf + 4, n->birth_txg);
}

/* Adds the checksum behind what goes up to end; returns the whole length. */
static size_t trailer_encode(uint64_t id, uint8_t *buf, uint8_t *end)
{
	put_u64(end, XXH3_64bits_withSeed(buf, (size_t)(end - buf), id));
	return (size_t)(end - buf) + NODE_TRAILER_LEN;
}

size_t map_node_encode(const struct map_node *n, uint64_t id, uint8_t *buf)
{
	uint8_t *p = buf + NODE_HEADER_LEN;
	enum node_kind kind = NODE_INNER;

	ASSERT(n->level <= NODE_LEVEL_MAX);
	if (n->level > 0)
		p = inner_encode(n->values, p);
	else
		kind = leaf_encode(n->values, p, &p);
	header_encode(n, kind, 0, buf);
	return trailer_encode(id, buf, p);
}

static void sealed_aad(uint64_t id, const uint8_t *header, uint8_t aad[SEALED_AAD_LEN])
{
	put_u64(aad, id);
	memcpy(aad + 8, header, SEALED_HEADER_LEN);
}

int map_node_seal(const struct map_node *n, uint64_t id, const struct seal_key *key, uint8_t *buf,
        size_t *ret_len)
{
	uint8_t plain[SEALED_PLAIN_MAX], aad[SEALED_AAD_LEN];
	uint8_t *end;

	ASSERT(n->level == 0 && n->domain != 0);
	plain[0] = leaf_encode(n->values, plain + 1, &end);
	header_encode(n, NODE_LEAF_SEALED, n->foreign ? SEALED_FOREIGN : 0, buf);
	put_u32(buf + 12, n->domain);
	sealed_aad(id, buf, aad);
	const size_t len = (size_t)(end - plain);
	const int r = seal(key, aad, sizeof(aad), plain, len, buf + SEALED_HEADER_LEN);
	if (r < 0)
		return r;
	*ret_len = trailer_encode(id, buf, buf + SEALED_HEADER_LEN + len + SEAL_OVERHEAD);
	return 0;
}

static int run_data_decode(struct bytes_in *in, unsigned n, uint64_t *values)
{
	const uint8_t *at = bytes_take(in, RUN_LOC_LEN);
	const uint8_t *checks = bytes_take(in, checks_len(n));
	uint64_t loc = 0;

	if (!at || !checks)
		return -EUCLEAN;
	for (unsigned b = 0; b < RUN_LOC_LEN; b++)
		loc |= (uint64_t)at[b] << 8 * b;
	if (!loc_valid(loc) || loc_slot(loc) + n > SEGMENT_SLOTS)
		return -EUCLEAN;
	if (n % 2 && checks[checks_len(n) - 1] >> 4)
		return -EUCLEAN;
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *c = checks + i / 2 * 3;
		const unsigned check = i % 2 ? c[1] >> 4 | c[2] << 4 : c[0] | (c[1] & 0xf) << 8;

		values[i] = entry_data(loc + i, check);
	}
	return 0;
}

static int runs_decode(struct bytes_in *in, uint64_t *values)
{
	unsigned done = 0;

	while (done < LEAF_CHUNKS) {
		const unsigned state = bytes_take_u8(in);
		const unsigned n = bytes_take_u8(in) + 1u;

		if (in->failed || n > LEAF_CHUNKS - done)
			return -EUCLEAN;
		if (state == ENTRY_DATA) {
			const int r = run_data_decode(in, n, values + done);
			if (r < 0)
				return r;
		} else if (state == ENTRY_HOLE || state == ENTRY_ZERO) {
			for (unsigned i = 0; i < n; i++)
				values[done + i] = state;
		} else {
			return -EUCLEAN;
		}
		done += n;
	}
	return 0;
}

static int raw_decode(struct bytes_in *in, uint64_t *values)
{
	for (unsigned i = 0; i < LEAF_CHUNKS; i++) {
		values[i] = bytes_take_u64(in);
		if (!entry_valid(values[i]))
			return -EUCLEAN;
	}
	return 0;
}

static int inner_decode(struct bytes_in *in, uint64_t *values)
{
	const uint8_t *bitmap = bytes_take(in, NODE_BITMAP_LEN);

	if (!bitmap)
		return -EUCLEAN;
	for (unsigned i = 0; i < LEAF_CHUNKS; i++) {
		values[i] = 0;
		if (!(bitmap[i / 8] & 1 << i % 8))
			continue;
		values[i] = bytes_take_u64(in);
		if (!child_valid(values[i]))
			return -EUCLEAN;
	}
	return 0;
}

static int payload_decode(struct bytes_in *in, unsigned kind, unsigned level, uint64_t *values)
{
	int r = -EUCLEAN;

	if (kind == NODE_LEAF_RUNS && level == 0)
		r = runs_decode(in, values);
	else if (kind == NODE_LEAF_RAW && level == 0)
		r = raw_decode(in, values);
	else if (kind == NODE_INNER && level >= 1 && level <= NODE_LEVEL_MAX)
		r = inner_decode(in, values);
	if (r == 0 && (in->failed || in->pos != in->len))
		r = -EUCLEAN;
	return r;
}

/* What a sealed leaf says in the clear; -ENOKEY when all of that is right. */
static int sealed_decode(const uint8_t *p, size_t covered, struct map_node *ret_node)
{
	struct map_node *n = ret_node;

	if (covered <= SEALED_HEADER_LEN + SEAL_OVERHEAD ||
	        covered > SEALED_HEADER_LEN + SEAL_OVERHEAD + SEALED_PLAIN_MAX)
		return -EUCLEAN;
	if (p[2] != 0 || p[3] & ~SEALED_FOREIGN || get_u32(p + 12) == 0)
		return -EUCLEAN;
	n->level = 0;
	n->birth_txg = get_u64(p + 4);
	n->domain = get_u32(p + 12);
	n->foreign = p[3] & SEALED_FOREIGN;
	return -ENOKEY;
}

/* Length, checksum and version; *ret_covered: what comes before the checksum. */
static int blob_check(const uint8_t *p, size_t len, uint64_t id, size_t *ret_covered)
{
	if (len < NODE_HEADER_LEN + NODE_TRAILER_LEN || len > NODE_BLOB_MAX)
		return -EUCLEAN;
	const size_t covered = len - NODE_TRAILER_LEN;
	if (get_u64(p + covered) != XXH3_64bits_withSeed(p, covered, id) || p[0] != NODE_VERSION)
		return -EUCLEAN;
	*ret_covered = covered;
	return 0;
}

int map_node_decode(const void *blob, size_t len, uint64_t id, struct map_node *ret_node)
{
	const uint8_t *p = blob;
	size_t covered;
	int r = blob_check(p, len, id, &covered);

	if (r < 0)
		return r;
	if (p[1] == NODE_LEAF_SEALED)
		return sealed_decode(p, covered, ret_node);
	if (p[3] != 0)
		return -EUCLEAN;

	struct bytes_in in = {.data = p, .len = covered, .pos = NODE_HEADER_LEN};
	struct map_node node = {.level = p[2], .birth_txg = get_u64(p + 4)};
	r = payload_decode(&in, p[1], node.level, node.values);
	if (r < 0)
		return r;
	*ret_node = node;
	return 0;
}

int map_node_unseal(const void *blob, size_t len, uint64_t id, const struct seal_key *key,
        struct map_node *ret_node)
{
	uint8_t plain[SEALED_PLAIN_MAX], aad[SEALED_AAD_LEN];
	const uint8_t *p = blob;
	struct map_node node;
	int r = map_node_decode(blob, len, id, &node);

	if (r != -ENOKEY)
		return r < 0 ? r : -EUCLEAN;
	const size_t sealed_len = len - NODE_TRAILER_LEN - SEALED_HEADER_LEN;
	sealed_aad(id, p, aad);
	r = unseal(key, aad, sizeof(aad), p + SEALED_HEADER_LEN, sealed_len, plain);
	if (r < 0)
		return r == -EBADMSG ? -EUCLEAN : r;
	struct bytes_in in = {.data = plain, .len = sealed_len - SEAL_OVERHEAD, .pos = 1};
	r = payload_decode(&in, plain[0], 0, node.values);
	if (r < 0)
		return r;
	*ret_node = node;
	return 0;
}
