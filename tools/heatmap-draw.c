/*
 * heatmap-draw.c - the picture of a heat map, on any canvas
 *
 *	title
 *	offset | reads: time x offset | reads so far | writes: time x offset | writes so far
 *	         time ->                               time ->
 *	colours, from cold to hot
 *
 * The bars "so far" are the map by offset only, since the numbers began.
 */
#include "tools/heatmap-draw.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

#include "tools/print.h"

#define LEFT       84.0 /* room for labels of offsets */
#define TOP        56.0
#define BOTTOM     72.0
#define GAP        28.0
#define BAR        60.0
#define CELL_WIDTH 5.0
#define PANEL_MIN  240.0
#define PANEL_HIGH 512.0
#define TICKS      8u

static const struct colour black = {0x22, 0x22, 0x22}, cold = {0xf4, 0xf4, 0xf4};

struct layout {
	double panel_w, panel_h, cell_w, cell_h;
	uint32_t rows;
};

static struct layout layout_of(const struct heatmap *m)
{
	struct layout l = {.rows = heatmap_rows_used(m), .panel_h = PANEL_HIGH};

	l.panel_w = fmax(PANEL_MIN, fmin(m->columns * CELL_WIDTH, 640));
	l.cell_w = l.panel_w / m->columns;
	l.cell_h = l.panel_h / l.rows;
	return l;
}

struct canvas_size heatmap_canvas(const struct heatmap *m)
{
	const struct layout l = layout_of(m);

	return (struct canvas_size){
	        (unsigned)(LEFT + 2 * (l.panel_w + 6 + BAR + GAP)),
	        (unsigned)(TOP + l.panel_h + BOTTOM),
	};
}

/* From light yellow over red to near black. */
static struct colour heat_colour(double level)
{
	static const struct colour stops[] = {{0xff, 0xf3, 0xb0}, {0xfe, 0xb2, 0x4c},
	        {0xf0, 0x3b, 0x20}, {0x8b, 0x00, 0x2a}, {0x2a, 0x00, 0x30}};
	const double at = fmin(fmax(level, 0), 1) * (ARRAY_SIZE(stops) - 1);
	const unsigned i = MIN((unsigned)at, (unsigned)ARRAY_SIZE(stops) - 2);
	const double part = at - i;
	const struct colour *a = &stops[i], *b = &stops[i + 1];

	return (struct colour){
	        (uint8_t)lround(a->r + part * (b->r - a->r)),
	        (uint8_t)lround(a->g + part * (b->g - a->g)),
	        (uint8_t)lround(a->b + part * (b->b - a->b)),
	};
}

static void draw_cells(
        const struct heatmap *m, const struct layout *l, unsigned kind, double x0, struct canvas *c)
{
	c->rect(c, x0, TOP, l->panel_w, l->panel_h, cold);
	for (uint32_t col = 0; col < m->columns; col++)
		for (uint32_t row = 0; row < l->rows; row++) {
			const double level = heatmap_level(
			        m->cells[kind][(size_t)col * m->rows + row], m->cell_max);
			if (level > 0)
				c->rect(c, x0 + col * l->cell_w, TOP + row * l->cell_h, l->cell_w,
				        l->cell_h, heat_colour(level));
		}
}

static void draw_totals(
        const struct heatmap *m, const struct layout *l, unsigned kind, double x0, struct canvas *c)
{
	c->rect(c, x0, TOP, BAR, l->panel_h, cold);
	for (uint32_t row = 0; row < l->rows; row++) {
		const double level = heatmap_level(m->totals[kind][row], m->total_max);
		if (level > 0)
			c->rect(c, x0, TOP + row * l->cell_h, BAR * level, l->cell_h,
			        heat_colour(level));
	}
	c->text(c, x0 + BAR / 2, TOP + l->panel_h + 14, TEXT_MIDDLE, "all time");
}

static void draw_time(const struct heatmap *m, const struct layout *l, double x0, struct canvas *c)
{
	const double seconds = m->column_seconds * m->columns;
	const time_t end = (time_t)(m->end_wall_ns / 1000000000ull);

	for (unsigned i = 0; i <= 2; i++) {
		const time_t at = end - (time_t)(seconds * (2 - i) / 2);
		char text[32] = "";
		struct tm tm;
		const double x = x0 + l->panel_w * i / 2;

		if (localtime_r(&at, &tm))
			strftime(text, sizeof(text), seconds < 86400 ? "%H:%M:%S" : "%m-%d %H:%M",
			        &tm);
		c->rect(c, x, TOP + l->panel_h, 1, 5, black);
		c->text(c, x, TOP + l->panel_h + 14,
		        i == 0   ? TEXT_START
		        : i == 1 ? TEXT_MIDDLE
		                 : TEXT_END,
		        text);
	}
	c->text(c, x0 + l->panel_w / 2, TOP + l->panel_h + 30, TEXT_MIDDLE, "time");
}

static void draw_offsets(const struct heatmap *m, const struct layout *l, struct canvas *c)
{
	char size[TEXT_LEN];

	for (unsigned i = 0; i <= TICKS; i++) {
		const double y = TOP + l->panel_h * i / TICKS;
		const uint64_t off = (uint64_t)(l->rows * (double)m->row_bytes * i / TICKS);
		c->rect(c, LEFT - 5, y, 5, 1, black);
		c->text(c, LEFT - 8, y, TEXT_END, text_size(size, off));
	}
	c->text(c, LEFT - 8, TOP - 14, TEXT_END, "offset");
}

static void draw_scale(const struct heatmap *m, const struct layout *l, struct canvas *c)
{
	const double y = TOP + l->panel_h + 48, step = 4;
	char text[64];

	for (unsigned i = 0; i < 40; i++)
		c->rect(c, LEFT + i * step, y, step, 10, heat_colour((i + 1) / 40.0));
	snprintf(text, sizeof(text), "%.0f requests in %g s", m->cell_max, m->column_seconds);
	c->text(c, LEFT - 8, y + 5, TEXT_END, "few");
	c->text(c, LEFT + 40 * step + 8, y + 5, TEXT_START, text);
}

void heatmap_draw(const struct heatmap *m, const char *title, struct canvas *c)
{
	static const char *const names[] = {"reads", "writes"};
	const struct layout l = layout_of(m);

	c->text(c, LEFT, 18, TEXT_START, title);
	draw_offsets(m, &l, c);
	for (unsigned kind = 0; kind < 2; kind++) {
		const double x = LEFT + kind * (l.panel_w + 6 + BAR + GAP);
		c->text(c, x, TOP - 14, TEXT_START, names[kind]);
		draw_cells(m, &l, kind, x, c);
		draw_totals(m, &l, kind, x + l.panel_w + 6, c);
		draw_time(m, &l, x, c);
	}
	draw_scale(m, &l, c);
}
