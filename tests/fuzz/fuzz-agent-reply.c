/*
 * fuzz-agent-reply.c - what a guest's agent answers
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/snapshot/agent.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct agent_reply reply = {.text = "untouched"};
	const int r = agent_reply_parse((const char *)data, len, &reply);

	if (r == -EPROTO ? strcmp(reply.text, "untouched") != 0
	                 : r != 0 || !memchr(reply.text, '\0', sizeof(reply.text)))
		abort();
	for (const char *p = reply.text; *p; p++)
		if (*p < ' ' || *p > '~')
			abort();
	return 0;
}
