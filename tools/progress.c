/*
 * progress.c - one line on the terminal about work that takes longer than a second
 *
 * Called from the thread that works, often: a call that shows nothing costs one clock read.
 */
#include "tools/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "tools/print.h"

#define SHOW_AFTER_NS NS_PER_SEC
#define SHOW_EVERY_NS (200 * NS_PER_MS)

void progress_begin(struct progress *p, const char *what, enum progress_unit unit)
{
	p->what = what;
	p->unit = unit;
	p->start_ns = clock_now_ns();
	p->shown_ns = 0;
	p->on_terminal = isatty(STDERR_FILENO);
}

static void progress_show(const struct progress *p, uint64_t done, uint64_t total, uint64_t now_ns)
{
	char a[TEXT_LEN], b[TEXT_LEN];

	fprintf(stderr, "\r\033[K%s", p->what);
	if (total == 0)
		fprintf(stderr, " (%s)", text_duration(a, (now_ns - p->start_ns) / NS_PER_SEC));
	else if (p->unit == PROGRESS_BYTES)
		fprintf(stderr, " %u %% (%s of %s)",
		        (unsigned)(100.0 * (double)done / (double)total), text_size(a, done),
		        text_size(b, total));
	else
		fprintf(stderr, " %u %% (%llu of %llu)",
		        (unsigned)(100.0 * (double)done / (double)total), (unsigned long long)done,
		        (unsigned long long)total);
	fflush(stderr);
}

void progress_update(void *progress, uint64_t done, uint64_t total)
{
	struct progress *p = progress;

	if (!p->on_terminal)
		return;
	const uint64_t now_ns = clock_now_ns();
	if (now_ns - p->start_ns < SHOW_AFTER_NS)
		return;
	if (p->shown_ns && now_ns - p->shown_ns < SHOW_EVERY_NS)
		return;
	p->shown_ns = now_ns;
	progress_show(p, MIN(done, total), total, now_ns);
}

void progress_end(struct progress *p)
{
	if (p->shown_ns)
		fputs("\r\033[K", stderr);
	p->shown_ns = 0;
}
