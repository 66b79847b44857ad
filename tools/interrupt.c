/*
 * interrupt.c - see interrupt.h
 *
 * Calls are restarted (SA_RESTART): a conversation with the daemon is not torn in the middle, where
 * nobody would know whether it has done what it was asked.  So who may wait for long waits in
 * poll(), which is never restarted.
 *
 * SIGPIPE is ignored: writing to a pipe that nobody reads fails with EPIPE and is cleaned up after
 * like any other failure.
 */
#include "tools/interrupt.h"

#include <signal.h>

static volatile sig_atomic_t caught;

static void interrupt_catch(int number)
{
	caught = number;
}

void interrupt_watch(void)
{
	static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
	const struct sigaction sa = {.sa_handler = interrupt_catch, .sa_flags = SA_RESTART};
	struct sigaction old;

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(numbers[i], &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
}

bool interrupt_pending(void)
{
	return caught != 0;
}

int interrupt_finish(int code)
{
	if (caught) {
		signal(caught, SIG_DFL);
		raise(caught);
	}
	return code;
}
