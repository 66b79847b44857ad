/*
 * guid.h - what a snapshot of an image is called over datastores (src/stream/FORMAT.md)
 *
 * Of one that was received it is what the sender called it, so that chains of incrementals, and
 * sending on from a receiver, fit; else it follows from where it was made.
 */
#pragma once

#include "fs/datastore.h"
#include "fs/snapshot/records.h"
#include "stream/stream.h"

int snapshot_guid(struct datastore *ds, const struct snapshot_image *si,
        uint8_t ret_guid[STREAM_GUID_LEN]) MUST_CHECK;
