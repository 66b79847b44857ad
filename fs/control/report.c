/*
 * report.c - numbers of an open datastore as JSON
 *
 * The engine counts content as of its last commit; so a report commits first, that what was just
 * copied in shows.  Where that is not possible (read-only, failing disk) the last commit's numbers
 * stand.
 */
#include "fs/control/report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/control/text.h"
#include "fs/stream/receive.h"

#define PATH_CAP 4096

struct image_list {
	struct ns_inode *items; /* owned */
	size_t n, cap;
};

static int image_note(void *arg, const struct ns_inode *inode)
{
	struct image_list *l = arg;

	if (inode->nlink == 0)
		return 0;
	if (l->n == l->cap) {
		const size_t cap = l->cap ? 2 * l->cap : 64;
		struct ns_inode *items = realloc(l->items, cap * sizeof(*items));
		if (!items)
			return -ENOMEM;
		l->items = items;
		l->cap = cap;
	}
	l->items[l->n++] = *inode;
	return 0;
}

static int list_path(
        struct datastore *ds, struct image_list *l, const char *path, struct errmsg *em)
{
	struct ns_inode inode;
	uint64_t ino = 0;
	int r = ns_lookup_path(ds->ns, path, &ino);

	if (!r)
		r = ns_inode_get(ds->ns, ino, &inode);
	if (r < 0)
		return errmsg_set(em, r, "cannot find '%s' in datastore '%s': %s", path, ds->dir,
		        strerror(-r));
	if (!S_ISREG(inode.mode))
		return errmsg_set(em, -EINVAL, "'%s' is not an image", path);
	r = image_note(l, &inode);
	return r < 0 ? errmsg_set(em, r, "out of memory") : 0;
}

/* All images, or those at n paths. */
static int list_fill(struct datastore *ds, struct image_list *l, const char *const *paths, size_t n,
        struct errmsg *em)
{
	int r = 0;

	if (!paths) {
		r = ns_inode_each(ds->ns, NS_REGULAR, image_note, l);
		return r < 0 ? errmsg_set(em, r, "cannot list the images: %s", strerror(-r)) : 0;
	}
	for (size_t i = 0; i < n && !r; i++)
		r = list_path(ds, l, paths[i], em);
	return r;
}

static json_t *path_json(struct datastore *ds, uint64_t ino)
{
	char path[PATH_CAP];

	if (ns_path_of(ds->ns, ino, path, sizeof(path)) < 0)
		snprintf(path, sizeof(path), "(inode %" PRIu64 ")", ino);
	return text_json(path);
}

static json_int_t chunk_bytes(uint64_t chunks)
{
	return (json_int_t)(chunks * CHUNK_SIZE);
}

/* Adds what only an exact count knows. */
static int add_exact(json_t *json, const struct image_stats *is)
{
	if (json_object_set_new(
	            json, "unique_bytes", json_integer(chunk_bytes(is->unique_chunks))) < 0)
		return -ENOMEM;
	return json_object_set_new(
	        json, "shared_bytes", json_integer(chunk_bytes(is->shared_chunks)));
}

static json_t *image_json(struct datastore *ds, const struct ns_inode *inode,
        const struct image_stats *is, bool exact)
{
	json_t *json = json_pack("{s:o, s:I, s:I, s:I, s:I, s:I}", "path",
	        path_json(ds, inode->ino), "inode", (json_int_t)inode->ino, "size_bytes",
	        (json_int_t)inode->size, "allocated_bytes",
	        chunk_bytes(is->data_chunks + is->zero_chunks), "written_bytes",
	        chunk_bytes(is->data_chunks), "zero_bytes", chunk_bytes(is->zero_chunks));

	if (json && exact && add_exact(json, is) < 0) {
		json_decref(json);
		return NULL;
	}
	return json;
}

static json_t *images_build(struct datastore *ds, const struct image_list *l,
        const struct image_stats *stats, bool exact)
{
	json_t *array = json_array();

	for (size_t i = 0; i < l->n && array; i++) {
		if (json_array_append_new(array, image_json(ds, &l->items[i], &stats[i], exact)) <
		        0) {
			json_decref(array);
			array = NULL;
		}
	}
	return array;
}

static int images_json(struct datastore *ds, const char *const *paths, size_t n, bool exact,
        gc_progress_fn *fn, void *arg, json_t **ret_json, struct errmsg *em)
{
	struct image_list l = {0};
	int r = list_fill(ds, &l, paths, n, em);
	uint64_t *ids = calloc(l.n + 1, sizeof(*ids));
	struct image_stats *stats = calloc(l.n + 1, sizeof(*stats));

	if (!r && (!ids || !stats))
		r = errmsg_set(em, -ENOMEM, "out of memory");
	for (size_t i = 0; i < l.n && !r; i++)
		ids[i] = l.items[i].ino;
	if (!r && l.n > 0) {
		r = store_image_stats(ds->store, ids, l.n, exact, fn, arg, stats);
		if (r < 0)
			errmsg_set(em, r, "cannot count the images' chunks: %s", strerror(-r));
	}
	json_t *json = r < 0 ? NULL : images_build(ds, &l, stats, exact);
	if (!r && !json)
		r = errmsg_set(em, -ENOMEM, "out of memory");
	if (!r)
		*ret_json = json;
	free(stats);
	free(ids);
	free(l.items);
	return r;
}

/* --- totals --- */

static double ratio(uint64_t a, uint64_t b)
{
	return b ? (double)a / (double)b : 0.0;
}

static json_t *total_json(
        const struct store_stats *st, uint64_t inodes, uint64_t logical_bytes, uint64_t meta_bytes)
{
	const uint64_t written = st->data_chunks * CHUNK_SIZE, zero = st->zero_chunks * CHUNK_SIZE;
	const uint64_t unique = st->unique_chunks * CHUNK_SIZE;
	const uint64_t used = written + zero; /* whole chunks: may pass the sizes by a little */

	return json_pack(
	        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f}",
	        "inodes", (json_int_t)inodes, "logical_bytes", (json_int_t)logical_bytes,
	        "written_bytes", (json_int_t)written, "zero_bytes", (json_int_t)zero, "hole_bytes",
	        (json_int_t)(logical_bytes > used ? logical_bytes - used : 0), "unique_bytes",
	        (json_int_t)unique, "live_bytes", (json_int_t)st->live_bytes, "stored_bytes",
	        (json_int_t)st->stored_bytes, "metadata_bytes", (json_int_t)meta_bytes, "log_bytes",
	        (json_int_t)st->log_bytes, "segments", (json_int_t)st->segments, "segments_open",
	        (json_int_t)st->segments_open, "live_share",
	        ratio(st->live_bytes, st->stored_bytes), "dedupe_ratio", ratio(written, unique),
	        "compression_ratio", ratio(unique, st->live_bytes), "total_ratio",
	        ratio(written, st->stored_bytes + meta_bytes));
}

/* Resident set of this process. */
static uint64_t rss_bytes(void)
{
	unsigned long long size, resident = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f)
		return 0;
	if (fscanf(f, "%llu %llu", &size, &resident) != 2)
		resident = 0;
	fclose(f);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static json_t *memory_json(const struct store_stats *st)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "rss_bytes",
	        (json_int_t)rss_bytes(), "overlay_bytes", (json_int_t)st->overlay_bytes,
	        "overlay_limit_bytes", (json_int_t)st->overlay_limit_bytes, "cache_bytes",
	        (json_int_t)st->cache_bytes, "cache_limit_bytes", (json_int_t)st->cache_limit_bytes,
	        "index_bytes", (json_int_t)st->index_bytes, "index_limit_bytes",
	        (json_int_t)st->index_limit_bytes, "map_bytes", (json_int_t)st->map_bytes,
	        "map_limit_bytes", (json_int_t)st->map_limit_bytes);
}

static json_t *activity_json(const struct store_stats *st)
{
	return json_pack(
	        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
	        "s:I, s:I, s:I, s:b, s:b}",
	        "written_bytes", (json_int_t)st->written_bytes, "read_bytes",
	        (json_int_t)st->read_bytes, "flushes", (json_int_t)st->flushes, "commits",
	        (json_int_t)st->txg_commits, "commit_failures", (json_int_t)st->txg_failures,
	        "last_freeze_ns", (json_int_t)st->last_freeze_ns, "max_freeze_ns",
	        (json_int_t)st->max_freeze_ns, "cache_hits", (json_int_t)st->cache_hits,
	        "cache_misses", (json_int_t)st->cache_misses, "dedupe_hits",
	        (json_int_t)st->dedupe_hits, "chunks_new", (json_int_t)st->chunks_new,
	        "chunks_zero", (json_int_t)st->chunks_zero, "chunks_raw",
	        (json_int_t)st->chunks_raw, "compressed_in_bytes",
	        (json_int_t)st->compressed_in_bytes, "compressed_out_bytes",
	        (json_int_t)st->compressed_out_bytes, "damaged_reads",
	        (json_int_t)st->damaged_reads, "healed_chunks", (json_int_t)st->healed_chunks,
	        "index_entries", (json_int_t)st->index_entries, "index_loading", st->index_loading,
	        "gc_running", st->gc_running);
}

static json_t *uuid_json(const uint8_t uuid[16])
{
	char text[37], *p = text;

	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		p += snprintf(p, 3, "%02x", uuid[i]);
	}
	return json_string(text);
}

static void commit_first(struct datastore *ds)
{
	const int r = store_sync(ds->store);

	if (r < 0 && r != -EROFS)
		log_warn("report: cannot commit first: %s", strerror(-r));
}

/* What streams that are not over hold: it is in the totals, but in no image's numbers. */
static json_t *receiving_json(const struct receive_totals *t)
{
	return json_pack("{s:I, s:I, s:I}", "images", (json_int_t)t->images, "size_bytes",
	        (json_int_t)t->size_bytes, "allocated_bytes", (json_int_t)t->allocated_bytes);
}

static int stats_build(struct datastore *ds, json_t *images, json_t **ret_json, struct errmsg *em)
{
	struct meta_info info = {0};
	struct receive_totals receiving = {0};
	struct store_stats st;
	uint64_t inodes = 0, logical_bytes = 0, meta_bytes = 0;
	int r = ns_totals(ds->ns, &inodes, &logical_bytes);

	if (!r)
		r = meta_size(ds->meta, &meta_bytes);
	if (!r)
		r = meta_info_get(ds->meta, &info);
	if (!r)
		r = receive_totals(ds, &receiving);
	if (r < 0) {
		json_decref(images);
		return errmsg_set(em, r, "cannot read the metadata: %s", strerror(-r));
	}
	store_stats_get(ds->store, &st);
	json_t *json = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "datastore",
	        text_json(ds->dir), "uuid", uuid_json(info.uuid), "total",
	        total_json(&st, inodes, logical_bytes, meta_bytes), "memory", memory_json(&st),
	        "receiving", receiving_json(&receiving), "activity", activity_json(&st), "images",
	        images);
	if (!json)
		return errmsg_set(em, -ENOMEM, "out of memory");
	*ret_json = json;
	return 0;
}

int report_stats(struct datastore *ds, const char *const *paths, size_t n, gc_progress_fn *fn,
        void *arg, json_t **ret_json, struct errmsg *em)
{
	json_t *images;

	commit_first(ds);
	const int r = images_json(ds, paths, n, paths, fn, arg, &images, em);
	return r < 0 ? r : stats_build(ds, images, ret_json, em);
}

int report_images(
        struct datastore *ds, gc_progress_fn *fn, void *arg, json_t **ret_json, struct errmsg *em)
{
	json_t *images;

	commit_first(ds);
	const int r = images_json(ds, NULL, 0, true, fn, arg, &images, em);
	if (r < 0)
		return r;
	json_t *json = json_pack("{s:o}", "images", images);
	if (!json)
		return errmsg_set(em, -ENOMEM, "out of memory");
	*ret_json = json;
	return 0;
}

int report_receiving(struct datastore *ds, struct manager *m, json_t *status, struct errmsg *em)
{
	json_t *json = NULL;
	int r = receive_list(ds, m, &json, em);

	if (r == -ENOMEM)
		return r;
	if (r < 0) /* metadata that cannot be read is what the status is asked for, too */
		json = json_pack("{s:n}", "receiving");
	const int failed = json_object_update(status, json);
	json_decref(json);
	return failed ? errmsg_set(em, -ENOMEM, "out of memory") : 0;
}

int report_status(
        struct datastore *ds, const char *mountpoint, json_t **ret_json, struct errmsg *em)
{
	static const char *const health[] = {
	        [STORE_OK] = "ok", [STORE_DEGRADED] = "degraded", [STORE_FAILED] = "failed"};
	struct store_stats st;

	store_stats_get(ds->store, &st);
	const uint64_t up_ns = clock_wall_ns() - MIN(ds->opened_wall_ns, clock_wall_ns());
	json_t *json = json_pack(
	        "{s:o, s:b, s:o, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, "
	        "s:o, s:b, s:b}",
	        "datastore", text_json(ds->dir), "mounted", mountpoint != NULL, "mountpoint",
	        mountpoint ? text_json(mountpoint) : json_null(), "pid",
	        mountpoint ? (int)getpid() : 0, "uptime_seconds",
	        (json_int_t)(mountpoint ? up_ns / NS_PER_SEC : 0), "dirty_bytes",
	        (json_int_t)st.overlay_bytes, "dirty_limit_bytes",
	        (json_int_t)st.overlay_limit_bytes, "log_used_bytes", (json_int_t)st.log_used_bytes,
	        "log_bytes", (json_int_t)st.log_bytes, "free_bytes", (json_int_t)st.free_bytes,
	        "last_commit", (json_int_t)st.last_commit_wall_ns, "commits",
	        (json_int_t)st.txg_commits, "commit_failures", (json_int_t)st.txg_failures,
	        "health", health[st.health], "health_text", text_json(st.health_text),
	        "index_loading", st.index_loading, "gc_running", st.gc_running);

	if (!json)
		return errmsg_set(em, -ENOMEM, "out of memory");
	const int r = report_receiving(ds, NULL, json, em);
	if (r < 0) {
		json_decref(json);
		return r;
	}
	*ret_json = json;
	return 0;
}
