/*
 * heatmap-draw.h - what the pictures of heat maps have in common; private to them
 *
 * Both SVG and PNG are drawn through a canvas: filled rectangles and short texts, in pixels from the
 * upper left corner.  So the two show the same.
 */
#pragma once

#include "tools/heatmap.h"

struct colour {
	uint8_t r, g, b;
};

enum text_anchor { TEXT_START, TEXT_MIDDLE, TEXT_END };

struct canvas {
	void (*rect)(struct canvas *c, double x, double y, double w, double h, struct colour fill);
	/* y: of the text's middle */
	void (*text)(struct canvas *c, double x, double y, enum text_anchor anchor, const char *s);
	void *arg;
};

struct canvas_size {
	unsigned width, height;
};
struct canvas_size heatmap_canvas(const struct heatmap *m);
void heatmap_draw(const struct heatmap *m, const char *title, struct canvas *c);

/* Rows that the image reaches. */
uint32_t heatmap_rows_used(const struct heatmap *m);
/* 0: nothing; else above 0 up to 1, by the logarithm. */
double heatmap_level(double n, double max);

/* A texts's bytes as XML. */
void svg_escape(const char *s, FILE *out);
