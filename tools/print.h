/*
 * print.h - numbers and tables for people
 */
#pragma once

#include <stdio.h>

#include "base/compiler.h"

#define TEXT_LEN 48 /* enough for each of these; all return their buffer */

/* Binary units with one decimal: "512 B", "4.0 KiB", "1.5 TiB". */
char *text_size(char buf[TEXT_LEN], uint64_t bytes);
/* "4.14x"; "-" when there is none (not above 0). */
char *text_ratio(char buf[TEXT_LEN], double ratio);
/* "1 image", "12 images". */
char *text_count(char buf[TEXT_LEN], uint64_t n, const char *noun);
/* "62.5 %". */
char *text_share(char buf[TEXT_LEN], double share);
/* "1 min 5 s", "3 h 20 min", "12 d 4 h". */
char *text_duration(char buf[TEXT_LEN], uint64_t seconds);
/* A latency or a wait: "0.54 us", "233 us", "3.90 ms", "1.50 s", "2 min 5 s". */
char *text_ns(char buf[TEXT_LEN], uint64_t ns);
/* Local time of a wall clock in ns, "2024-05-01 12:00:00"; "never" for 0. */
char *text_time(char buf[TEXT_LEN], uint64_t wall_ns);
/*
 * A name as it may be shown on a terminal: control characters and invalid bytes as \xNN.  The
 * result is at most len-1 bytes long; longer names end in "...".
 */
char *text_name(char *buf, size_t len, const char *name);

/* A table of strings; columns as wide as their widest cell. */
struct table {
	const char *align; /* one letter a column: l or r */
	char **cells;      /* owned, row by row */
	size_t n, cap;
	bool failed; /* out of memory: nothing is printed but a note */
};

void table_add(struct table *t, const char *cell);
void table_print(const struct table *t, FILE *out);
void table_release(struct table *t);
