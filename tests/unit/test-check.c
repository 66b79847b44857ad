/*
 * test-check.c - weir check on datastores that are broken in one way each
 *
 * A datastore with two images is made by the engine; then one thing is broken, through the metadata
 * port or in a file, and check must find exactly that; with repair, it must be clean after, except
 * for content that is lost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/datastore.h"
#include "store/ilog-format.h"
#include "store/map.h"
#include "tools/check.h"
#include "tools/cmd.h"

#define IMAGE_A     2ull
#define IMAGE_BYTES (3u << 20)

static char dir[64];

/* --- making one --- */

static void inode_add(struct datastore *ds, uint64_t ino, const char *name)
{
	const struct ns_inode inode = {
	        .ino = ino, .mode = S_IFREG | 0600, .nlink = 1, .size = IMAGE_BYTES};

	assert_int_equal(ns_inode_put(ds->ns, &inode), 0);
	assert_int_equal(ns_name_put(ds->ns, NS_ROOT_INO, name, ino, S_IFREG), 0);
}

/* Bytes that compress somewhat, differ from chunk to chunk, and are the same for the same seed. */
static void content_fill(uint8_t *buf, size_t len, unsigned seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;

	for (size_t i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		buf[i] = (uint8_t)(i % 2 ? 0x55 : x >> 32);
	}
}

static void image_write(struct datastore *ds, uint64_t ino, unsigned seed)
{
	uint8_t *buf = malloc(IMAGE_BYTES);
	struct image *img = NULL;

	assert_non_null(buf);
	content_fill(buf, IMAGE_BYTES, seed);
	assert_int_equal(store_image_open(ds->store, ino, &img), 0);
	assert_int_equal(store_throttle(ds->store, IMAGE_BYTES), 0);
	store_enter(ds->store);
	assert_int_equal(store_write(img, 0, buf, IMAGE_BYTES), 0);
	store_leave(ds->store);
	store_image_close(img);
	free(buf);
}

static struct datastore *ds_open(void)
{
	const struct datastore_options opt = {.overlay_bytes = 32u << 20,
	        .cache_bytes = 16u << 20,
	        .index_bytes = 8u << 20,
	        .map_bytes = 8u << 20,
	        .threads = 1};
	struct datastore *ds = NULL;
	struct errmsg em = {0};

	if (datastore_open(dir, &opt, NULL, NULL, &ds, &em) < 0)
		fail_msg("%s", em.text);
	return ds;
}

/* While the index is being loaded, closing leaves none behind. */
static void index_wait(struct datastore *ds)
{
	struct store_stats st;

	do {
		usleep(1000);
		store_stats_get(ds->store, &st);
	} while (st.index_loading);
}

static int make(void **state)
{
	const struct datastore_create_options opt = {.log_bytes = 16u << 20};
	struct errmsg em = {0};

	strcpy(dir, "/tmp/weir-check.XXXXXX");
	assert_non_null(mkdtemp(dir));
	if (datastore_create(dir, &opt, &em) < 0)
		fail_msg("%s", em.text);
	struct datastore *ds = ds_open();
	store_enter(ds->store);
	inode_add(ds, IMAGE_A, "a.raw");
	inode_add(ds, IMAGE_A + 1, "b.raw");
	store_leave(ds->store);
	image_write(ds, IMAGE_A, 1);
	image_write(ds, IMAGE_A + 1, 2);
	index_wait(ds);
	assert_int_equal(datastore_close(ds), 0);
	return 0;
}

static int unmake(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd);
}

/* --- breaking it --- */

static struct meta *port_open(struct io **io)
{
	struct meta *m = NULL;
	struct errmsg em = {0};

	assert_int_equal(io_posix_open(dir, io, &em), 0);
	if (meta_open(*io, false, &m, &em) < 0)
		fail_msg("%s", em.text);
	assert_int_equal(m->ops->begin(m), 0);
	return m;
}

static void port_commit(struct meta *m, struct io *io)
{
	assert_int_equal(m->ops->commit(m), 0);
	meta_close(m);
	io_free(io);
}

static int row_take(void *arg, const struct segment_row *row)
{
	struct segment_row *first = arg;

	if (first->id == 0)
		*first = *row;
	return 0;
}

/* The first segment; the datastore has been closed, so it may still be an open one. */
static struct segment_row first_segment(void)
{
	struct segment_row row = {0};
	struct io *io = NULL;
	struct meta *m = port_open(&io);

	assert_int_equal(m->ops->segment_each(m, row_take, &row), 0);
	port_commit(m, io);
	assert_true(row.id != 0);
	return row;
}

/* Makes the first segment a sealed one: the engine seals what is open when it is asked to collect.
 */
static struct segment_row first_sealed(void)
{
	struct datastore *ds = ds_open();
	struct gc_report report;

	assert_int_equal(store_gc(ds->store, true, NULL, NULL, &report), 0);
	assert_int_equal(store_gc(ds->store, true, NULL, NULL, &report), 0);
	assert_int_equal(datastore_close(ds), 0);
	const struct segment_row row = first_segment();
	assert_int_equal(row.state, SEGMENT_SEALED);
	return row;
}

static void segment_path(const struct segment_row *row, char path[128])
{
	char name[SEGMENT_NAME_LEN];

	segment_name(0, row->id, row->gen, name);
	snprintf(path, 128, "%s/%s", dir, name);
}

static void file_flip(const char *path, off_t off, unsigned len)
{
	const int fd = open(path, O_RDWR);
	uint8_t b = 0;

	assert_true(fd >= 0);
	for (unsigned i = 0; i < len; i++, off++) {
		assert_int_equal(pread(fd, &b, 1, off), 1);
		b ^= 0xff;
		assert_int_equal(pwrite(fd, &b, 1, off), 1);
	}
	close(fd);
}

/* --- checking --- */

static int check_now(struct check *c, bool data, bool repair)
{
	struct errmsg em = {0};

	*c = (struct check){.dir = dir, .data = data, .repair = repair};
	if (check_open(c, &em) < 0)
		fail_msg("%s", em.text);
	assert_int_equal(check_all(c), 0);
	return check_exit_code(c);
}

static const struct finding *finding_of(
        const struct check *c, enum finding_kind kind, enum finding_severity severity)
{
	for (size_t i = 0; i < c->findings.n; i++)
		if (c->findings.list[i].kind == kind && c->findings.list[i].severity == severity)
			return &c->findings.list[i];
	findings_print(&c->findings);
	fail_msg("no finding of kind %d, severity %d", kind, severity);
	return NULL;
}

static void expect(
        int code, bool data, bool repair, enum finding_kind kind, enum finding_severity severity)
{
	struct check c;
	const int got = check_now(&c, data, repair);

	finding_of(&c, kind, severity);
	if (got != code)
		findings_print(&c.findings);
	assert_int_equal(got, code);
	check_release(&c);
}

static void expect_clean(void)
{
	struct check c;
	const int got = check_now(&c, true, false);

	if (got != WEIR_EXIT_OK || c.findings.n)
		findings_print(&c.findings);
	assert_int_equal(got, WEIR_EXIT_OK);
	assert_int_equal(c.findings.n, 0);
	check_release(&c);
}

static void images_read_well(void)
{
	struct datastore *ds = ds_open();
	uint8_t *want = malloc(IMAGE_BYTES), *got = malloc(IMAGE_BYTES);

	assert_true(want && got);
	for (unsigned i = 0; i < 2; i++) {
		struct image *img = NULL;

		content_fill(want, IMAGE_BYTES, i + 1);
		assert_int_equal(store_image_open(ds->store, IMAGE_A + i, &img), 0);
		assert_int_equal(store_read(img, 0, got, IMAGE_BYTES), 0);
		assert_memory_equal(want, got, IMAGE_BYTES);
		store_image_close(img);
	}
	free(want);
	free(got);
	assert_int_equal(datastore_close(ds), 0);
}

/* The engine must agree: each chunk of image A is an I/O error within the range, and good outside.
 */
static void only_range_is_unreadable(uint64_t off, uint64_t len)
{
	struct datastore *ds = ds_open();
	struct image *img = NULL;
	uint8_t *want = malloc(IMAGE_BYTES), got[CHUNK_SIZE];

	assert_non_null(want);
	content_fill(want, IMAGE_BYTES, 1);
	assert_int_equal(store_image_open(ds->store, IMAGE_A, &img), 0);
	for (uint64_t at = 0; at < IMAGE_BYTES; at += CHUNK_SIZE) {
		const bool lost = at >= off && at < off + len;

		assert_int_equal(store_read(img, at, got, CHUNK_SIZE), lost ? -EIO : 0);
		if (!lost)
			assert_memory_equal(got, want + at, CHUNK_SIZE);
	}
	store_image_close(img);
	free(want);
	assert_int_equal(datastore_close(ds), 0);
}

/* --- the cases --- */

static void what_the_engine_makes_is_clean(void **state)
{
	struct check c;

	assert_int_equal(check_now(&c, true, false), WEIR_EXIT_OK);
	assert_int_equal(c.findings.n, 0);
	assert_int_equal(c.sum.images, 2);
	assert_int_equal(c.sum.data_chunks, 2 * IMAGE_BYTES / CHUNK_SIZE);
	assert_int_equal(c.sum.referenced_chunks, 2 * IMAGE_BYTES / CHUNK_SIZE);
	assert_true(c.sum.chunks_verified >= c.sum.referenced_chunks);
	check_release(&c);
	first_sealed();
	expect_clean();
}

static void wrong_counters_are_found_and_set_right(void **state)
{
	struct io *io = NULL;
	struct meta *m = port_open(&io);
	struct image_row row;

	assert_int_equal(m->ops->image_get(m, IMAGE_A, &row), 0);
	row.data_chunks += 7;
	assert_int_equal(m->ops->image_put(m, &row), 0);
	port_commit(m, io);
	expect(WEIR_EXIT_DAMAGED, false, false, FINDING_COUNTERS, SEVERITY_ERROR);
	expect(WEIR_EXIT_REPAIRED, false, true, FINDING_COUNTERS, SEVERITY_ERROR);
	expect_clean();
}

static void a_lost_map_node_is_a_range_of_its_image(void **state)
{
	struct io *io = NULL;
	struct meta *m = port_open(&io);
	struct image_row row;
	struct map_node root;
	uint8_t blob[NODE_BLOB_MAX];
	size_t len = 0;
	struct check c;

	assert_int_equal(m->ops->image_get(m, IMAGE_A, &row), 0);
	assert_int_equal(row.height, 2);
	assert_int_equal(m->ops->node_get(m, row.root, blob, sizeof(blob), &len), 0);
	assert_int_equal(map_node_decode(blob, len, row.root, &root), 0);
	assert_int_equal(m->ops->node_del(m, root.values[1]), 0);
	port_commit(m, io);
	assert_int_equal(check_now(&c, false, false), WEIR_EXIT_DAMAGED);
	const struct finding *fi = finding_of(&c, FINDING_NODE, SEVERITY_LOSS);
	assert_int_equal(fi->image, IMAGE_A);
	assert_string_equal(fi->path, "a.raw");
	assert_int_equal(fi->offset, LEAF_BYTES);
	assert_int_equal(fi->length, LEAF_BYTES);
	check_release(&c);
}

static void an_entry_to_other_content_is_found(void **state)
{
	struct io *io = NULL;
	struct meta *m = port_open(&io);
	struct image_row row;
	struct map_node root, leaf;
	uint8_t blob[NODE_BLOB_MAX];
	size_t len = 0;
	struct check c;

	assert_int_equal(m->ops->image_get(m, IMAGE_A, &row), 0);
	assert_int_equal(m->ops->node_get(m, row.root, blob, sizeof(blob), &len), 0);
	assert_int_equal(map_node_decode(blob, len, row.root, &root), 0);
	assert_int_equal(m->ops->node_get(m, root.values[0], blob, sizeof(blob), &len), 0);
	assert_int_equal(map_node_decode(blob, len, root.values[0], &leaf), 0);
	leaf.values[5] = entry_data(entry_loc(leaf.values[5]), entry_check(leaf.values[5]) ^ 1);
	leaf.values[9] = entry_data(loc_make(4711, 3), 0);
	len = map_node_encode(&leaf, root.values[0], blob);
	assert_int_equal(m->ops->node_put(m, root.values[0], blob, len), 0);
	port_commit(m, io);
	assert_int_equal(check_now(&c, false, false), WEIR_EXIT_DAMAGED);
	assert_int_equal(c.findings.counts[SEVERITY_LOSS], 2);
	const struct finding *fi = finding_of(&c, FINDING_MAP, SEVERITY_LOSS);
	assert_int_equal(fi->offset, 5 * CHUNK_SIZE);
	assert_int_equal(fi[1].offset, 9 * CHUNK_SIZE);
	assert_int_equal(fi[1].segment, 4711);
	check_release(&c);
}

static void a_lost_segment_row_comes_back_from_the_file(void **state)
{
	const struct segment_row row = first_sealed();
	struct io *io = NULL;
	struct meta *m = port_open(&io);

	assert_int_equal(m->ops->segment_del(m, row.id), 0);
	port_commit(m, io);
	expect(WEIR_EXIT_DAMAGED, false, false, FINDING_SEGMENT_ROW, SEVERITY_ERROR);
	expect(WEIR_EXIT_REPAIRED, false, true, FINDING_SEGMENT_ROW, SEVERITY_ERROR);
	expect_clean();
	images_read_well();
}

static void a_wrong_segment_row_is_set_right(void **state)
{
	struct segment_row row = first_sealed();
	struct io *io = NULL;
	struct meta *m = port_open(&io);

	row.slots -= 8;
	row.live_chunks = 1;
	assert_int_equal(m->ops->segment_put(m, &row), 0);
	port_commit(m, io);
	expect(WEIR_EXIT_DAMAGED, false, false, FINDING_SEGMENT_ROW, SEVERITY_ERROR);
	expect(WEIR_EXIT_REPAIRED, false, true, FINDING_SEGMENT_ROW, SEVERITY_ERROR);
	expect_clean();
	images_read_well();
}

static void a_damaged_footer_is_rebuilt_from_the_frames(void **state)
{
	const struct segment_row row = first_sealed();
	char path[128];

	segment_path(&row, path);
	file_flip(path, row.bytes + 100, 1);
	expect(WEIR_EXIT_DAMAGED, false, false, FINDING_FOOTER, SEVERITY_ERROR);
	expect(WEIR_EXIT_REPAIRED, false, true, FINDING_FOOTER, SEVERITY_ERROR);
	assert_int_equal(access(path, F_OK), -1);
	expect_clean();
	images_read_well();
}

static void a_cut_off_footer_is_rebuilt_from_the_frames(void **state)
{
	const struct segment_row row = first_sealed();
	char path[128];

	segment_path(&row, path);
	assert_int_equal(truncate(path, row.bytes), 0);
	expect(WEIR_EXIT_REPAIRED, true, true, FINDING_FOOTER, SEVERITY_ERROR);
	expect_clean();
	images_read_well();
}

static void a_damaged_header_is_rewritten(void **state)
{
	const struct segment_row row = first_sealed();
	char path[128];

	segment_path(&row, path);
	file_flip(path, 20, 1);
	expect(WEIR_EXIT_DAMAGED, false, false, FINDING_SEGMENT_FILE, SEVERITY_ERROR);
	expect(WEIR_EXIT_REPAIRED, false, true, FINDING_SEGMENT_FILE, SEVERITY_ERROR);
	expect_clean();
	images_read_well();
}

/* One frame damaged: exactly its chunks are lost, which is seen only when contents are read. */
static void a_damaged_frame_names_the_lost_range(void **state)
{
	const struct segment_row row = first_sealed();
	char path[128];
	struct check c;

	segment_path(&row, path);
	file_flip(path, SEGMENT_HEADER_LEN + FRAME_HEADER_LEN + 8 * 16 + 500, 1);
	assert_int_equal(check_now(&c, false, false), WEIR_EXIT_OK);
	check_release(&c);
	assert_int_equal(check_now(&c, true, false), WEIR_EXIT_DAMAGED);
	finding_of(&c, FINDING_FRAME, SEVERITY_LOSS);
	const struct finding *fi = finding_of(&c, FINDING_CHUNK, SEVERITY_LOSS);
	assert_true(fi->length >= CHUNK_SIZE && fi->length <= FRAME_CHUNKS_MAX * CHUNK_SIZE);
	const uint64_t off = fi->offset, len = fi->length;
	assert_int_equal(fi->segment, row.id);
	assert_string_equal(fi->path, "a.raw");
	check_release(&c);
	only_range_is_unreadable(off, len);
}

/* Footer and a frame header damaged: the rest is saved, the lost range is named, and stays EIO. */
static void a_frame_that_a_rebuilt_footer_lacks_is_lost_not_wrong(void **state)
{
	const struct segment_row row = first_sealed();
	char path[128];
	struct check c;

	segment_path(&row, path);
	file_flip(path, SEGMENT_HEADER_LEN + 16, 1);
	file_flip(path, row.bytes + 100, 1);
	assert_int_equal(check_now(&c, false, true), WEIR_EXIT_DAMAGED);
	finding_of(&c, FINDING_FOOTER, SEVERITY_ERROR);
	const struct finding *fi = finding_of(&c, FINDING_MAP, SEVERITY_LOSS);
	const uint64_t off = fi->offset, len = fi->length;
	assert_true(len <= FRAME_CHUNKS_MAX * CHUNK_SIZE);
	check_release(&c);

	assert_int_equal(check_now(&c, true, false), WEIR_EXIT_DAMAGED);
	assert_int_equal(c.findings.counts[SEVERITY_ERROR], 0);
	fi = finding_of(&c, FINDING_CHUNK, SEVERITY_LOSS);
	assert_int_equal(fi->offset, off);
	assert_int_equal(fi->length, len);
	check_release(&c);

	only_range_is_unreadable(off, len);
}

static void a_missing_segment_file_is_a_loss_that_repair_leaves(void **state)
{
	const struct segment_row row = first_segment();
	char path[128];
	struct check c;

	segment_path(&row, path);
	assert_int_equal(unlink(path), 0);
	expect(WEIR_EXIT_DAMAGED, false, true, FINDING_SEGMENT_FILE, SEVERITY_LOSS);
	assert_int_equal(check_now(&c, false, false), WEIR_EXIT_DAMAGED);
	finding_of(&c, FINDING_MAP, SEVERITY_LOSS);
	check_release(&c);
}

static void a_file_without_a_row_is_a_note_and_goes_with_repair(void **state)
{
	struct segment_row row = {.id = 77, .gen = 0};
	char path[128], cmd[200];
	struct check c;

	snprintf(path, sizeof(path), "%s/segments/4d", dir);
	assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
	segment_path(&row, path);
	snprintf(cmd, sizeof(cmd), "head -c 20000 /dev/urandom > %s", path);
	assert_int_equal(system(cmd), 0);
	assert_int_equal(check_now(&c, true, false), WEIR_EXIT_OK);
	finding_of(&c, FINDING_ORPHAN_SEGMENT, SEVERITY_NOTE);
	check_release(&c);
	assert_int_equal(access(path, F_OK), 0);
	expect(WEIR_EXIT_REPAIRED, true, true, FINDING_ORPHAN_SEGMENT, SEVERITY_NOTE);
	assert_int_equal(access(path, F_OK), -1);
	expect_clean();
}

static void a_next_id_that_is_in_use_is_raised(void **state)
{
	struct io *io = NULL;
	struct meta *m = port_open(&io);
	struct store_state st;

	assert_int_equal(m->ops->state_get(m, &st), 0);
	st.next_segment = 1;
	st.next_node = 1;
	assert_int_equal(m->ops->state_put(m, &st), 0);
	port_commit(m, io);
	expect(WEIR_EXIT_DAMAGED, false, false, FINDING_STATE, SEVERITY_ERROR);
	expect(WEIR_EXIT_REPAIRED, false, true, FINDING_STATE, SEVERITY_ERROR);
	expect_clean();
}

static void a_damaged_saved_index_is_removed(void **state)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/index", dir);
	assert_int_equal(access(path, F_OK), 0);
	file_flip(path, 40, 4);
	expect(WEIR_EXIT_DAMAGED, false, false, FINDING_INDEX, SEVERITY_ERROR);
	expect(WEIR_EXIT_REPAIRED, false, true, FINDING_INDEX, SEVERITY_ERROR);
	assert_int_equal(access(path, F_OK), -1);
	expect_clean();
}

/* Three flushes and a crash; returns the ring offset of the batch with this sequence, from the
 * first. */
static uint64_t flushed_batches(unsigned which)
{
	struct datastore *ds = ds_open();
	struct image *img = NULL;
	uint8_t buf[CHUNK_SIZE];
	struct ilog_header h;
	struct ilog_hasher hasher;
	struct ilog_batch b;
	uint8_t block[IO_ALIGN];
	char path[128];

	assert_int_equal(store_image_open(ds->store, IMAGE_A, &img), 0);
	for (unsigned i = 0; i < 3; i++) {
		memset(buf, 'x' + (int)i, sizeof(buf));
		store_enter(ds->store);
		assert_int_equal(store_write(img, i * CHUNK_SIZE, buf, sizeof(buf)), 0);
		store_leave(ds->store);
		assert_int_equal(store_flush(ds->store, img), 0);
	}
	store_image_close(img);
	store_abandon(ds->store);
	keyring_free(ds->keyring);
	ns_close(ds->ns);
	meta_close(ds->meta);
	io_free(ds->io);
	close(ds->lock_fd);
	free(ds->dir);
	free(ds);

	struct store_state st;
	struct io *io = NULL;
	struct meta *m = port_open(&io);
	assert_int_equal(m->ops->state_get(m, &st), 0);
	port_commit(m, io);
	snprintf(path, sizeof(path), "%s/log", dir);
	const int fd = open(path, O_RDONLY);
	assert_int_equal(pread(fd, block, IO_ALIGN, 0), IO_ALIGN);
	assert_int_equal(ilog_header_decode(block, &h), 0);
	ilog_hasher_init(&hasher, h.salt);
	uint64_t off = st.log_tail_off;
	for (unsigned i = 0; i < which; i++) {
		assert_int_equal(
		        pread(fd, block, IO_ALIGN, (off_t)(ILOG_HEADER_LEN + off)), IO_ALIGN);
		assert_int_equal(ilog_batch_decode(&hasher, block, h.ring_bytes, &b), 0);
		off += ilog_batch_size(&b, h.ring_bytes);
	}
	close(fd);
	return off;
}

static void a_log_that_waits_for_replay_is_clean(void **state)
{
	struct check c;

	flushed_batches(0);
	assert_int_equal(check_now(&c, true, false), WEIR_EXIT_OK);
	assert_true(c.sum.log_records >= 3);
	assert_true(c.sum.log_bytes > 0);
	check_release(&c);
}

static void a_damaged_log_is_cut_and_keeps_what_came_before(void **state)
{
	const uint64_t off = flushed_batches(1);
	char path[128];
	struct check c;
	struct datastore *ds;
	struct image *img = NULL;
	uint8_t got[2 * CHUNK_SIZE];

	snprintf(path, sizeof(path), "%s/log", dir);
	file_flip(path, (off_t)(ILOG_HEADER_LEN + off + ILOG_BATCH_HEADER_LEN + 50), 1);
	assert_int_equal(check_now(&c, false, false), WEIR_EXIT_DAMAGED);
	finding_of(&c, FINDING_LOG, SEVERITY_ERROR);
	const struct finding *lost = finding_of(&c, FINDING_LOG, SEVERITY_NOTE);
	assert_int_equal(lost->image, IMAGE_A);
	assert_int_equal(lost->offset, 2 * CHUNK_SIZE);
	check_release(&c);
	expect(WEIR_EXIT_REPAIRED, false, true, FINDING_LOG, SEVERITY_ERROR);
	assert_int_equal(check_now(&c, true, false), WEIR_EXIT_OK);
	check_release(&c);

	ds = ds_open();
	assert_int_equal(store_image_open(ds->store, IMAGE_A, &img), 0);
	assert_int_equal(store_read(img, 0, got, sizeof(got)), 0);
	assert_int_equal(got[0], 'x');
	assert_int_not_equal(got[CHUNK_SIZE], 'y');
	store_image_close(img);
	assert_int_equal(datastore_close(ds), 0);
	expect_clean();
}

static void a_log_without_its_header_is_replaced(void **state)
{
	char path[128];

	flushed_batches(0);
	snprintf(path, sizeof(path), "%s/log", dir);
	file_flip(path, 30, 1);
	expect(WEIR_EXIT_REPAIRED, false, true, FINDING_LOG, SEVERITY_ERROR);
	expect_clean();
	images_read_well();
}

static void a_lost_log_file_is_replaced(void **state)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/log", dir);
	assert_int_equal(unlink(path), 0);
	expect(WEIR_EXIT_REPAIRED, false, true, FINDING_LOG, SEVERITY_ERROR);
	expect_clean();
	images_read_well();
}

static void without_repair_nothing_is_written(void **state)
{
	char sum[200], before[64] = "", after[64] = "";
	const struct segment_row row = first_sealed();
	char path[128];
	struct check c;

	segment_path(&row, path);
	file_flip(path, row.bytes + 100, 1);
	snprintf(sum, sizeof(sum), "cd %s && find . -type f | sort | xargs sha256sum | sha256sum",
	        dir);
	FILE *f = popen(sum, "r");
	assert_non_null(fgets(before, sizeof(before), f));
	pclose(f);
	assert_int_equal(check_now(&c, true, false), WEIR_EXIT_DAMAGED);
	check_release(&c);
	f = popen(sum, "r");
	assert_non_null(fgets(after, sizeof(after), f));
	pclose(f);
	assert_string_equal(before, after);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make, unmake)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CASE(what_the_engine_makes_is_clean),
	        CASE(wrong_counters_are_found_and_set_right),
	        CASE(a_lost_map_node_is_a_range_of_its_image),
	        CASE(an_entry_to_other_content_is_found),
	        CASE(a_lost_segment_row_comes_back_from_the_file),
	        CASE(a_wrong_segment_row_is_set_right),
	        CASE(a_damaged_footer_is_rebuilt_from_the_frames),
	        CASE(a_cut_off_footer_is_rebuilt_from_the_frames),
	        CASE(a_damaged_header_is_rewritten),
	        CASE(a_damaged_frame_names_the_lost_range),
	        CASE(a_frame_that_a_rebuilt_footer_lacks_is_lost_not_wrong),
	        CASE(a_missing_segment_file_is_a_loss_that_repair_leaves),
	        CASE(a_file_without_a_row_is_a_note_and_goes_with_repair),
	        CASE(a_next_id_that_is_in_use_is_raised),
	        CASE(a_damaged_saved_index_is_removed),
	        CASE(a_log_that_waits_for_replay_is_clean),
	        CASE(a_damaged_log_is_cut_and_keeps_what_came_before),
	        CASE(a_log_without_its_header_is_replaced),
	        CASE(a_lost_log_file_is_replaced),
	        CASE(without_repair_nothing_is_written),
	};
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
