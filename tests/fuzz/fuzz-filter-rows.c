/*
 * fuzz-filter-rows.c - rows of the filter framework: attachments, state, jobs, policies
 *
 * The first byte says which.  What decodes is encoded and decoded again.
 */
#include <string.h>

#include "fs/filter/job.h"
#include "fs/filter/manifest.h"
#include "fs/filter/policies.h"
#include "fs/filter/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void attachment(const uint8_t *data, size_t size)
{
	struct stack_item item, again;
	uint32_t domain = 0, domain_again = 0;
	bool damaged = false;

	if (manifest_item_decode(5, data, size, &item, &domain, &damaged) < 0)
		return;
	ASSERT(strlen(item.type_name) > 0 && item.class < STAGE_CLASSES && item.given);
	char *row = manifest_item_encode(&item, domain);
	if (row) { /* NULL also for texts that are no UTF-8 */
		ASSERT(manifest_item_decode(5, row, strlen(row), &again, &domain_again, &damaged) ==
		        0);
		ASSERT(!damaged && domain == domain_again && !strcmp(item.given, again.given));
		manifest_item_release(&again);
	}
	free(row);
	manifest_item_release(&item);
}

static void state(const uint8_t *data, size_t size)
{
	const char *name;
	const void *value;
	size_t name_len, len;

	if (state_row_decode(data, size, &name, &name_len, &value, &len) < 0)
		return;
	ASSERT(name_len > 0 && 1 + name_len + len == size);
}

static void job(const uint8_t *data, size_t size)
{
	struct job j = {.ino = 1, .link = 2}, again = {.ino = 1, .link = 2};

	if (job_decode(data, size, &j) < 0)
		return;
	ASSERT(j.n_from <= JOB_DOMAINS_MAX && j.ino == 1 && j.link == 2);
	char *row = job_encode(&j);
	ASSERT(row && job_decode(row, strlen(row), &again) == 0);
	ASSERT(again.what == j.what && again.n_from == j.n_from && !strcmp(again.type, j.type));
	free(row);
}

static void policy(const uint8_t *data, size_t size)
{
	struct policy *p;

	if (policy_decode(1, data, size, &p) < 0)
		return;
	ASSERT(p->name && p->n <= STACK_LINKS_MAX);
	policy_free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const kinds[])(const uint8_t *, size_t) = {attachment, state, job, policy};

	if (size > 0)
		kinds[data[0] % 4](data + 1, size - 1);
	return 0;
}
