/*
 * check-table.c - segment rows and segment files, side by side
 *
 * Rows come first, in order of id.  Then the names under segments/: the file that a row names is
 * taken as there; all others are kept in a second list.  A file without a row becomes an entry of
 * the table too (marked PROBLEM_NO_ROW), since the map may tell that its row is what is missing;
 * whether it is an orphan is known only when all maps have been walked.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/check.h"

struct table_reader {
	struct check *c;
	size_t n_rows;           /* entries of the table that come from rows */
	struct check_file *seen; /* all files; owned */
	size_t n_seen, seen_cap;
};

static int row_add(void *arg, const struct segment_row *row)
{
	struct table_reader *tr = arg;
	struct check_table *t = &tr->c->table;

	if (array_reserve(&t->list, t->n, &t->cap, sizeof(*t->list)) < 0)
		return -ENOMEM;
	t->list[t->n++] = (struct check_segment){
	        .row = *row, .gen = row->gen, .problems = PROBLEM_NO_FILE, /* until it is seen */
	};
	return 0;
}

static int file_add(void *arg, const char *name, bool is_dir)
{
	struct table_reader *tr = arg;
	struct check_file file = {0};

	if (!is_dir && segment_name_gone_parse(name, &file.id, &file.gen) == 0)
		return 0; /* a wipe was cut off; the next mount ends it */
	if (is_dir || segment_name_parse(name, &file.id, &file.gen) < 0) {
		finding_add(&tr->c->findings, FINDING_ORPHAN_SEGMENT, SEVERITY_NOTE,
		        "'%s' among the segment files is not one of weir's", name);
		return 0;
	}
	if (array_reserve(&tr->seen, tr->n_seen, &tr->seen_cap, sizeof(*tr->seen)) < 0)
		return -ENOMEM;
	tr->seen[tr->n_seen++] = file;
	return 0;
}

static int dir_add(void *arg, const char *name, bool is_dir)
{
	struct table_reader *tr = arg;
	char path[300];

	if (!is_dir || strlen(name) != 2)
		return 0;
	snprintf(path, sizeof(path), "segments/%s", name);
	const int r = io_list(tr->c->io, path, file_add, tr);
	if (r < 0 && r != -ENOMEM) {
		finding_add(&tr->c->findings, FINDING_SEGMENT_FILE, SEVERITY_ERROR,
		        "directory '%s' cannot be read: %s", path, strerror(-r));
		return 0;
	}
	return r;
}

static int file_compare(const void *a, const void *b)
{
	const struct check_file *x = a, *y = b;

	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return x->gen < y->gen ? -1 : x->gen > y->gen;
}

static int segment_compare(const void *a, const void *b)
{
	const struct check_segment *x = a, *y = b;
	return x->row.id < y->row.id ? -1 : x->row.id > y->row.id;
}

static struct check_segment *segment_search(struct check_segment *list, size_t n, uint64_t id)
{
	const struct check_segment key = {.row.id = id};
	return n ? bsearch(&key, list, n, sizeof(key), segment_compare) : NULL;
}

struct check_segment *check_table_find(struct check_table *t, uint64_t id)
{
	return segment_search(t->list, t->n, id);
}

static int stray_add(struct check_table *t, const struct check_file *file)
{
	if (array_reserve(&t->files, t->n_files, &t->files_cap, sizeof(*t->files)) < 0)
		return -ENOMEM;
	t->files[t->n_files++] = *file;
	return 0;
}

/* A file of no row's id: it gets an entry; of several generations the first does. */
static int stranger_add(struct table_reader *tr, const struct check_file *file)
{
	struct check_table *t = &tr->c->table;

	if (t->n > tr->n_rows && t->list[t->n - 1].row.id == file->id)
		return stray_add(t, file);
	if (array_reserve(&t->list, t->n, &t->cap, sizeof(*t->list)) < 0)
		return -ENOMEM;
	t->list[t->n++] = (struct check_segment){
	        .row = {.id = file->id, .gen = file->gen},
	        .gen = file->gen,
	        .problems = PROBLEM_NO_ROW,
	};
	return 0;
}

static int files_match(struct table_reader *tr)
{
	struct check_table *t = &tr->c->table;

	if (tr->n_seen > 0)
		qsort(tr->seen, tr->n_seen, sizeof(*tr->seen), file_compare);
	for (size_t i = 0; i < tr->n_seen; i++) {
		const struct check_file *file = &tr->seen[i];
		struct check_segment *seg = segment_search(t->list, tr->n_rows, file->id);
		int r = 0;

		if (!seg)
			r = stranger_add(tr, file);
		else if (file->gen == seg->row.gen)
			seg->problems &= (uint8_t)~PROBLEM_NO_FILE;
		else
			r = stray_add(t, file);
		if (r < 0)
			return r;
	}
	if (t->n > 0)
		qsort(t->list, t->n, sizeof(*t->list), segment_compare);
	return 0;
}

/* A row whose file is missing may be meant for another generation: the row is what is wrong then.
 */
static void other_generations_take(struct check_table *t)
{
	for (size_t i = 0; i < t->n_files; i++) {
		struct check_segment *seg = check_table_find(t, t->files[i].id);

		if (!seg || !(seg->problems & PROBLEM_NO_FILE))
			continue;
		seg->gen = t->files[i].gen;
		seg->problems = PROBLEM_ROW;
		t->files[i].keep = true;
	}
}

static void strays_report(struct check *c)
{
	for (size_t i = 0; i < c->table.n_files; i++) {
		const struct check_file *file = &c->table.files[i];

		if (file->keep)
			continue;
		struct finding *fi = finding_add(&c->findings, FINDING_ORPHAN_SEGMENT,
		        SEVERITY_NOTE,
		        "no row names generation %u of the file (left by a crash, harmless)",
		        file->gen);
		fi->segment = file->id;
	}
}

static void next_segment_check(struct check *c)
{
	uint64_t last = 0;

	/* Files without a row past it are what a crash leaves of a group: no harm, the ids are
	 * free. */
	for (size_t i = 0; i < c->table.n; i++)
		if (!(c->table.list[i].problems & PROBLEM_NO_ROW))
			last = c->table.list[i].row.id;
	if (last < c->state.next_segment)
		return;
	struct finding *fi = finding_add(&c->findings, FINDING_STATE, SEVERITY_ERROR,
	        "the next segment is said to be %llu, but %llu is in use",
	        (unsigned long long)c->state.next_segment, (unsigned long long)last);
	if (c->repair) {
		c->fix.state.next_segment = last + 1;
		c->fix.state_changed = true;
		finding_mark_repaired(&c->findings, fi);
	}
}

static int table_read(struct table_reader *tr)
{
	struct check *c = tr->c;
	int r = c->meta->ops->segment_each(c->meta, row_add, tr);

	if (r == -ENOMEM)
		return r;
	if (r < 0) {
		c->incomplete = true;
		finding_add(&c->findings, FINDING_METADATA, SEVERITY_ERROR,
		        "not all segment rows can be read from meta.db: %s", strerror(-r));
	}
	tr->n_rows = c->table.n;
	if (c->table.n > 0)
		qsort(c->table.list, c->table.n, sizeof(*c->table.list), segment_compare);
	r = io_list(c->io, "segments", dir_add, tr);
	if (r == -ENOMEM)
		return r;
	if (r < 0)
		finding_add(&c->findings, FINDING_SEGMENT_FILE, SEVERITY_LOSS,
		        "directory 'segments' cannot be read: %s", strerror(-r));
	r = files_match(tr);
	if (r < 0)
		return r;
	other_generations_take(&c->table);
	strays_report(c);
	next_segment_check(c);
	return 0;
}

int check_table_read(struct check *c)
{
	struct table_reader tr = {.c = c};
	const int r = table_read(&tr);

	free(tr.seen);
	return r;
}

void check_table_release(struct check_table *t)
{
	for (size_t i = 0; i < t->n; i++)
		free(t->list[i].slots);
	free(t->list);
	free(t->files);
	*t = (struct check_table){0};
}
