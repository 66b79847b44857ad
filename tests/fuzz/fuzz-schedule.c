/*
 * fuzz-schedule.c - a schedule's row, and rules of retention as a user types them
 */
#include <stdlib.h>
#include <string.h>

#include "fs/snapshot/schedule.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void rules(const uint8_t *data, size_t len)
{
	struct retention keep, again;
	char text[RETENTION_TEXT_MAX];
	char *copy = strndup((const char *)data, len);

	if (copy && retention_parse(copy, &keep, NULL) == 0) {
		retention_format(&keep, text);
		if (retention_parse(text, &again, NULL) < 0 || memcmp(&keep, &again, sizeof(keep)))
			abort();
	}
	free(copy);
}

/* Whatever the times are, the last one stays, and no more than the rules have room for. */
static void times(const struct retention *keep, const uint8_t *data, size_t len)
{
	uint64_t at[32], room = 0;
	bool wanted[32] = {0};
	const size_t n = MIN(len / 8, ARRAY_SIZE(at));
	size_t kept = 0;

	memcpy(at, data, n * 8);
	retention_mark(keep, at, n, wanted);
	for (size_t i = 0; i < n; i++)
		kept += wanted[i];
	for (unsigned u = 0; u < RETENTION_UNITS; u++)
		room += keep->count[u];
	if (kept > room || (n > 0 && !wanted[n - 1]))
		abort();
	for (size_t i = 0; i + 1 < n; i++) {
		const uint64_t next = schedule_next(SCHEDULE_EVERY_MIN_NS, at[i], at[i + 1]);
		if (next < at[i + 1])
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct schedule sc;

	rules(data, len);
	if (schedule_decode(7, data, len, &sc) < 0)
		return 0;
	char text[160];
	schedule_text(&sc, text, sizeof(text));
	times(&sc.keep, data, len);
	return 0;
}
