/*
 * heatmap.h - pictures of a block heat map: text, SVG, PNG; and of a miss-ratio curve: SVG
 *
 * A map comes from the filter "analytics" (action heatmap); columns are moments, oldest first,
 * rows are ranges of the image.  Counts are shown by the logarithm: a cell of a thousandth of the
 * hottest one's requests is still seen.
 */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "base/errmsg.h"

#define HEATMAP_ROWS_MAX    1024u
#define HEATMAP_COLUMNS_MAX 1024u

struct heatmap {
	uint32_t rows, columns;
	uint64_t row_bytes, size_bytes;
	double column_seconds;
	uint64_t end_wall_ns;       /* when the last column was taken */
	double *cells[2];           /* reads, writes: [column * rows + row]; owned */
	double *totals[2];          /* [row], since the reset; owned */
	double cell_max, total_max; /* reads + writes */
};

/* Takes the answer of the action.  -EBADMSG: it is not one. */
int heatmap_parse(const json_t *json, struct heatmap *ret_map) MUST_CHECK;
void heatmap_release(struct heatmap *m);

/*
 * On the terminal, at most `lines` rows and `width` columns: a line a range of the image, the
 * moments from left to right, and the total at the end.  utf8: shades; else ASCII.
 */
void heatmap_text(const struct heatmap *m, unsigned lines, unsigned width, bool utf8, FILE *out);
/* Two panels, reads and writes, with axes and totals.  0 or -errno of writing. */
int heatmap_svg(const struct heatmap *m, const char *title, FILE *out) MUST_CHECK;
/* The same picture; -EOPNOTSUPP with em when built without libpng. */
int heatmap_png(
        const struct heatmap *m, const char *title, FILE *out, struct errmsg *em) MUST_CHECK;

/* The curve (action mrc), with the recommended size marked.  -EBADMSG: it is not one. */
int mrc_svg(const json_t *json, const char *title, FILE *out) MUST_CHECK;
