/*
 * stream-pipe.h - where a stream goes that somebody else writes: to stdout, or to a command
 *
 * The daemon writes into a pipe of ours, never into what the user has open: that may block for ever, and its
 * flags are shared with others.  So a pipe, from which a thread moves everything to stdout; or the pipes of a child.
 */
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include "base/errmsg.h"

struct stream_pipe {
	int write_fd; /* where the stream is written to, not blocking; -1: closed */
	int read_fd;  /* where answers come from, not blocking; -1: none */
	/* to stdout */
	int pump_fd;
	pthread_t pump;
	bool pumping;
	int pump_error;
	/* to a command */
	pid_t pid; /* 0: none */
};

int stream_pipe_stdout(struct stream_pipe *p, struct errmsg *em) MUST_CHECK;
/* Runs it by /bin/sh -c, with its stdin and stdout being pipes. */
int stream_pipe_command(struct stream_pipe *p, const char *command, struct errmsg *em) MUST_CHECK;
/*
 * Nothing more is written: waits until all has arrived (of a file: is on the disk), or the command has
 * ended.  -EIO and others with em: it did not, or the command failed.
 */
int stream_pipe_finish(struct stream_pipe *p, struct errmsg *em) MUST_CHECK;
