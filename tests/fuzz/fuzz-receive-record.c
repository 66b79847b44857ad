/*
 * fuzz-receive-record.c - the record of a hidden image that a stream is received into
 *
 * What decodes is encoded and decoded again, and names nothing that leads out of its directory.
 */
#include <string.h>

#include "fs/stream/receive-private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct receive_record rec, again;

	if (receive_record_decode(9, data, size, &rec) < 0)
		return 0;
	ASSERT(rec.ino == 9 && rec.size <= IMAGE_SIZE_MAX && rec.pos <= IMAGE_SIZE_MAX);
	ASSERT(rec.image || rec.dir);
	ASSERT(!strchr(rec.name, '/') && snapshot_name_good(rec.snapshot));
	char *text = receive_record_encode(&rec);
	ASSERT(text && receive_record_decode(9, text, strlen(text), &again) == 0);
	ASSERT(again.size == rec.size && again.pos == rec.pos && again.dir == rec.dir);
	ASSERT(again.image == rec.image && again.started_ns == rec.started_ns);
	ASSERT(!memcmp(again.guid, rec.guid, sizeof(rec.guid)));
	ASSERT(!memcmp(again.guid_from, rec.guid_from, sizeof(rec.guid_from)));
	ASSERT(!strcmp(again.name, rec.name) && !strcmp(again.snapshot, rec.snapshot));
	free(text);
	return 0;
}
