#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <syslog.h>

/* syslog.h defines LOG_* priorities too; ours are an enum in log.h, so the numbers stand here. */
static const int syslog_priority[] = {
        [LOG_ERROR] = 3,
        [LOG_WARN] = 4,
        [LOG_NOTE] = 5,
        [LOG_TRACE] = 7,
};
static const char *const level_name[] = {
        [LOG_ERROR] = "error: ",
        [LOG_WARN] = "warning: ",
        [LOG_NOTE] = "",
        [LOG_TRACE] = "trace: ",
};

static _Atomic int level_max = LOG_NOTE;
static _Atomic bool use_stderr = true;
static _Atomic bool use_syslog;

void log_set_level(enum log_level level)
{
	level_max = level;
}

void log_to_syslog(bool also_stderr)
{
	openlog("weir", LOG_PID, LOG_DAEMON);
	use_syslog = true;
	use_stderr = also_stderr;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	if ((int)level > level_max)
		return;
	char text[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (use_stderr)
		fprintf(stderr, "weir: %s%s\n", level_name[level], text);
	if (use_syslog)
		syslog(syslog_priority[level], "%s", text);
}

void assert_failed(const char *cond, const char *file, int line)
{
	log_error("bug: assertion '%s' failed at %s:%d", cond, file, line);
	abort();
}
