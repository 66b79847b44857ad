/*
 * check-store.c - segments against their files, a batch at a time
 *
 * Loading fills each segment's slots: 12 bits of hash, present, damaged.  Then the maps are walked
 * (check-map.c), which marks what is referenced; only then is damage in frames reported, because
 * whether it costs anything depends on whether something still refers to it.
 *
 * A sealed segment's row says exactly how long its file is.  An open one's file may be longer than
 * its row says: what lies past the committed length is of a group that never was, and void.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/check.h"

static struct finding *segment_finding(struct check *c, const struct check_segment *seg,
        enum finding_kind kind, enum finding_severity severity, const char *text)
{
	struct finding *fi = finding_add(&c->findings, kind, severity, "%s", text);
	fi->segment = seg->row.id;
	return fi;
}

static int slots_take(struct check_segment *seg, const struct segment_file *sf)
{
	const bool row_counts = !(seg->problems & (PROBLEM_NO_ROW | PROBLEM_ROW));
	const unsigned n = row_counts ? MAX(sf->slots, seg->row.slots) : sf->slots;

	seg->slots = calloc(MAX(n, 1u), sizeof(*seg->slots));
	if (!seg->slots)
		return -ENOMEM;
	seg->n_slots = (uint16_t)n;
	seg->n_damaged = 0;
	seg->frames_bad = (uint16_t)sf->frames_bad;
	for (unsigned i = 0; i < sf->slots; i++) {
		const bool present = sf->table[i].flags & SLOT_PRESENT;
		/* Present in no frame: found lost by an earlier repair or rewrite. */
		const bool damaged = present && (sf->damaged[i] || sf->table[i].frame_pos == 0);

		seg->slots[i] =
		        (uint16_t)(hash_check(sf->hashes[i]) | (present ? SLOT_IS_PRESENT : 0) |
		                   (damaged ? SLOT_IS_DAMAGED : 0));
		seg->n_damaged += damaged;
	}
	seg->loaded = true;
	return 0;
}

static void header_compare(
        struct check *c, struct check_segment *seg, const struct segment_file *sf)
{
	const struct segment_header *h = &sf->header;
	const bool stranger = seg->problems & PROBLEM_NO_ROW; /* nothing is promised of it */

	if (!sf->header_good) {
		seg->problems |= PROBLEM_HEADER;
		if (stranger)
			return;
		segment_finding(c, seg, FINDING_SEGMENT_FILE, SEVERITY_ERROR,
		        "the file's header is damaged");
	} else if (memcmp(h->uuid, c->state.uuid, sizeof(h->uuid)) != 0 || h->id != seg->row.id ||
	           h->gen != seg->gen) {
		seg->problems |= PROBLEM_FOREIGN;
		if (stranger)
			return;
		segment_finding(c, seg, FINDING_SEGMENT_FILE, SEVERITY_LOSS,
		        "the file is of another datastore, segment or generation");
	}
}

/* The row of a sealed segment against its file with a good footer. */
static const char *sealed_row_problem(const struct segment_row *row, const struct segment_file *sf)
{
	if (row->file_bytes != sf->size)
		return "the row says another length than the file has";
	if (row->bytes != sf->frames_end)
		return "the row says another length of frames than the footer";
	if (row->slots != sf->slots)
		return "the row says another number of slots than the footer";
	if (sf->header_good && row->created_txg != sf->header.created_txg)
		return "the row says another time of creation than the file";
	return NULL;
}

static void row_compare(struct check *c, struct check_segment *seg, const struct segment_file *sf)
{
	const struct segment_row *row = &seg->row;
	const char *text = NULL;

	if (seg->problems & PROBLEM_NO_ROW)
		return; /* whether that is wrong depends on the maps */
	if (seg->problems & PROBLEM_ROW)
		text = "the row names a generation whose file does not exist";
	else if (row->state != SEGMENT_OPEN && row->state != SEGMENT_SEALED)
		text = "the row's state is not valid";
	else if (row->live_chunks > row->slots || row->slots > SEGMENT_SLOTS)
		text = "the row's counters are not valid";
	else if (row->state == SEGMENT_SEALED && sf->footer_good)
		text = sealed_row_problem(row, sf);
	else if (row->state == SEGMENT_OPEN && row->slots != sf->slots)
		text = "the row says another number of slots than the file holds";
	if (!text)
		return;
	seg->problems |= PROBLEM_ROW;
	segment_finding(c, seg, FINDING_SEGMENT_ROW, SEVERITY_ERROR, text);
}

uint32_t check_segment_scan_end(const struct check_segment *seg)
{
	const bool trusted = !(seg->problems & (PROBLEM_NO_ROW | PROBLEM_ROW));
	return trusted ? seg->row.bytes : SEGMENT_FRAMES_END_MAX;
}

/* The table from the frames, when there is no footer or none is to be expected. */
static int frames_take(struct check *c, struct check_segment *seg, struct segment_file *sf)
{
	const bool open =
	        !(seg->problems & (PROBLEM_NO_ROW | PROBLEM_ROW)) && seg->row.state == SEGMENT_OPEN;

	if (sf->len < sf->size) {
		const int r = segment_file_read(c, seg->row.id, seg->gen, true, SEGMENT_SLOTS, sf);
		if (r < 0)
			return r;
	}
	segment_file_scan(c, seg->row.id, check_segment_scan_end(seg), sf);
	if (!open) {
		seg->problems |= PROBLEM_FOOTER;
		if (!(seg->problems & PROBLEM_NO_ROW))
			segment_finding(c, seg, FINDING_FOOTER, SEVERITY_ERROR,
			        "the footer is damaged or missing");
	} else if (sf->size < seg->row.bytes) {
		segment_finding(c, seg, FINDING_SEGMENT_FILE, SEVERITY_ERROR,
		        "the file is shorter than its committed length");
		seg->problems |= PROBLEM_ROW;
	}
	segment_file_verify(c, seg->row.id, sf);
	return 0;
}

static bool is_open(const struct check_segment *seg)
{
	return !(seg->problems & PROBLEM_NO_ROW) && seg->row.state == SEGMENT_OPEN;
}

static int file_take(struct check *c, struct check_segment *seg, struct segment_file *sf)
{
	const bool whole = c->data || is_open(seg);
	const unsigned slots =
	        seg->row.slots && seg->row.slots <= SEGMENT_SLOTS ? seg->row.slots : SEGMENT_SLOTS;
	int r = segment_file_read(c, seg->row.id, seg->gen, whole, slots, sf);

	memset(sf->damaged, 0, sizeof(sf->damaged));
	sf->frames_bad = 0;
	if (r == 0 && !whole &&
	        !sf->footer_good) /* the row's number of slots may be what is wrong */
		r = segment_file_read(c, seg->row.id, seg->gen, true, slots, sf);
	if (r < 0)
		return r;
	header_compare(c, seg, sf);
	if (is_open(seg) || !sf->footer_good)
		r = frames_take(c, seg, sf);
	else if (c->data)
		segment_file_verify(c, seg->row.id, sf);
	if (r < 0)
		return r;
	row_compare(c, seg, sf);
	return slots_take(seg, sf);
}

static int segment_load(struct check *c, struct check_segment *seg)
{
	if (seg->problems & PROBLEM_NO_FILE) {
		c->sum.segments++;
		segment_finding(c, seg, FINDING_SEGMENT_FILE, SEVERITY_LOSS, "the file is missing");
		return 0;
	}
	const int r = file_take(c, seg, c->file);
	if (r == -ENOMEM)
		return r;
	if (r < 0) {
		struct finding *fi = finding_add(&c->findings, FINDING_SEGMENT_FILE,
		        seg->problems & PROBLEM_NO_ROW ? SEVERITY_NOTE : SEVERITY_LOSS,
		        "the file cannot be read: %s", strerror(-r));
		fi->segment = seg->row.id;
		seg->problems |= PROBLEM_NO_FILE; /* as good as that, to the map */
	}
	if (!(seg->problems & PROBLEM_NO_ROW)) {
		c->sum.segments++;
		c->sum.slots += seg->n_slots;
		c->sum.file_bytes += r < 0 ? 0 : c->file->size;
	}
	return 0;
}

int check_batch_load(struct check *c, size_t first, size_t n)
{
	struct progress progress;
	int r = 0;

	progress_begin(&progress,
	        c->data ? "checking segments and their content" : "checking segments",
	        PROGRESS_PARTS);
	for (size_t i = 0; i < n && r == 0; i++) {
		progress_update(&progress, first + i, c->table.n);
		r = segment_load(c, &c->table.list[first + i]);
	}
	progress_end(&progress);
	return r;
}

bool check_segment_referenced(const struct check_segment *seg)
{
	for (unsigned i = 0; i < seg->n_slots; i++)
		if (seg->slots[i] & SLOT_IS_REFERENCED)
			return true;
	return false;
}

static void damage_report(struct check *c, const struct check_segment *seg)
{
	unsigned used = 0;

	for (unsigned i = 0; i < seg->n_slots; i++)
		used += (seg->slots[i] & SLOT_IS_DAMAGED) && (seg->slots[i] & SLOT_IS_REFERENCED);
	const bool maybe = check_maybe_used(c, seg->row.domain);
	struct finding *fi = finding_add(&c->findings, FINDING_FRAME,
	        used || maybe ? SEVERITY_LOSS : SEVERITY_NOTE,
	        "%u frames fail their checksum; %u of %u chunks are damaged, %u of them in use%s%s",
	        seg->frames_bad, seg->n_damaged, seg->n_slots, used,
	        maybe ? " and others perhaps by what is encrypted" : "",
	        used ? " (writing the same content again heals them)" : "");
	fi->segment = seg->row.id;
}

static void no_row_report(struct check *c, struct check_segment *seg)
{
	if (check_segment_referenced(seg))
		segment_finding(c, seg, FINDING_SEGMENT_ROW, SEVERITY_ERROR,
		        "images refer to it, its file is there, its row is missing");
	else if (!check_log_refers(c, seg->row.id))
		segment_finding(c, seg, FINDING_ORPHAN_SEGMENT, SEVERITY_NOTE,
		        check_refs_unknown(c)
		                ? "no row names the file (left by a crash, or used by what is "
		                  "encrypted)"
		                : "no row names the file (left by a crash, harmless)");
}

void check_batch_report(struct check *c, size_t first, size_t n)
{
	for (size_t i = first; i < first + n; i++) {
		struct check_segment *seg = &c->table.list[i];

		if (seg->problems & PROBLEM_NO_ROW)
			no_row_report(c, seg);
		if ((seg->n_damaged || seg->frames_bad) &&
		        (!(seg->problems & PROBLEM_NO_ROW) || check_segment_referenced(seg)))
			damage_report(c, seg);
	}
}

void check_batch_release(struct check *c, size_t first, size_t n)
{
	for (size_t i = first; i < first + n; i++) {
		struct check_segment *seg = &c->table.list[i];

		free(seg->slots);
		seg->slots = NULL;
		seg->loaded = false;
	}
}
