/*
 * heat.c - the map and the counters of regions
 *
 * Cells: [columns][rows][read, write], the ring turned by column.  When an offset lies past the last
 * row, rows are folded: each pair becomes one, in every column, until it fits; so the map covers
 * the image from the start with cells of one size, whatever it grew to.
 *
 * Regions: entries lie in a binary heap, the coldest first; a table with linear probing finds them
 * by region, and each swap of the heap tells the table.  A region without a counter takes over the
 * coldest one, with its count as error.  Counts are kept in units that grow with time,
 * 2^(t / half-life), so that nothing has to be touched to decay; they are scaled back when the unit
 * gets large.
 */
#include "stage/builtin/heat.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "stage/builtin/block-hash.h"

#define UNIT_MAX  0x1p40
#define SHIFT_MIN 12u

struct counter {
	uint64_t region;
	double weight[2], error;
	uint32_t at; /* in table */
};

struct heat {
	const struct stage_host *host;
	struct heat_config config;
	unsigned row_shift;
	uint64_t column;       /* number of the one under way: time / column_ns */
	uint64_t column_first; /* at the reset */
	uint64_t unit_ns;      /* when the unit was 1 */
	double all;
	uint32_t n, table_mask;
	uint32_t *cells;
	uint64_t *totals;
	struct counter *heap;
	uint32_t *table; /* heap index + 1; 0: empty */
};

static uint32_t table_size(uint32_t regions)
{
	uint32_t n = 1;

	while (n < 2 * regions)
		n *= 2;
	return n;
}

size_t heat_bytes(const struct heat_config *c)
{
	return sizeof(struct heat) + (size_t)c->rows * 2 * sizeof(uint64_t) +
	       c->regions * sizeof(struct counter) +
	       ((size_t)c->rows * c->columns * 2 + table_size(c->regions)) * sizeof(uint32_t);
}

int heat_new(const struct stage_host *host, const struct heat_config *config, uint64_t now_ns,
        struct heat **ret_heat)
{
	struct heat *h = host->alloc(heat_bytes(config));

	if (!h)
		return -ENOMEM;
	memset(h, 0, sizeof(*h));
	h->host = host;
	h->config = *config;
	h->table_mask = table_size(config->regions) - 1;
	h->totals = (uint64_t *)(h + 1);
	h->heap = (struct counter *)(h->totals + (size_t)config->rows * 2);
	h->cells = (uint32_t *)(h->heap + config->regions);
	h->table = h->cells + (size_t)config->rows * config->columns * 2;
	heat_reset(h, now_ns);
	*ret_heat = h;
	return 0;
}

void heat_free(struct heat *h)
{
	if (h)
		h->host->free(h);
}

void heat_reset(struct heat *h, uint64_t now_ns)
{
	const struct heat_config *c = &h->config;

	for (h->row_shift = SHIFT_MIN; (uint64_t)c->rows << h->row_shift < c->image_bytes;)
		h->row_shift++;
	h->column = h->column_first = now_ns / c->column_ns;
	h->unit_ns = now_ns;
	h->all = 0;
	h->n = 0;
	memset(h->totals, 0, (size_t)c->rows * 2 * sizeof(*h->totals));
	memset(h->cells, 0, (size_t)c->rows * c->columns * 2 * sizeof(*h->cells));
	memset(h->table, 0, (h->table_mask + 1) * sizeof(*h->table));
}

/* --- the map --- */

static uint32_t *cell(const struct heat *h, uint64_t column, uint32_t row)
{
	return h->cells + ((column % h->config.columns) * h->config.rows + row) * 2;
}

void heat_turn(struct heat *h, uint64_t now_ns)
{
	const uint64_t column = now_ns / h->config.column_ns;

	if (column <= h->column)
		return; /* a clock that was read before another thread's */
	const uint64_t wipe = MIN(column - h->column, h->config.columns);
	for (uint64_t i = 0; i < wipe; i++)
		memset(cell(h, column - i, 0), 0, (size_t)h->config.rows * 2 * sizeof(uint32_t));
	h->column = column;
}

static void rows_fold(struct heat *h)
{
	const uint32_t rows = h->config.rows;

	for (uint32_t c = 0; c < h->config.columns; c++) {
		uint32_t *cells = cell(h, c, 0);
		for (uint32_t i = 0; i < rows; i++) {
			const uint32_t n = cells[2 * i], m = cells[2 * i + 1];
			cells[2 * i] = cells[2 * i + 1] = 0;
			cells[i / 2 * 2] += n;
			cells[i / 2 * 2 + 1] += m;
		}
	}
	for (uint32_t i = 0; i < rows; i++) {
		const uint64_t n = h->totals[2 * i], m = h->totals[2 * i + 1];
		h->totals[2 * i] = h->totals[2 * i + 1] = 0;
		h->totals[i / 2 * 2] += n;
		h->totals[i / 2 * 2 + 1] += m;
	}
	h->row_shift++;
}

static uint32_t row_of(struct heat *h, uint64_t off)
{
	while (off >> h->row_shift >= h->config.rows)
		rows_fold(h);
	return (uint32_t)(off >> h->row_shift);
}

void heat_add_total(struct heat *h, uint64_t off, bool is_write, uint64_t n)
{
	h->totals[(size_t)row_of(h, off) * 2 + is_write] += n;
}

uint64_t heat_row_bytes(const struct heat *h)
{
	return 1ull << h->row_shift;
}

uint32_t heat_rows(const struct heat *h)
{
	return h->config.rows;
}

uint32_t heat_columns(const struct heat *h)
{
	return (uint32_t)MIN(h->column - h->column_first + 1, h->config.columns);
}

uint32_t heat_cell(const struct heat *h, uint32_t column, uint32_t row, bool is_write)
{
	const uint64_t first = h->column + 1 - heat_columns(h);

	return cell(h, first + column, row)[is_write];
}

uint64_t heat_total(const struct heat *h, uint32_t row, bool is_write)
{
	return h->totals[(size_t)row * 2 + is_write];
}

/* --- regions --- */

static double counter_sum(const struct counter *c)
{
	return c->weight[0] + c->weight[1];
}

static void heap_swap(struct heat *h, uint32_t a, uint32_t b)
{
	const struct counter t = h->heap[a];

	h->heap[a] = h->heap[b];
	h->heap[b] = t;
	h->table[h->heap[a].at] = a + 1;
	h->table[h->heap[b].at] = b + 1;
}

/* An entry got hotter: down, away from the coldest. */
static void heap_down(struct heat *h, uint32_t i)
{
	for (;;) {
		uint32_t cold = i;
		for (uint32_t child = 2 * i + 1; child <= 2 * i + 2 && child < h->n; child++)
			if (counter_sum(&h->heap[child]) < counter_sum(&h->heap[cold]))
				cold = child;
		if (cold == i)
			return;
		heap_swap(h, i, cold);
		i = cold;
	}
}

static void heap_up(struct heat *h, uint32_t i)
{
	while (i && counter_sum(&h->heap[i]) < counter_sum(&h->heap[(i - 1) / 2])) {
		heap_swap(h, i, (i - 1) / 2);
		i = (i - 1) / 2;
	}
}

static uint32_t region_home(const struct heat *h, uint64_t region)
{
	return (uint32_t)block_hash(region) & h->table_mask;
}

static uint32_t table_find(const struct heat *h, uint64_t region)
{
	uint32_t at = region_home(h, region);

	while (h->table[at] && h->heap[h->table[at] - 1].region != region)
		at = (at + 1) & h->table_mask;
	return at;
}

static void table_remove(struct heat *h, uint32_t gap)
{
	for (uint32_t at = (gap + 1) & h->table_mask; h->table[at]; at = (at + 1) & h->table_mask) {
		struct counter *c = &h->heap[h->table[at] - 1];
		const uint32_t home = region_home(h, c->region);
		if (((at - home) & h->table_mask) < ((at - gap) & h->table_mask))
			continue;
		h->table[gap] = h->table[at];
		c->at = gap;
		gap = at;
	}
	h->table[gap] = 0;
}

/* A counter for a region that has none: a free one, or the coldest with its count as error. */
static void region_adopt(struct heat *h, uint64_t region, bool is_write, double weight)
{
	uint32_t i = h->n;

	if (i == h->config.regions) {
		const double before = counter_sum(&h->heap[0]);
		struct counter *c = &h->heap[0];

		table_remove(h, c->at);
		c->region = region;
		c->error = before;
		c->weight[is_write] = before + weight;
		c->weight[!is_write] = 0; /* what it was of is not known */
		i = 0;
	} else {
		h->n++;
		h->heap[i] = (struct counter){.region = region};
		h->heap[i].weight[is_write] = weight;
	}
	/* Emptied or not yet in: the search must not meet it. */
	h->heap[i].at = UINT32_MAX;
	uint32_t at = region_home(h, region);
	while (h->table[at])
		at = (at + 1) & h->table_mask;
	h->table[at] = i + 1;
	h->heap[i].at = at;
	heap_up(h, i);
	heap_down(h, i);
}

static double unit_at(struct heat *h, uint64_t now_ns)
{
	const double half_lives =
	        now_ns > h->unit_ns ? (double)(now_ns - h->unit_ns) / (double)h->config.half_life_ns
	                            : 0;
	const double unit = exp2(half_lives);

	if (unit < UNIT_MAX)
		return unit;
	for (uint32_t i = 0; i < h->n; i++) {
		h->heap[i].weight[0] /= unit;
		h->heap[i].weight[1] /= unit;
		h->heap[i].error /= unit;
	}
	h->all /= unit;
	h->unit_ns = now_ns;
	return 1;
}

static void region_note(struct heat *h, uint64_t region, bool is_write, double weight)
{
	const uint32_t at = table_find(h, region);

	h->all += weight;
	if (!h->table[at]) {
		region_adopt(h, region, is_write, weight);
		return;
	}
	const uint32_t i = h->table[at] - 1;
	h->heap[i].weight[is_write] += weight;
	heap_down(h, i);
}

void heat_note(struct heat *h, uint64_t now_ns, uint64_t off, bool is_write, uint32_t weight)
{
	const uint32_t row = row_of(h, off);

	heat_turn(h, now_ns);
	cell(h, h->column, row)[is_write] += weight;
	h->totals[(size_t)row * 2 + is_write] += weight;
	region_note(h, off >> h->config.region_shift, is_write, weight * unit_at(h, now_ns));
}

static int region_order(const void *a, const void *b)
{
	const struct heat_region *x = a, *y = b;
	const double d = x->reads + x->writes - y->reads - y->writes;

	return d > 0 ? -1 : d < 0 ? 1 : x->region < y->region ? -1 : 1;
}

/* Puts r into the list of the hottest so far, in order. */
static uint32_t region_insert(
        struct heat_region *list, uint32_t n, uint32_t max, const struct heat_region *r)
{
	uint32_t i = n;

	while (i && region_order(r, &list[i - 1]) < 0)
		i--;
	if (i == max)
		return n;
	memmove(list + i + 1, list + i, (MIN(n, max - 1) - i) * sizeof(*list));
	list[i] = *r;
	return MIN(n + 1, max);
}

uint32_t heat_hottest(
        struct heat *h, uint64_t now_ns, struct heat_region *regions, uint32_t max, double *ret_all)
{
	const double unit = unit_at(h, now_ns);
	uint32_t n = 0;

	for (uint32_t i = 0; i < h->n; i++) {
		const struct counter *c = &h->heap[i];
		const struct heat_region r = {
		        c->region, c->weight[0] / unit, c->weight[1] / unit, c->error / unit};
		n = region_insert(regions, n, max, &r);
	}
	*ret_all = h->all / unit;
	return n;
}
