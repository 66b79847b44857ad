/*
 * heatmap-svg.c - SVG of heat maps and miss-ratio curves, written by hand
 *
 * Plain SVG 1.1: rectangles, lines and texts, no script and nothing loaded from elsewhere.  Titles
 * are names that somebody gave a file, so they are escaped.
 */
#include <errno.h>
#include <string.h>

#include "tools/heatmap-draw.h"
#include "tools/print.h"
#include "tools/target.h"

void svg_escape(const char *s, FILE *out)
{
	for (; *s; s++) {
		const unsigned char ch = (unsigned char)*s;
		if (ch == '<' || ch == '>' || ch == '&' || ch == '"' || ch == '\'')
			fprintf(out, "&#%u;", ch);
		else
			fputc(ch < 0x20 || ch == 0x7f ? '?' : ch, out);
	}
}

static void svg_begin(unsigned width, unsigned height, FILE *out)
{
	fprintf(out,
	        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
	        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" height=\"%u\" "
	        "viewBox=\"0 0 %u %u\" font-family=\"sans-serif\" font-size=\"11\">\n"
	        "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
	        width, height, width, height);
}

static int svg_end(FILE *out)
{
	fputs("</svg>\n", out);
	return ferror(out) ? -EIO : 0;
}

static void svg_rect(struct canvas *c, double x, double y, double w, double h, struct colour fill)
{
	fprintf(c->arg,
	        "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" "
	        "fill=\"#%02x%02x%02x\"/>\n",
	        x, y, w, h, fill.r, fill.g, fill.b);
}

static void svg_text(struct canvas *c, double x, double y, enum text_anchor anchor, const char *s)
{
	static const char *const anchors[] = {"start", "middle", "end"};

	fprintf(c->arg, "<text x=\"%.2f\" y=\"%.2f\" text-anchor=\"%s\">", x, y + 4,
	        anchors[anchor]);
	svg_escape(s, c->arg);
	fputs("</text>\n", c->arg);
}

int heatmap_svg(const struct heatmap *m, const char *title, FILE *out)
{
	struct canvas c = {.rect = svg_rect, .text = svg_text, .arg = out};
	const struct canvas_size size = heatmap_canvas(m);

	svg_begin(size.width, size.height, out);
	heatmap_draw(m, title, &c);
	return svg_end(out);
}

/* --- the miss-ratio curve --- */

#define PLOT_LEFT   64.0
#define PLOT_TOP    48.0
#define PLOT_WIDTH  560.0
#define PLOT_HEIGHT 320.0
#define PLOT_TICKS  5u

static const struct colour grey = {0xdd, 0xdd, 0xdd};

static void plot_axes(struct canvas *c, uint64_t bytes_max)
{
	char text[TEXT_LEN];

	for (unsigned i = 0; i <= PLOT_TICKS; i++) {
		const double x = PLOT_LEFT + PLOT_WIDTH * i / PLOT_TICKS;
		const double y = PLOT_TOP + PLOT_HEIGHT * i / PLOT_TICKS;
		c->rect(c, x, PLOT_TOP, 1, PLOT_HEIGHT, grey);
		c->rect(c, PLOT_LEFT, y, PLOT_WIDTH, 1, grey);
		c->text(c, x, PLOT_TOP + PLOT_HEIGHT + 14, TEXT_MIDDLE,
		        text_size(text, bytes_max * i / PLOT_TICKS));
		snprintf(text, sizeof(text), "%.1f", 1 - (double)i / PLOT_TICKS);
		c->text(c, PLOT_LEFT - 8, y, TEXT_END, text);
	}
	c->text(c, PLOT_LEFT + PLOT_WIDTH / 2, PLOT_TOP + PLOT_HEIGHT + 32, TEXT_MIDDLE,
	        "size of an LRU cache");
	c->text(c, PLOT_LEFT - 8, PLOT_TOP - 16, TEXT_END, "miss ratio");
}

static double point_x(const json_t *point, uint64_t bytes_max)
{
	return PLOT_LEFT + PLOT_WIDTH * (double)json_u64(point, "cache_bytes") / (double)bytes_max;
}

static void plot_line(
        const json_t *points, const char *key, const char *colour, uint64_t bytes_max, FILE *out)
{
	const json_t *point;
	size_t i;

	fprintf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", colour);
	json_array_foreach(points, i, point) fprintf(out, "%.2f,%.2f ", point_x(point, bytes_max),
	        PLOT_TOP + PLOT_HEIGHT * (1 - json_num(point, key)));
	fputs("\"/>\n", out);
}

static void plot_recommended(const json_t *recommended, uint64_t bytes_max, struct canvas *c)
{
	static const struct colour green = {0x1a, 0x7f, 0x37};
	const uint64_t bytes = json_u64(recommended, "cache_bytes");
	char size[TEXT_LEN], text[160];

	if (!bytes || bytes > bytes_max) {
		c->text(c, PLOT_LEFT + PLOT_WIDTH, PLOT_TOP - 16, TEXT_END, "no cache helps");
		return;
	}
	snprintf(text, sizeof(text), "recommended: %s, hit ratio %.3f of at best %.3f",
	        text_size(size, bytes), json_num(recommended, "hit_ratio"),
	        json_num(recommended, "best_hit_ratio"));
	c->rect(c, point_x(recommended, bytes_max), PLOT_TOP, 2, PLOT_HEIGHT, green);
	c->text(c, PLOT_LEFT + PLOT_WIDTH, PLOT_TOP - 16, TEXT_END, text);
}

int mrc_svg(const json_t *json, const char *title, FILE *out)
{
	const json_t *points = json_object_get(json, "points");
	const size_t n = json_array_size(points);
	const uint64_t bytes_max = n ? json_u64(json_array_get(points, n - 1), "cache_bytes") : 0;
	struct canvas c = {.rect = svg_rect, .text = svg_text, .arg = out};

	if (!bytes_max)
		return -EBADMSG;
	svg_begin((unsigned)(PLOT_LEFT + PLOT_WIDTH + 40), (unsigned)(PLOT_TOP + PLOT_HEIGHT + 64),
	        out);
	c.text(&c, PLOT_LEFT, 14, TEXT_START, title);
	plot_axes(&c, bytes_max);
	plot_line(points, "miss_ratio", "#8b002a", bytes_max, out);
	plot_line(points, "read_miss_ratio", "#2266aa", bytes_max, out);
	c.text(&c, PLOT_LEFT, PLOT_TOP + PLOT_HEIGHT + 50, TEXT_START,
	        "red: reads and writes; blue: reads");
	plot_recommended(json_object_get(json, "recommended"), bytes_max, &c);
	return svg_end(out);
}
