/*
 * fuzz-analytics-state.c - numbers of the analytics filter that were kept with an image
 */
#include <stdio.h>

#include "stage/builtin/analytics.h"
#include "stage/builtin/builtin.h"
#include "stage/stack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t now(void)
{
	return 1ull << 40;
}

static const struct stage_host host = {
        .now_ns = now, .wall_ns = now, .alloc = malloc, .free = free};

/* What was taken must be good for answers, and for keeping again. */
static void use(struct analytics *a)
{
	uint8_t *buf = NULL;
	size_t len = 0;
	FILE *out = fopen("/dev/null", "w");

	ASSERT(out);
	analytics_json_all(out, a);
	analytics_json_map(out, a);
	fclose(out);
	ASSERT(analytics_encode(a->numbers, &buf, &len) == 0);
	free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const texts[] = {"samples=1024", "rows=16", "columns=8", "one_in=1"};
	struct analytics a = {.host = &host};
	struct settings s;

	ASSERT(settings_parse(stage_analytics.settings, texts, ARRAY_SIZE(texts), &s, NULL) == 0);
	ASSERT(analytics_numbers_new(&host, &s, 1 << 20, &a.numbers) == 0);
	if (analytics_decode(a.numbers, data, size) == 0)
		use(&a);
	analytics_numbers_free(&host, a.numbers);
	settings_release(&s);
	return 0;
}
