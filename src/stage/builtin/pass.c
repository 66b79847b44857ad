/*
 * pass.c - a stage that does nothing: what being in the stack costs
 *
 * It handles every operation and lets it pass, so that `weir filter cost` and the benchmarks show
 * the price of the framework alone.
 */
#include <errno.h>

#include "stage/builtin/builtin.h"

struct pass {
	void (*free)(void *p);
};

static const struct setting_def settings[] = {{0}};

static int pass_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *s, void **ret_stage, struct errmsg *em)
{
	struct pass *p = host->alloc(sizeof(*p));

	if (!p)
		return errmsg_set(em, -ENOMEM, "out of memory");
	p->free = host->free;
	*ret_stage = p;
	return 0;
}

static void pass_destroy(void *stage)
{
	struct pass *p = stage;

	if (p)
		p->free(p);
}

static enum stage_verdict pass_pre(void *stage, struct request *req, void *context)
{
	return STAGE_PASS;
}

const struct stage_type stage_pass = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "pass",
        .version = 1,
        .summary = "does nothing; for measuring what a stage costs",
        .class = STAGE_INSPECT,
        .handles = OPS_ALL,
        .understands = OPS_ALL,
        .settings = settings,
        .create = pass_create,
        .destroy = pass_destroy,
        .pre = pass_pre,
};
