/*
 * guid.c - see guid.h
 */
#include "fs/stream/guid.h"

#include "meta/meta.h"

_Static_assert(SNAPSHOT_GUID_LEN == STREAM_GUID_LEN, "one length");

int snapshot_guid(
        struct datastore *ds, const struct snapshot_image *si, uint8_t ret_guid[STREAM_GUID_LEN])
{
	static const uint8_t none[STREAM_GUID_LEN];
	struct meta_info info;

	if (memcmp(si->guid, none, sizeof(none))) {
		memcpy(ret_guid, si->guid, STREAM_GUID_LEN);
		return 0;
	}
	const int r = meta_info_get(ds->meta, &info);
	return r < 0 ? r : stream_guid(info.uuid, si->key, ret_guid);
}
