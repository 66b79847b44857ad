/*
 * log.h - the log of a daemon or a command
 *
 * Lines go to stderr ("weir: warning: ...") until log_to_syslog() sends them to syslog (the
 * journal, under systemd).  Any thread may log; a line is written in one piece.
 */
#pragma once

#include "base/compiler.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_NOTE, LOG_TRACE };

/* Lines above this level are dropped; LOG_NOTE at start. */
void log_set_level(enum log_level level);
/* From now on, lines go to syslog under "weir[pid]"; and to stderr too if also_stderr. */
void log_to_syslog(bool also_stderr);
void log_line(enum log_level level, const char *fmt, ...) PRINTF(2, 3);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_note(...)  log_line(LOG_NOTE, __VA_ARGS__)
#define log_trace(...) log_line(LOG_TRACE, __VA_ARGS__)
