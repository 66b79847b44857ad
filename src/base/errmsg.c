#include "base/errmsg.h"

#include <stdarg.h>
#include <stdio.h>

int errmsg_set(struct errmsg *em, int err, const char *fmt, ...)
{
	ASSERT(err < 0);
	if (!em)
		return err;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(em->text, sizeof(em->text), fmt, ap);
	va_end(ap);
	return err;
}
