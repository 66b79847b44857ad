/*
 * sealed-flag.h - what is known of an image that was received sealed
 *
 * Row RECORD_FLAG (owner: inode, id SEALED_FLAG), JSON; goes with the inode.  The content of such a file, the
 * *holder*, is not an image but what came of raw streams (src/stream/RAW.md), byte for byte as a sender writes
 * them: it does not open, for anybody.
 *
 *	{"domain": crypto domain of this datastore that has its data key, "parts": [{"len": bytes of content,
 *	"whole": the stream ended as it should, "guid", "guid_from", "snapshot"}]}
 *
 * Parts follow each other in the content.  One that is not whole was cut off, and the next one, if there is any,
 * goes on with it: same guids.  Content behind the last part is of a stream that was being received when the
 * daemon died.
 */
#pragma once

#include "base/compiler.h"
#include "stream/stream.h"

#define SEALED_FLAG      5u /* id of the row */
#define SEALED_PARTS_MAX 4096u

struct sealed_part {
	uint64_t len;
	bool whole;
	uint8_t guid[STREAM_GUID_LEN], guid_from[STREAM_GUID_LEN];
	char snapshot[128];
};

struct sealed_flag {
	uint32_t domain;
	struct sealed_part *parts; /* owned */
	size_t n;
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
