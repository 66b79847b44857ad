/*
 * fake-meta.c - a metadata store in memory
 *
 * The committed rows are tables sorted by id, behind one rwlock.  A transaction is a list of
 * changes that nobody sees; commit applies it under the lock, rollback throws it away.  Blobs are
 * copied in and out, so what a caller does with its buffer afterwards is no matter.  Memory that
 * runs out aborts the test.
 */
#include "fake-meta.h"

#include <errno.h>
#include <pthread.h>

#include "base/bytes.h"

#define EACH_BATCH 256

/* Rows of one kind, sorted by id; a row's content is len bytes. */
struct row {
	uint64_t id;
	void *data; /* owned */
	size_t len;
};

struct table {
	struct row *rows;
	size_t n, cap;
};

enum change_kind {
	CHANGE_NODE,
	CHANGE_IMAGE,
	CHANGE_SEGMENT,
	CHANGE_PARKED,
	CHANGE_SNAPSHOT,
	CHANGE_STATE,
	CHANGE_ROWS,
};
#define TABLES 5 /* the first kinds have one */

/* Parked records lie by image << PARKED_SHIFT | id. */
#define PARKED_SHIFT 32

struct change {
	enum change_kind kind;
	bool del;
	struct row row;
};

struct fault {
	unsigned k, count; /* calls until the first failure, failures; count 0: none */
	int err;
	uint64_t calls;
};

struct fake_meta {
	struct meta meta;
	pthread_rwlock_t lock; /* the committed state */
	struct table tables[TABLES];
	struct store_state state;
	struct bytes_out rows;
	uint64_t commits, scrubs;

	pthread_mutex_t mutex; /* the transaction's list, faults and hook */
	bool open;
	pthread_t owner;
	struct change *changes;
	size_t n_changes, cap_changes;
	struct fault writes, reads;
	fake_meta_hook_fn *hook;
	void *hook_arg;
};

static struct fake_meta *fake(struct meta *m)
{
	return CONTAINER_OF(m, struct fake_meta, meta);
}

static void *memory(void *p)
{
	ASSERT(p);
	return p;
}

static void *copy_of(const void *data, size_t len)
{
	return memcpy(memory(malloc(len + 1)), data, len);
}

/* --- tables --- */

/* The first row with an id not below this one. */
static size_t table_find(const struct table *t, uint64_t id)
{
	size_t low = 0, high = t->n;

	while (low < high) {
		const size_t mid = low + (high - low) / 2;

		if (t->rows[mid].id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static struct row *table_get(struct table *t, uint64_t id)
{
	const size_t i = table_find(t, id);

	return i < t->n && t->rows[i].id == id ? t->rows + i : NULL;
}

/* Takes ownership of the row's data. */
static void table_put(struct table *t, struct row row)
{
	const size_t i = table_find(t, row.id);

	if (i < t->n && t->rows[i].id == row.id) {
		free(t->rows[i].data);
		t->rows[i] = row;
		return;
	}
	if (t->n == t->cap) {
		t->cap = t->cap ? t->cap * 2 : 64;
		t->rows = memory(realloc(t->rows, t->cap * sizeof(*t->rows)));
	}
	memmove(t->rows + i + 1, t->rows + i, (t->n - i) * sizeof(*t->rows));
	t->rows[i] = row;
	t->n++;
}

static void table_del(struct table *t, uint64_t id)
{
	struct row *row = table_get(t, id);

	if (!row)
		return;
	free(row->data);
	memmove(row, row + 1, (size_t)(t->rows + t->n - row - 1) * sizeof(*row));
	t->n--;
}

/* --- faults --- */

static int fault_hit(struct fake_meta *f, struct fault *fault)
{
	int r = 0;

	pthread_mutex_lock(&f->mutex);
	fault->calls++;
	if (fault->count && --fault->k == 0) {
		fault->k = 1;
		fault->count--;
		r = fault->err;
	}
	pthread_mutex_unlock(&f->mutex);
	return r;
}

static void fault_set(struct fake_meta *f, struct fault *fault, unsigned k, unsigned count, int err)
{
	ASSERT(k >= 1 && err < 0);
	pthread_mutex_lock(&f->mutex);
	fault->k = k;
	fault->count = count;
	fault->err = err;
	pthread_mutex_unlock(&f->mutex);
}

void fake_meta_fail_writes(struct fake_meta *f, unsigned k, unsigned count, int err)
{
	fault_set(f, &f->writes, k, count, err);
}

void fake_meta_fail_reads(struct fake_meta *f, unsigned k, unsigned count, int err)
{
	fault_set(f, &f->reads, k, count, err);
}

/* --- reading --- */

static int fake_state_get(struct meta *m, struct store_state *ret_state)
{
	struct fake_meta *f = fake(m);
	const int r = fault_hit(f, &f->reads);

	if (r < 0)
		return r;
	pthread_rwlock_rdlock(&f->lock);
	*ret_state = f->state;
	pthread_rwlock_unlock(&f->lock);
	return 0;
}

static int row_read(struct fake_meta *f, enum change_kind kind, uint64_t id, void *buf, size_t cap,
        size_t *ret_len)
{
	int r = -ENOENT;

	pthread_rwlock_rdlock(&f->lock);
	const struct row *row = table_get(&f->tables[kind], id);
	if (row && row->len > cap) {
		r = -EIO;
	} else if (row) {
		memcpy(buf, row->data, row->len);
		*ret_len = row->len;
		r = 0;
	}
	pthread_rwlock_unlock(&f->lock);
	return r;
}

static int fake_node_get(struct meta *m, uint64_t id, void *buf, size_t cap, size_t *ret_len)
{
	struct fake_meta *f = fake(m);
	int r = fault_hit(f, &f->reads);

	if (r < 0)
		return r;
	r = row_read(f, CHANGE_NODE, id, buf, cap, ret_len);
	pthread_mutex_lock(&f->mutex);
	fake_meta_hook_fn *hook = f->hook;
	void *arg = f->hook_arg;
	pthread_mutex_unlock(&f->mutex);
	if (hook)
		hook(arg, id);
	return r;
}

static int fake_image_get(struct meta *m, uint64_t image, struct image_row *ret_row)
{
	struct fake_meta *f = fake(m);
	const int r = fault_hit(f, &f->reads);
	size_t len;

	return r < 0 ? r : row_read(f, CHANGE_IMAGE, image, ret_row, sizeof(*ret_row), &len);
}

static int fake_snapshot_get(struct meta *m, uint64_t id, struct snapshot_row *ret_row)
{
	struct fake_meta *f = fake(m);
	const int r = fault_hit(f, &f->reads);
	size_t len;

	return r < 0 ? r : row_read(f, CHANGE_SNAPSHOT, id, ret_row, sizeof(*ret_row), &len);
}

/* Calls fn for rows in [first, last], in order, in batches, without the lock. */
static int each(struct fake_meta *f, enum change_kind kind, uint64_t first, uint64_t last,
        int (*fn)(void *arg, uint64_t id, const void *data, size_t len), void *arg)
{
	struct row batch[EACH_BATCH];
	int r = fault_hit(f, &f->reads);
	size_t n;

	do {
		n = 0;
		pthread_rwlock_rdlock(&f->lock);
		const struct table *t = &f->tables[kind];
		for (size_t i = table_find(t, first);
		        i < t->n && n < EACH_BATCH && t->rows[i].id <= last; i++)
			batch[n++] = (struct row){.id = t->rows[i].id,
			        .data = copy_of(t->rows[i].data, t->rows[i].len),
			        .len = t->rows[i].len};
		pthread_rwlock_unlock(&f->lock);
		for (size_t i = 0; i < n; i++) {
			if (r == 0)
				r = fn(arg, batch[i].id, batch[i].data, batch[i].len);
			free(batch[i].data);
		}
		if (n > 0)
			first = batch[n - 1].id + 1;
	} while (n == EACH_BATCH && r == 0 && first != 0);
	return r;
}

struct each_arg {
	void *arg;
	image_row_fn *image;
	snapshot_row_fn *snapshot;
	segment_row_fn *segment;
	node_id_fn *node;
	parked_fn *parked;
};

static int each_image(void *arg, uint64_t id, const void *data, size_t len)
{
	const struct each_arg *e = arg;
	return e->image(e->arg, data);
}

static int each_snapshot(void *arg, uint64_t id, const void *data, size_t len)
{
	const struct each_arg *e = arg;
	return e->snapshot(e->arg, data);
}

static int each_segment(void *arg, uint64_t id, const void *data, size_t len)
{
	const struct each_arg *e = arg;
	return e->segment(e->arg, data);
}

static int each_node(void *arg, uint64_t id, const void *data, size_t len)
{
	const struct each_arg *e = arg;
	return e->node(e->arg, id);
}

static int each_parked(void *arg, uint64_t id, const void *data, size_t len)
{
	const struct each_arg *e = arg;
	return e->parked(e->arg, id >> PARKED_SHIFT, id & UINT32_MAX, data, len);
}

static int fake_image_each(struct meta *m, image_row_fn *fn, void *arg)
{
	struct each_arg e = {.arg = arg, .image = fn};
	return each(fake(m), CHANGE_IMAGE, 0, UINT64_MAX, each_image, &e);
}

static int fake_snapshot_each(struct meta *m, snapshot_row_fn *fn, void *arg)
{
	struct each_arg e = {.arg = arg, .snapshot = fn};
	return each(fake(m), CHANGE_SNAPSHOT, 0, UINT64_MAX, each_snapshot, &e);
}

static int fake_segment_each(struct meta *m, segment_row_fn *fn, void *arg)
{
	struct each_arg e = {.arg = arg, .segment = fn};
	return each(fake(m), CHANGE_SEGMENT, 0, UINT64_MAX, each_segment, &e);
}

static int fake_node_each(struct meta *m, uint64_t first, uint64_t last, node_id_fn *fn, void *arg)
{
	struct each_arg e = {.arg = arg, .node = fn};
	return each(fake(m), CHANGE_NODE, first, last, each_node, &e);
}

static int fake_parked_each(struct meta *m, uint64_t image, parked_fn *fn, void *arg)
{
	struct each_arg e = {.arg = arg, .parked = fn};
	const uint64_t first = image << PARKED_SHIFT;
	return each(fake(m), CHANGE_PARKED, first, image ? first | UINT32_MAX : UINT64_MAX,
	        each_parked, &e);
}

/* --- the transaction --- */

static int fake_begin(struct meta *m)
{
	struct fake_meta *f = fake(m);
	const int r = fault_hit(f, &f->writes);

	if (r < 0)
		return r;
	pthread_mutex_lock(&f->mutex);
	ASSERT(!f->open);
	f->open = true;
	f->owner = pthread_self();
	pthread_mutex_unlock(&f->mutex);
	return 0;
}

static int change_add(
        struct meta *m, enum change_kind kind, bool del, uint64_t id, const void *data, size_t len)
{
	struct fake_meta *f = fake(m);
	const int r = fault_hit(f, &f->writes);

	if (r < 0)
		return r;
	pthread_mutex_lock(&f->mutex);
	ASSERT(f->open && pthread_equal(f->owner, pthread_self()));
	if (f->n_changes == f->cap_changes) {
		f->cap_changes = f->cap_changes ? f->cap_changes * 2 : 64;
		f->changes = memory(realloc(f->changes, f->cap_changes * sizeof(*f->changes)));
	}
	f->changes[f->n_changes++] = (struct change){.kind = kind,
	        .del = del,
	        .row = {.id = id, .data = del ? NULL : copy_of(data, len), .len = len}};
	pthread_mutex_unlock(&f->mutex);
	return 0;
}

static int fake_node_put(struct meta *m, uint64_t id, const void *blob, size_t len)
{
	ASSERT(id >= 1 && id <= INT64_MAX && len <= NODE_BLOB_MAX);
	return change_add(m, CHANGE_NODE, false, id, blob, len);
}

static int fake_node_del(struct meta *m, uint64_t id)
{
	return change_add(m, CHANGE_NODE, true, id, NULL, 0);
}

static int fake_image_put(struct meta *m, const struct image_row *row)
{
	return change_add(m, CHANGE_IMAGE, false, row->image, row, sizeof(*row));
}

static int fake_image_del(struct meta *m, uint64_t image)
{
	return change_add(m, CHANGE_IMAGE, true, image, NULL, 0);
}

static int fake_snapshot_put(struct meta *m, const struct snapshot_row *row)
{
	return change_add(m, CHANGE_SNAPSHOT, false, row->id, row, sizeof(*row));
}

static int fake_snapshot_del(struct meta *m, uint64_t id)
{
	return change_add(m, CHANGE_SNAPSHOT, true, id, NULL, 0);
}

static int fake_segment_put(struct meta *m, const struct segment_row *row)
{
	return change_add(m, CHANGE_SEGMENT, false, row->id, row, sizeof(*row));
}

static int fake_segment_del(struct meta *m, uint64_t id)
{
	return change_add(m, CHANGE_SEGMENT, true, id, NULL, 0);
}

static int fake_parked_put(
        struct meta *m, uint64_t image, uint64_t id, const void *blob, size_t len)
{
	ASSERT(image && id && id <= UINT32_MAX);
	return change_add(m, CHANGE_PARKED, false, image << PARKED_SHIFT | id, blob, len);
}

/* With id 0: all of the image. */
static int fake_parked_del(struct meta *m, uint64_t image, uint64_t id)
{
	return change_add(m, CHANGE_PARKED, true, image << PARKED_SHIFT | id, NULL, 0);
}

static int fake_rows_apply(struct meta *m, const void *rows, size_t len)
{
	return change_add(m, CHANGE_ROWS, false, 0, rows, len);
}

static int fake_state_put(struct meta *m, const struct store_state *state)
{
	return change_add(m, CHANGE_STATE, false, 0, state, sizeof(*state));
}

static void changes_drop(struct fake_meta *f)
{
	for (size_t i = 0; i < f->n_changes; i++)
		free(f->changes[i].row.data);
	f->n_changes = 0;
	f->open = false;
}

/* Takes the change's data. */
static void change_apply(struct fake_meta *f, struct change *c)
{
	if (c->kind == CHANGE_PARKED && c->del && !(c->row.id & UINT32_MAX)) {
		struct table *t = &f->tables[CHANGE_PARKED];
		size_t i;

		while ((i = table_find(t, c->row.id)) < t->n &&
		        t->rows[i].id >> PARKED_SHIFT == c->row.id >> PARKED_SHIFT)
			table_del(t, t->rows[i].id);
	} else if (c->kind < TABLES && c->del) {
		table_del(&f->tables[c->kind], c->row.id);
	} else if (c->kind < TABLES) {
		table_put(&f->tables[c->kind], c->row);
		c->row.data = NULL;
	} else if (c->kind == CHANGE_STATE) {
		const struct store_state *s = c->row.data;

		ASSERT(memcmp(s->uuid, f->state.uuid, sizeof(s->uuid)) == 0);
		ASSERT(memcmp(s->domain_key, f->state.domain_key, sizeof(s->domain_key)) == 0);
		f->state = *s;
	} else if (c->row.len > 0) {
		memory(bytes_append(&f->rows, c->row.data, c->row.len));
	}
}

static int fake_commit(struct meta *m)
{
	struct fake_meta *f = fake(m);
	const int r = fault_hit(f, &f->writes);

	if (r < 0)
		return r;
	pthread_mutex_lock(&f->mutex);
	ASSERT(f->open && pthread_equal(f->owner, pthread_self()));
	pthread_rwlock_wrlock(&f->lock);
	for (size_t i = 0; i < f->n_changes; i++)
		change_apply(f, f->changes + i);
	f->commits++;
	pthread_rwlock_unlock(&f->lock);
	changes_drop(f);
	pthread_mutex_unlock(&f->mutex);
	return 0;
}

static void fake_rollback(struct meta *m)
{
	struct fake_meta *f = fake(m);

	pthread_mutex_lock(&f->mutex);
	ASSERT(!f->open || pthread_equal(f->owner, pthread_self()));
	changes_drop(f);
	pthread_mutex_unlock(&f->mutex);
}

static int fake_scrub(struct meta *m)
{
	struct fake_meta *f = fake(m);
	const int r = fault_hit(f, &f->writes);

	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&f->lock);
	f->scrubs++;
	pthread_rwlock_unlock(&f->lock);
	return 0;
}

static const struct meta_ops fake_ops = {
        .state_get = fake_state_get,
        .node_get = fake_node_get,
        .image_get = fake_image_get,
        .image_each = fake_image_each,
        .snapshot_get = fake_snapshot_get,
        .snapshot_each = fake_snapshot_each,
        .segment_each = fake_segment_each,
        .node_each = fake_node_each,
        .parked_each = fake_parked_each,
        .begin = fake_begin,
        .node_put = fake_node_put,
        .node_del = fake_node_del,
        .image_put = fake_image_put,
        .image_del = fake_image_del,
        .snapshot_put = fake_snapshot_put,
        .snapshot_del = fake_snapshot_del,
        .segment_put = fake_segment_put,
        .segment_del = fake_segment_del,
        .parked_put = fake_parked_put,
        .parked_del = fake_parked_del,
        .rows_apply = fake_rows_apply,
        .state_put = fake_state_put,
        .commit = fake_commit,
        .rollback = fake_rollback,
        .scrub = fake_scrub,
};

/* --- for the tests --- */

struct fake_meta *fake_meta_create(void)
{
	struct fake_meta *f = memory(calloc(1, sizeof(*f)));

	f->meta.ops = &fake_ops;
	pthread_rwlock_init(&f->lock, NULL);
	pthread_mutex_init(&f->mutex, NULL);
	f->state.next_segment = 1;
	f->state.next_node = 1;
	for (unsigned i = 0; i < sizeof(f->state.uuid); i++)
		f->state.uuid[i] = (uint8_t)(i + 1);
	for (unsigned i = 0; i < sizeof(f->state.domain_key); i++)
		f->state.domain_key[i] = (uint8_t)(i * 7 + 3);
	return f;
}

void fake_meta_free(struct fake_meta *f)
{
	if (!f)
		return;
	changes_drop(f);
	for (unsigned k = 0; k < TABLES; k++) {
		for (size_t i = 0; i < f->tables[k].n; i++)
			free(f->tables[k].rows[i].data);
		free(f->tables[k].rows);
	}
	free(f->changes);
	bytes_release(&f->rows);
	pthread_mutex_destroy(&f->mutex);
	pthread_rwlock_destroy(&f->lock);
	free(f);
}

struct meta *fake_meta_port(struct fake_meta *f)
{
	return &f->meta;
}

void fake_meta_crash(struct fake_meta *f)
{
	pthread_mutex_lock(&f->mutex);
	changes_drop(f);
	f->writes.count = 0;
	f->reads.count = 0;
	pthread_mutex_unlock(&f->mutex);
}

static uint64_t calls_of(struct fake_meta *f, const struct fault *fault)
{
	pthread_mutex_lock(&f->mutex);
	const uint64_t calls = fault->calls;
	pthread_mutex_unlock(&f->mutex);
	return calls;
}

uint64_t fake_meta_writes(struct fake_meta *f)
{
	return calls_of(f, &f->writes);
}

uint64_t fake_meta_reads(struct fake_meta *f)
{
	return calls_of(f, &f->reads);
}

uint64_t fake_meta_commits(struct fake_meta *f)
{
	pthread_rwlock_rdlock(&f->lock);
	const uint64_t commits = f->commits;
	pthread_rwlock_unlock(&f->lock);
	return commits;
}

void fake_meta_on_node_get(struct fake_meta *f, fake_meta_hook_fn *fn, void *arg)
{
	pthread_mutex_lock(&f->mutex);
	f->hook = fn;
	f->hook_arg = arg;
	pthread_mutex_unlock(&f->mutex);
}

uint64_t fake_meta_scrubs(struct fake_meta *f)
{
	pthread_rwlock_rdlock(&f->lock);
	const uint64_t scrubs = f->scrubs;
	pthread_rwlock_unlock(&f->lock);
	return scrubs;
}

size_t fake_meta_parked_count(struct fake_meta *f)
{
	pthread_rwlock_rdlock(&f->lock);
	const size_t n = f->tables[CHANGE_PARKED].n;
	pthread_rwlock_unlock(&f->lock);
	return n;
}

size_t fake_meta_node_count(struct fake_meta *f)
{
	pthread_rwlock_rdlock(&f->lock);
	const size_t n = f->tables[CHANGE_NODE].n;
	pthread_rwlock_unlock(&f->lock);
	return n;
}

bool fake_meta_node_exists(struct fake_meta *f, uint64_t id)
{
	pthread_rwlock_rdlock(&f->lock);
	const bool exists = table_get(&f->tables[CHANGE_NODE], id);
	pthread_rwlock_unlock(&f->lock);
	return exists;
}

void fake_meta_node_damage(struct fake_meta *f, uint64_t id, size_t bit)
{
	pthread_rwlock_wrlock(&f->lock);
	struct row *row = table_get(&f->tables[CHANGE_NODE], id);
	ASSERT(row && row->len);
	((uint8_t *)row->data)[bit / 8 % row->len] ^= (uint8_t)(1 << bit % 8);
	pthread_rwlock_unlock(&f->lock);
}

void fake_meta_node_remove(struct fake_meta *f, uint64_t id)
{
	pthread_rwlock_wrlock(&f->lock);
	table_del(&f->tables[CHANGE_NODE], id);
	pthread_rwlock_unlock(&f->lock);
}

void fake_meta_image_set(struct fake_meta *f, const struct image_row *row)
{
	pthread_rwlock_wrlock(&f->lock);
	table_put(&f->tables[CHANGE_IMAGE],
	        (struct row){
	                .id = row->image, .data = copy_of(row, sizeof(*row)), .len = sizeof(*row)});
	pthread_rwlock_unlock(&f->lock);
}

const uint8_t *fake_meta_rows(struct fake_meta *f, size_t *ret_len)
{
	pthread_rwlock_rdlock(&f->lock);
	*ret_len = f->rows.len;
	const uint8_t *data = f->rows.data;
	pthread_rwlock_unlock(&f->lock);
	return data;
}
