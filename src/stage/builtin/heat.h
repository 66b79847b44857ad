/*
 * heat.h - where and when an image is used: a map of time x offset, and the hottest regions
 *
 * The map has `rows` rows of equal length (a power of two that covers the image; it doubles when
 * the image grows) and a ring of `columns` columns of `column_ns` each; besides, each row has a
 * total since the reset.  8 bytes a cell.
 *
 * The regions are found by the space-saving algorithm (Metwally, Agrawal, El Abbadi, ICDT'05) with
 * counters that decay exponentially (forward decay: Cormode et al., ICDE'09): a region that had
 * more than 1/counters of the recent requests is in the list, and what its counter may say too much
 * is known.  56 bytes a counter.
 *
 * Threads: all under the caller's lock.
 */
#pragma once

#include "stage/stage.h"

struct heat_config {
	uint32_t rows, columns;
	uint64_t column_ns;
	uint32_t regions;      /* counters */
	unsigned region_shift; /* log2 of a region's bytes */
	uint64_t half_life_ns;
	uint64_t image_bytes;
};

struct heat;
int heat_new(const struct stage_host *host, const struct heat_config *config, uint64_t now_ns,
        struct heat **ret_heat) MUST_CHECK;
void heat_free(struct heat *h); /* accepts NULL */
size_t heat_bytes(const struct heat_config *config);
void heat_reset(struct heat *h, uint64_t now_ns);
/* weight requests began at this offset. */
void heat_note(struct heat *h, uint64_t now_ns, uint64_t off, bool is_write, uint32_t weight);
/* Moves the ring on to now. */
void heat_turn(struct heat *h, uint64_t now_ns);

uint64_t heat_row_bytes(const struct heat *h);
uint32_t heat_rows(const struct heat *h);
/* Columns that have begun since the reset, the one under way included; at most config.columns. */
uint32_t heat_columns(const struct heat *h);
/* Requests; column 0 is the oldest. */
uint32_t heat_cell(const struct heat *h, uint32_t column, uint32_t row, bool is_write);
uint64_t heat_total(const struct heat *h, uint32_t row, bool is_write);
/* Puts back what was kept (totals of rows of row_bytes each). */
void heat_add_total(struct heat *h, uint64_t off, bool is_write, uint64_t n);

struct heat_region {
	uint64_t region;             /* number: offset >> region_shift */
	double reads, writes, error; /* requests, decayed; error: of their sum, too much at most */
};
/* The hottest first; returns how many, at most max.  *ret_all: requests of all regions. */
uint32_t heat_hottest(struct heat *h, uint64_t now_ns, struct heat_region *regions, uint32_t max,
        double *ret_all);
