/*
 * sealed-open.c - what sealed-read.c told, opened with the key of where it comes from
 *
 * Pure functions on bytes; any thread.  Nothing is taken that is not authentic.  What the checks without a
 * key find (lengths, checksums, slots that do not fit) is found before the key is used.
 */
#include <errno.h>

#include "crypto/kdf.h"
#include "store/sealed.h"

int sealed_leaf_open(const struct crypto_domain *crypto, uint64_t node, const void *blob,
        size_t len, uint64_t ret_entries[LEAF_CHUNKS])
{
	struct map_node n;
	int r = map_node_decode(blob, len, node, &n);

	if (r != -ENOKEY || n.domain != crypto->id)
		return -EUCLEAN;
	if (n.foreign)
		return -EXDEV;
	r = map_node_unseal(blob, len, node, crypto->leaf, &n);
	if (r == 0)
		memcpy(ret_entries, n.values, sizeof(n.values));
	return r;
}

int sealed_slots_find(const uint8_t *frames, size_t len, uint64_t segment, const uint8_t uuid[16],
        struct sealed_slots *ret_slots, unsigned *ret_damaged)
{
	CLEANUP(free_ptr) struct segment_contents *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	if (len > SEGMENT_FRAMES_END_MAX - SEGMENT_HEADER_LEN)
		return -EUCLEAN;
	segment_scan_frames(frames, 0, (uint32_t)len, segment, frame_store(uuid), NULL, NULL, c);
	ret_slots->slots = c->slots;
	memcpy(ret_slots->table, c->table, sizeof(c->table));
	*ret_damaged = c->damaged + (c->strange_bytes > 0);
	return 0;
}

int sealed_frame_open(const struct crypto_domain *crypto, const uint8_t uuid[16], uint64_t segment,
        const uint8_t *frame, size_t len, struct sealed_frame *ret_frame)
{
	CLEANUP(free_ptr) uint8_t *plain = malloc(FRAME_UNPACK_BYTES);
	struct sealed_frame *f = ret_frame;
	struct frame_info info;
	const uint8_t *payload = NULL;
	size_t size = 0;

	if (!plain)
		return -ENOMEM;
	int r = frame_decode(frame, len, segment, &info, &payload, &size);
	if (r < 0 || info.store != frame_store(uuid) || info.key_id != crypto->id)
		return -EUCLEAN;
	r = frame_open(&info, crypto, payload, plain, f->chunks);
	key_wipe(plain, FRAME_UNPACK_BYTES);
	if (r < 0)
		return r;
	f->n = info.n;
	memcpy(f->slots, info.slots, sizeof(f->slots));
	memcpy(f->hashes, info.hashes, sizeof(f->hashes));
	return 0;
}

const uint8_t *sealed_frame_chunk(const struct sealed_frame *f, uint64_t entry)
{
	for (unsigned i = 0; i < f->n; i++)
		if (f->slots[i] == loc_slot(entry_loc(entry)))
			return hash_check(f->hashes[i]) == entry_check(entry)
			               ? f->chunks + (size_t)i * CHUNK_SIZE
			               : NULL;
	return NULL;
}
