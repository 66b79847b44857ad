/*
 * report.h - what the tools show, as JSON built from an open datastore
 *
 * Used by the daemon for its control socket and by the tools on a datastore that is not mounted,
 * so both say the same.  Keys are stable; bytes are integers.
 */
#pragma once

#include <jansson.h>

#include "fs/datastore.h"

/*
 * {"datastore","uuid","total": {logical_bytes, written_bytes, zero_bytes, hole_bytes, unique_bytes,
 * live_bytes, stored_bytes, metadata_bytes, dedupe_ratio, compression_ratio, total_ratio, segments,
 * segments_open, live_share, ...}, "receiving": {images, size_bytes, allocated_bytes}, "memory": {...}, "activity": {...}, "images": [{path, inode,
 * size_bytes, written_bytes, zero_bytes, unique_bytes, shared_bytes}]} paths: NULL or n paths
 * relative to the top: only these images (and exact counts for them).
 */
int report_stats(struct datastore *ds, const char *const *paths, size_t n, gc_progress_fn *fn,
        void *arg, json_t **ret_json, struct errmsg *em) MUST_CHECK;
/* {"images": [{path, inode, size_bytes, allocated_bytes, unique_bytes, shared_bytes}]} exact. */
int report_images(struct datastore *ds, gc_progress_fn *fn, void *arg, json_t **ret_json,
        struct errmsg *em) MUST_CHECK;
/* {"mounted", "mountpoint", "pid", "uptime_seconds", "dirty_bytes", "log_used_bytes", "log_bytes",
 * "last_commit", "health", "health_text", "receiving", ...} */
int report_status(struct datastore *ds, const char *mountpoint, json_t **ret_json,
        struct errmsg *em) MUST_CHECK;
/*
 * Sets "receiving" of a status: what receive_list (fs/stream/receive.h) says; m knows what is
 * under way, NULL: nobody is.  null where the metadata cannot be read.
 */
struct manager;
int report_receiving(
        struct datastore *ds, struct manager *m, json_t *status, struct errmsg *em) MUST_CHECK;
