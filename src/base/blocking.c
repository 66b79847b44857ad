#include "base/blocking.h"

static _Thread_local const struct blocking_hooks *hooks_now;
static _Thread_local unsigned depth;

void blocking_set(const struct blocking_hooks *hooks)
{
	ASSERT(depth == 0);
	hooks_now = hooks;
}

void blocking_begin(void)
{
	if (hooks_now && depth++ == 0)
		hooks_now->begin(hooks_now->arg);
}

void blocking_end(void)
{
	if (hooks_now && --depth == 0)
		hooks_now->end(hooks_now->arg);
}
