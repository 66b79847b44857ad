/*
 * fake-agent.h - a QEMU guest agent for tests: speaks the protocol over a Unix socket, freezes nothing
 *
 * It serves one client at a time on a thread of its own, and does wrong what the test asks for.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum agent_fault {
	AGENT_GOOD,
	AGENT_SILENT,         /* accepts, and never answers */
	AGENT_DIES_FREEZING,  /* hangs up instead of answering a freeze, and is frozen */
	AGENT_HANGS_FREEZING, /* freezes, and does not answer for `slow_ms` */
	AGENT_REFUSES,        /* an error instead of freezing */
	AGENT_FREEZES_NONE,   /* 0 file systems */
	AGENT_LIES,           /* says that it froze; is thawed a moment later */
	AGENT_BABBLES,        /* endless bytes without a line's end, instead of answers */
	AGENT_NO_JSON,        /* lines that are none */
	AGENT_STALE,          /* answers of an earlier client before ours */
	AGENT_THAW_DIES_ONCE, /* hangs up at the first thaw, and does not thaw */
	AGENT_NEVER_THAWS,
	AGENT_IS_FROZEN, /* before anybody asked */
};

struct fake_agent {
	char path[100];
	int fd;
	pthread_t thread;
	_Atomic enum agent_fault fault;
	_Atomic unsigned slow_ms;
	_Atomic bool ending, frozen;
	_Atomic unsigned freezes, thaws, connections;
};

void fake_agent_start(struct fake_agent *a, const char *path, enum agent_fault fault);
void fake_agent_stop(struct fake_agent *a);
