/*
 * repair-segment.c - footers from frames, rows from files
 *
 * A file is never changed: its next generation is written, synced, and named by the row in
 * repair.c's transaction; the old file goes after that.  So a power cut anywhere leaves the old
 * pair, or the new one, and perhaps an orphan file.
 *
 * A slot that something refers to and that no frame holds becomes "present, in no frame", which
 * readers take for damage, not for a slot that was given up.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/check.h"

static int row_add(struct check *c, const struct segment_row *row)
{
	struct repair_list *fix = &c->fix;

	if (array_reserve(&fix->segments, fix->n_segments, &fix->segments_cap,
	            sizeof(*fix->segments)) < 0)
		return -ENOMEM;
	fix->segments[fix->n_segments++] = *row;
	if (row->id >= fix->state.next_segment) {
		fix->state.next_segment = row->id + 1;
		fix->state_changed = true;
	}
	return 0;
}

static int remove_add(struct check *c, uint64_t id, uint32_t gen)
{
	struct repair_list *fix = &c->fix;

	if (array_reserve(&fix->remove, fix->n_remove, &fix->remove_cap, sizeof(*fix->remove)) < 0)
		return -ENOMEM;
	fix->remove[fix->n_remove++] = (struct check_file){.id = id, .gen = gen};
	return 0;
}

/* A generation that no file of the segment has. */
static uint32_t generation_new(const struct check *c, const struct check_segment *seg)
{
	uint32_t gen = MAX(seg->gen, seg->row.gen);

	for (size_t i = 0; i < c->table.n_files; i++)
		if (c->table.files[i].id == seg->row.id)
			gen = MAX(gen, c->table.files[i].gen);
	return gen + 1;
}

/* What the row must be for a sealed file that is in sf. */
static struct segment_row row_of_file(const struct check_segment *seg,
        const struct segment_file *sf, uint32_t gen, uint32_t file_bytes)
{
	const bool trusted = !(seg->problems & PROBLEM_NO_ROW);

	return (struct segment_row){
	        .id = seg->row.id,
	        .gen = gen,
	        .tier = trusted ? seg->row.tier : 0,
	        .domain = sf->header_good ? sf->header.domain : seg->row.domain,
	        .state = SEGMENT_SEALED,
	        .bytes = sf->frames_end,
	        .slots = sf->slots,
	        .live_chunks = sf->slots,
	        .live_bytes = sf->frames_end - SEGMENT_HEADER_LEN,
	        .file_bytes = file_bytes,
	        .created_txg = sf->header_good ? sf->header.created_txg : seg->row.created_txg,
	};
}

/* Referenced slots that the table lacks become lost ones; the table grows over all of them. */
static void lost_slots_add(const struct check_segment *seg, struct segment_file *sf)
{
	for (unsigned i = sf->slots; i < seg->n_slots; i++) {
		sf->table[i] = (struct footer_slot){0};
		sf->hashes[i] = (struct hash128){0};
	}
	sf->slots = MAX(sf->slots, seg->n_slots);
	for (unsigned i = 0; i < seg->n_slots; i++)
		if ((seg->slots[i] & SLOT_IS_REFERENCED) && !(sf->table[i].flags & SLOT_PRESENT))
			sf->table[i].flags = SLOT_PRESENT;
}

/* Lays header and footer around the frames in sf->buf; returns the file's length. */
static uint32_t file_build(const struct check *c, const struct check_segment *seg, uint32_t gen,
        struct segment_file *sf)
{
	const struct segment_header h = {
	        .id = seg->row.id,
	        .gen = gen,
	        .domain = sf->header_good ? sf->header.domain : seg->row.domain,
	        .created_txg = sf->header_good ? sf->header.created_txg : seg->row.created_txg,
	};
	struct segment_header header = h;

	memcpy(header.uuid, c->state.uuid, sizeof(header.uuid));
	segment_header_encode(&header, sf->buf);
	if (sf->len < sf->frames_end)
		memset(sf->buf + sf->len, 0, sf->frames_end - sf->len);
	footer_encode(seg->row.id, sf->slots, sf->table, sf->hashes, sf->frames_end,
	        sf->buf + sf->frames_end);
	return sf->frames_end + (uint32_t)footer_size(sf->slots);
}

static int file_write(struct check *c, uint64_t id, uint32_t gen, const uint8_t *buf, size_t len)
{
	CLEANUP(io_closep) struct io_file *f = NULL;
	char name[SEGMENT_NAME_LEN], dir[SEGMENT_NAME_LEN];

	segment_name(0, id, gen, name);
	snprintf(dir, sizeof(dir), "%.*s", (int)(strrchr(name, '/') - name), name);
	int r = io_open(c->io, name, IO_WRITE | IO_CREATE | IO_EXCL, &f);
	if (r == 0)
		r = io_pwrite(f, buf, len, 0);
	if (r == 0)
		r = io_sync(f);
	if (r == 0)
		r = io_sync_dir(c->io, dir);
	return r;
}

static int file_renew(struct check *c, const struct check_segment *seg, struct segment_file *sf)
{
	const uint32_t gen = generation_new(c, seg);

	if (!sf->footer_good)
		segment_file_scan(c, seg->row.id, check_segment_scan_end(seg), sf);
	lost_slots_add(seg, sf);
	const uint32_t bytes = file_build(c, seg, gen, sf);
	const struct segment_row row = row_of_file(seg, sf, gen, bytes);
	int r = file_write(c, seg->row.id, gen, sf->buf, bytes);
	if (r == 0)
		r = row_add(c, &row);
	if (r == 0)
		r = remove_add(c, seg->row.id, seg->gen);
	return r;
}

static int segment_repair(struct check *c, struct check_segment *seg)
{
	struct segment_file *sf = c->file;
	int r = segment_file_read(c, seg->row.id, seg->gen, true, SEGMENT_SLOTS, sf);

	if (r == 0 && sf->footer_good && sf->header_good) {
		const struct segment_row row = row_of_file(seg, sf, seg->gen, (uint32_t)sf->size);
		r = row_add(c, &row);
	} else if (r == 0) {
		r = file_renew(c, seg, sf);
	}
	if (r == 0) {
		findings_mark_segment(&c->findings, seg->row.id);
	} else if (r != -ENOMEM) {
		struct finding *fi = finding_add(&c->findings, FINDING_SEGMENT_FILE, SEVERITY_ERROR,
		        "could not be repaired: %s", strerror(-r));
		fi->segment = seg->row.id;
		r = 0;
	}
	return r;
}

/*
 * A file that no row, no map and no log record names; while all of these could be read.  (What is
 * sealed could not.)
 */
static bool is_orphan(const struct check *c, const struct check_segment *seg)
{
	return (seg->problems & PROBLEM_NO_ROW) && !check_segment_referenced(seg) &&
	       !c->incomplete && !check_refs_unknown(c) && !check_log_refers(c, seg->row.id);
}

static bool is_repairable(const struct check_segment *seg)
{
	if (!seg->problems || (seg->problems & (PROBLEM_NO_FILE | PROBLEM_FOREIGN)))
		return false;
	return !(seg->problems & PROBLEM_NO_ROW) || check_segment_referenced(seg);
}

int repair_batch(struct check *c, size_t first, size_t n)
{
	int r = 0;

	for (size_t i = first; i < first + n && r == 0; i++) {
		struct check_segment *seg = &c->table.list[i];

		if (is_repairable(seg))
			r = segment_repair(c, seg);
		else if (is_orphan(c, seg))
			r = remove_add(c, seg->row.id, seg->gen);
	}
	return r;
}
