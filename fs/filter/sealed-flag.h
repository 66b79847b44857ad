/*
 * sealed-flag.h - what is known of an image that was received sealed, and of one that it is being opened into
 *
 * Row RECORD_FLAG (owner: inode, id SEALED_FLAG), JSON; goes with the inode.  Two kinds:
 *
 *	holder   its content is not an image but what came of raw streams (src/stream/RAW.md), byte for byte: it does
 *	         not open.  {"domain": crypto domain of this datastore that has its data key, "parts": [{"len": bytes
 *	         of content, "whole": the stream ended as it should, "guid", "guid_from", "snapshot"}],
 *	         "opening": inode of the other kind, or 0, "done": parts that are snapshots of it, "leaf": leaves of the
 *	         part that is being opened which are in place}
 *	opening  the image that a holder becomes (fs/stream/raw-open.c): {"holder": inode, "ready": bool}.  It does
 *	         not open before it is ready; then it takes the holder's name.
 *
 * Parts follow each other in the holder's content.  One that is not whole was cut off, and the next one, if there
 * is any, goes on with it: same guids.
 */
#pragma once

#include "base/compiler.h"
#include "stream/stream.h"

#define SEALED_FLAG      2u /* id of the row */
#define SEALED_PARTS_MAX 4096u

struct sealed_part {
	uint64_t len;
	bool whole;
	uint8_t guid[STREAM_GUID_LEN], guid_from[STREAM_GUID_LEN];
	char snapshot[128];
};

struct sealed_flag {
	uint32_t domain;           /* 0: it is the other kind */
	struct sealed_part *parts; /* owned */
	size_t n;
	uint64_t opening;
	uint32_t done, leaf;
	/* The other kind. */
	uint64_t holder;
	bool ready;
};

void sealed_flag_release(struct sealed_flag *f);
char *sealed_flag_encode(const struct sealed_flag *f); /* malloc'ed; NULL: no memory */
/* Any bytes.  -EUCLEAN, -ENOMEM. */
int sealed_flag_decode(const void *value, size_t len, struct sealed_flag *ret_f) MUST_CHECK;

struct ns;
/* -ENOENT: it has none; -EUCLEAN. */
int sealed_flag_get(struct ns *ns, uint64_t ino, struct sealed_flag *ret_f) MUST_CHECK;
/* Inside the gate. */
int sealed_flag_put(struct ns *ns, uint64_t ino, const struct sealed_flag *f) MUST_CHECK;
/* Bytes of content that are spoken for. */
uint64_t sealed_flag_bytes(const struct sealed_flag *f);
