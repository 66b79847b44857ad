/*
 * print.c - numbers and tables for people
 *
 * One thread.  Names come from the datastore's users, so they may hold anything: what a terminal
 * would take as a command is escaped before it is shown.
 */
#include "tools/print.h"

#include <string.h>
#include <time.h>
#include <wchar.h>

#include "base/clock.h"

char *text_size(char buf[TEXT_LEN], uint64_t bytes)
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes / 1024;
	size_t u = 0;

	if (bytes < 1024) {
		snprintf(buf, TEXT_LEN, "%u B", (unsigned)bytes);
		return buf;
	}
	/* 1023.95 and more would be shown as 1024.0. */
	for (; value >= 1023.95 && u + 1 < ARRAY_SIZE(units); u++)
		value /= 1024;
	snprintf(buf, TEXT_LEN, "%.1f %s", value, units[u]);
	return buf;
}

char *text_ratio(char buf[TEXT_LEN], double ratio)
{
	if (ratio > 0)
		snprintf(buf, TEXT_LEN, "%.2fx", ratio);
	else
		snprintf(buf, TEXT_LEN, "-");
	return buf;
}

char *text_count(char buf[TEXT_LEN], uint64_t n, const char *noun)
{
	snprintf(buf, TEXT_LEN, "%llu %s%s", (unsigned long long)n, noun, n == 1 ? "" : "s");
	return buf;
}

char *text_share(char buf[TEXT_LEN], double share)
{
	snprintf(buf, TEXT_LEN, "%.1f %%", share * 100);
	return buf;
}

char *text_duration(char buf[TEXT_LEN], uint64_t seconds)
{
	const unsigned long long s = seconds % 60, min = seconds / 60 % 60, h = seconds / 3600 % 24,
	                         d = seconds / 86400;

	if (d)
		snprintf(buf, TEXT_LEN, "%llu d %llu h", d, h);
	else if (h)
		snprintf(buf, TEXT_LEN, "%llu h %llu min", h, min);
	else if (min)
		snprintf(buf, TEXT_LEN, "%llu min %llu s", min, s);
	else
		snprintf(buf, TEXT_LEN, "%llu s", s);
	return buf;
}

char *text_ns(char buf[TEXT_LEN], uint64_t ns)
{
	static const char *const units[] = {"us", "ms", "s"};
	double value = (double)ns / 1e3;
	size_t u = 0;

	if (ns >= 100 * NS_PER_SEC)
		return text_duration(buf, ns / NS_PER_SEC);
	/* 999.5 and more would be shown as 1000. */
	for (; value >= 999.5 && u + 1 < ARRAY_SIZE(units); u++)
		value /= 1e3;
	snprintf(buf, TEXT_LEN, "%.*f %s",
	        value < 9.995   ? 2
	        : value < 99.95 ? 1
	                        : 0,
	        value, units[u]);
	return buf;
}

char *text_time(char buf[TEXT_LEN], uint64_t wall_ns)
{
	const time_t t = (time_t)(wall_ns / NS_PER_SEC);
	struct tm tm;

	if (wall_ns == 0)
		snprintf(buf, TEXT_LEN, "never");
	else if (!localtime_r(&t, &tm) || !strftime(buf, TEXT_LEN, "%Y-%m-%d %H:%M:%S", &tm))
		snprintf(buf, TEXT_LEN, "%lld s", (long long)t);
	return buf;
}

/* Length of the character at p when it may be shown as it is, else 0. */
static size_t printable_len(const char *p)
{
	const unsigned char c = (unsigned char)*p;
	mbstate_t state = {0};
	wchar_t wc;

	if (c < 0x80)
		return c >= 0x20 && c != 0x7f && c != '\\';
	const size_t n = mbrtowc(&wc, p, strlen(p), &state);
	if (n == (size_t)-1 || n == (size_t)-2 || wcwidth(wc) < 0)
		return 0;
	return n;
}

char *text_name(char *buf, size_t len, const char *name)
{
	size_t at = 0;

	ASSERT(len > 8);
	while (*name) {
		const size_t n = printable_len(name);
		if (at + MAX(n, 4) + 4 > len) {
			memcpy(buf + at, "...", 3);
			at += 3;
			break;
		}
		if (n == 0) {
			at += (size_t)snprintf(
			        buf + at, len - at, "\\x%02x", (unsigned char)*name++);
			continue;
		}
		memcpy(buf + at, name, n);
		at += n;
		name += n;
	}
	buf[at] = '\0';
	return buf;
}

void table_add(struct table *t, const char *cell)
{
	if (t->failed)
		return;
	if (t->n == t->cap) {
		const size_t cap = MAX(t->cap * 2, 64);
		char **cells = realloc(t->cells, cap * sizeof(*cells));
		if (!cells) {
			t->failed = true;
			return;
		}
		t->cells = cells;
		t->cap = cap;
	}
	t->cells[t->n] = strdup(cell);
	if (t->cells[t->n])
		t->n++;
	else
		t->failed = true;
}

static int cell_width(const char *cell)
{
	wchar_t wide[1024];
	const size_t n = mbstowcs(wide, cell, ARRAY_SIZE(wide));
	const int width = n < ARRAY_SIZE(wide) ? wcswidth(wide, n) : -1;

	return width >= 0 ? width : (int)strlen(cell);
}

static void cell_print(FILE *out, const char *cell, int width, bool right, bool last)
{
	const int pad = width - cell_width(cell);

	fprintf(out, "%*s%s%*s", right ? pad : 0, "", cell, right || last ? 0 : pad, "");
	fputs(last ? "\n" : "  ", out);
}

/* How many cells of a row are printed: no blanks at the end of a line. */
static size_t row_len(char **row, size_t columns)
{
	while (columns > 1 && !*row[columns - 1])
		columns--;
	return columns;
}

void table_print(const struct table *t, FILE *out)
{
	const size_t columns = strlen(t->align);
	int widths[16] = {0};

	ASSERT(columns <= ARRAY_SIZE(widths));
	if (t->failed) {
		fputs("(out of memory for the table)\n", out);
		return;
	}
	for (size_t i = 0; i < t->n; i++)
		widths[i % columns] = MAX(widths[i % columns], cell_width(t->cells[i]));
	for (size_t row = 0; row + columns <= t->n; row += columns) {
		const size_t n = row_len(t->cells + row, columns);
		for (size_t i = 0; i < n; i++)
			cell_print(
			        out, t->cells[row + i], widths[i], t->align[i] == 'r', i == n - 1);
	}
}

void table_release(struct table *t)
{
	for (size_t i = 0; i < t->n; i++)
		free(t->cells[i]);
	free(t->cells);
	t->cells = NULL;
	t->n = t->cap = 0;
}
