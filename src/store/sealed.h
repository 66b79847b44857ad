/*
 * sealed.h - a snapshot of an encrypted image as it is stored: read without its key, opened elsewhere
 *
 * Reading (sealed-read.c).  Without the key nobody can tell which chunks a snapshot refers to: its map's
 * leaves are sealed.  So what can be told of it is
 *	- its leaves, as they are, by their place (1 MiB each), those that it has not in common with an
 *	  older snapshot `base`; and ranges that are holes or zeros as a whole;
 *	- all segments of its crypto domain that may hold chunks of it, as they are: a superset, with
 *	  chunks of other images of the domain, and dead ones not collected yet.
 *
 * Which segments.  A slot that a snapshot refers to was assigned in its group or before, so its segment
 * was created by then: created_txg <= snapshot.txg.  Whoever has what was told of `base` has all slots
 * assigned up to base.txg that can ever be referred to again: a slot has one content for ever, and what a
 * rewrite left out was dead.  Slots assigned later are in segments created later, or in the one
 * segment of the domain that took appends then: that is the last of those created by base.txg, for a domain
 * appends to one segment at a time, ids grow, and a segment once closed is never appended to again (after a
 * restart the last open one goes on; segments.c).  Hence: segments with an id at or above that one's.
 *
 * Opening (sealed-open.c), with the key, anywhere.  A domain's keys are derived from its data key, the
 * uuid of the datastore and the domain's number: who has these three, and the bytes, has the content.
 * Leaves authenticate their node id, domain and birth; frames their segment, slots, hashes, and where they
 * came from: no byte of either can be changed, and none taken for another.  What is not authenticated is what
 * is not sealed in the datastore either: at which place of the image a leaf stands.
 *
 * Threads: an object is used by one at a time.
 */
#pragma once

#include "store/keyring.h"
#include "store/map.h"
#include "store/segment-scan.h"
#include "store/store.h"

/* --- reading --- */

struct sealed_read;

struct sealed_info {
	uint8_t uuid[16];
	uint32_t domain; /* of all that is told; 0: there is nothing sealed in it */
	uint64_t segments, segment_bytes; /* that sealed_segments() will tell of, about */
};

/*
 * base 0: all of it.  Ids as in store_snapshot_create(); both must be of one image for the result to be of
 * use.  -ENOENT: no such snapshot; -EXDEV: they are not of one crypto domain.
 */
int sealed_read_open(
        struct store *s, uint64_t snapshot, uint64_t base, struct sealed_read **ret_sr) MUST_CHECK;
void sealed_read_close(struct sealed_read *sr); /* accepts NULL */
void sealed_read_info(const struct sealed_read *sr, struct sealed_info *ret_info);

enum sealed_kind { SEALED_HOLE = 0, SEALED_ZERO = 2, SEALED_LEAF = 3 };
/* n leaves' worth of image from leaf `first` on; blob: of a LEAF, n is 1.  Borrowed until fn returns. */
struct sealed_item {
	enum sealed_kind kind;
	uint32_t first, n;
	uint64_t node;
	const void *blob;
	size_t len;
};
/* Non-zero stops and is returned. */
typedef int sealed_item_fn(void *arg, const struct sealed_item *item);
/*
 * What differs from base, in order, from leaf `from` on.  -EXDEV: something in it is not sealed, or under
 * another key (it was taken before the image was encrypted); -EIO: damage.
 */
int sealed_items(struct sealed_read *sr, uint32_t from, sealed_item_fn *fn, void *arg) MUST_CHECK;

/* Frames of a segment: what its file holds from SEGMENT_HEADER_LEN to row->bytes.  Borrowed. */
typedef int sealed_segment_fn(
        void *arg, const struct segment_row *row, const uint8_t *frames, size_t len);
/* In order of id, those above `after`.  -EIO: one cannot be read. */
int sealed_segments(
        struct sealed_read *sr, uint64_t after, sealed_segment_fn *fn, void *arg) MUST_CHECK;

/* --- opening --- */

/*
 * The entries of a leaf.  crypto: crypto_domain_derive() for where it comes from.  -EUCLEAN: damaged, not
 * authentic, or of another domain; -EXDEV: it refers to segments of other domains.
 */
int sealed_leaf_open(const struct crypto_domain *crypto, uint64_t node, const void *blob,
        size_t len, uint64_t ret_entries[LEAF_CHUNKS]) MUST_CHECK;

/* Where the slots of a segment are in its frames, as sealed_segments() told them. */
struct sealed_slots {
	unsigned slots;
	struct footer_slot table[SEGMENT_SLOTS]; /* frame_pos counts from the first frame */
};
/* Needs no key.  *ret_damaged: frames that do not check, and what is none. */
int sealed_slots_find(const uint8_t *frames, size_t len, uint64_t segment, const uint8_t uuid[16],
        struct sealed_slots *ret_slots, unsigned *ret_damaged) MUST_CHECK;

struct sealed_frame {
	unsigned n;
	uint16_t slots[FRAME_CHUNKS_MAX];
	struct hash128 hashes[FRAME_CHUNKS_MAX];
	uint8_t chunks[FRAME_UNPACK_BYTES];
};
/* -EUCLEAN: damaged, not authentic, of another segment, domain or datastore. */
int sealed_frame_open(const struct crypto_domain *crypto, const uint8_t uuid[16], uint64_t segment,
        const uint8_t *frame, size_t len, struct sealed_frame *ret_frame) MUST_CHECK;
/* The chunk of a map entry in an open frame, NULL: it is not in there. */
const uint8_t *sealed_frame_chunk(const struct sealed_frame *f, uint64_t entry);
