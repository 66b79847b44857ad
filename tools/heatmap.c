/*
 * heatmap.c - a map from JSON, and as text and SVG
 *
 * The answer of the daemon is checked like any input: sizes against limits, lists against sizes.
 */
#include "tools/heatmap.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "tools/heatmap-draw.h"
#include "tools/print.h"
#include "tools/target.h"

/* --- parsing --- */

static int parse_row(const json_t *list, uint32_t rows, double *ret_row)
{
	if (json_array_size(list) != rows)
		return -EBADMSG;
	for (uint32_t i = 0; i < rows; i++) {
		const json_t *n = json_array_get(list, i);
		if (!json_is_number(n) || !(json_number_value(n) >= 0))
			return -EBADMSG;
		ret_row[i] = json_number_value(n);
	}
	return 0;
}

static int parse_kind(struct heatmap *m, unsigned kind, const json_t *cells, const json_t *totals)
{
	m->cells[kind] = calloc((size_t)m->rows * m->columns, sizeof(double));
	m->totals[kind] = calloc(m->rows, sizeof(double));
	if (!m->cells[kind] || !m->totals[kind])
		return -ENOMEM;
	if (json_array_size(cells) != m->columns)
		return -EBADMSG;
	int r = parse_row(totals, m->rows, m->totals[kind]);
	for (uint32_t c = 0; c < m->columns && r == 0; c++)
		r = parse_row(
		        json_array_get(cells, c), m->rows, m->cells[kind] + (size_t)c * m->rows);
	return r;
}

static void find_maxima(struct heatmap *m)
{
	for (size_t i = 0; i < (size_t)m->rows * m->columns; i++)
		m->cell_max = fmax(m->cell_max, m->cells[0][i] + m->cells[1][i]);
	for (uint32_t i = 0; i < m->rows; i++)
		m->total_max = fmax(m->total_max, m->totals[0][i] + m->totals[1][i]);
}

int heatmap_parse(const json_t *json, struct heatmap *ret_map)
{
	struct heatmap m = {
	        .rows = (uint32_t)MIN(json_u64(json, "rows"), HEATMAP_ROWS_MAX + 1),
	        .columns = (uint32_t)MIN(json_u64(json, "columns"), HEATMAP_COLUMNS_MAX + 1),
	        .row_bytes = json_u64(json, "row_bytes"),
	        .size_bytes = json_u64(json, "size_bytes"),
	        .column_seconds = json_num(json, "column_seconds"),
	        .end_wall_ns = json_u64(json, "end_wall_ns"),
	};

	if (m.rows < 1 || m.rows > HEATMAP_ROWS_MAX || m.columns < 1 ||
	        m.columns > HEATMAP_COLUMNS_MAX || !m.row_bytes || m.row_bytes > 1ull << 44 ||
	        !(m.column_seconds > 0))
		return -EBADMSG;
	int r = parse_kind(
	        &m, 0, json_object_get(json, "reads"), json_object_get(json, "reads_total"));
	if (r == 0)
		r = parse_kind(&m, 1, json_object_get(json, "writes"),
		        json_object_get(json, "writes_total"));
	if (r < 0) {
		heatmap_release(&m);
		return r;
	}
	find_maxima(&m);
	*ret_map = m;
	return 0;
}

void heatmap_release(struct heatmap *m)
{
	for (unsigned k = 0; k < 2; k++) {
		free(m->cells[k]);
		free(m->totals[k]);
	}
	*m = (struct heatmap){0};
}

uint32_t heatmap_rows_used(const struct heatmap *m)
{
	const uint64_t rows = DIV_UP(m->size_bytes, m->row_bytes);

	return rows < 1 ? 1 : rows < m->rows ? (uint32_t)rows : m->rows;
}

double heatmap_level(double n, double max)
{
	if (n <= 0 || max <= 0)
		return 0;
	/* The coldest that was used at all is not nothing. */
	return fmin(1, fmax(0.08, 1 + log10(n / max) / 3));
}

/* --- text --- */

struct text_map {
	const struct heatmap *m;
	uint32_t rows, columns; /* of m, used */
	unsigned lines, width;  /* on the terminal */
	const char *const *shades;
	unsigned n_shades;
};

/* Sum of a block of cells. */
static double block_sum(const struct text_map *t, unsigned line, unsigned x)
{
	const uint32_t r0 = line * t->rows / t->lines, r1 = (line + 1) * t->rows / t->lines;
	const uint32_t c0 = x * t->columns / t->width, c1 = (x + 1) * t->columns / t->width;
	double sum = 0;

	for (uint32_t c = c0; c < c1; c++)
		for (uint32_t r = r0; r < r1; r++) {
			const size_t i = (size_t)c * t->m->rows + r;
			sum += t->m->cells[0][i] + t->m->cells[1][i];
		}
	return sum;
}

static double line_total(const struct text_map *t, unsigned line, unsigned kind)
{
	double sum = 0;

	for (uint32_t r = line * t->rows / t->lines; r < (line + 1) * t->rows / t->lines; r++)
		sum += t->m->totals[kind][r];
	return sum;
}

static void text_line(const struct text_map *t, unsigned line, double max, FILE *out)
{
	const uint64_t off = (uint64_t)(line * t->rows / t->lines) * t->m->row_bytes;
	char size[TEXT_LEN];

	fprintf(out, "%10s ", text_size(size, off));
	for (unsigned x = 0; x < t->width; x++) {
		const double level = heatmap_level(block_sum(t, line, x), max);
		const unsigned shade =
		        level > 0 ? 1 + (unsigned)(level * (t->n_shades - 1.001)) : 0;
		fputs(t->shades[MIN(shade, t->n_shades - 1)], out);
	}
	fprintf(out, " %10.0f %10.0f\n", line_total(t, line, 0), line_total(t, line, 1));
}

/* Under the map: its span; both ends where there is room for them. */
static void text_axis(const struct text_map *t, FILE *out)
{
	char age[TEXT_LEN];

	text_duration(age, (uint64_t)(t->m->column_seconds * t->m->columns));
	if (t->width >= strlen(age) + 12)
		fprintf(out, "%10s ^ %s ago%*s\n", "", age, (int)(t->width - strlen(age) - 6),
		        "now");
	else
		fprintf(out, "%10s ^ %s ago until now\n", "", age);
}

void heatmap_text(const struct heatmap *m, unsigned lines, unsigned width, bool utf8, FILE *out)
{
	static const char *const blocks[] = {" ", "·", "░", "▒", "▓", "█"};
	static const char *const ascii[] = {" ", ".", ":", "+", "#", "@"};
	struct text_map t = {
	        .m = m,
	        .rows = heatmap_rows_used(m),
	        .columns = m->columns,
	        .shades = utf8 ? blocks : ascii,
	        .n_shades = ARRAY_SIZE(blocks),
	};
	double max = 0;

	t.lines = MIN(lines, t.rows);
	t.width = MIN(width, t.columns);
	for (unsigned l = 0; l < t.lines; l++)
		for (unsigned x = 0; x < t.width; x++)
			max = fmax(max, block_sum(&t, l, x));
	fprintf(out, "%10s %-*s %10s %10s\n", "OFFSET", (int)t.width, "", "READS", "WRITES");
	for (unsigned l = 0; l < t.lines; l++)
		text_line(&t, l, max, out);
	text_axis(&t, out);
}
