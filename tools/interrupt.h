/*
 * interrupt.h - Ctrl-C and the like, for commands that have something to take back
 *
 * The signal sets a flag; who works asks for it often, undoes what is half done, and ends by the
 * same signal.  One thread.
 */
#pragma once

#include "base/compiler.h"

/* From now on SIGINT, SIGTERM and SIGHUP only set the flag; those ignored so far stay ignored. */
void interrupt_watch(void);
bool interrupt_pending(void);
/* At the very end: dies by the signal that came, else returns code. */
int interrupt_finish(int code);
