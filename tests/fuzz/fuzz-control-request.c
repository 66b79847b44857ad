/*
 * fuzz-control-request.c - lines of control clients
 */
#include "fs/control/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void texts_check(const struct control_texts *texts)
{
	ASSERT(texts->n <= CONTROL_LIST_MAX && (texts->items || texts->n == 0));
	for (size_t i = 0; i < texts->n; i++)
		ASSERT(texts->items[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct control_request req;
	struct errmsg em = {0};

	if (control_request_parse((const char *)data, size, &req, &em) < 0) {
		ASSERT(em.text[0]);
		return 0;
	}
	ASSERT(req.op && req.op->name && req.op->run);
	texts_check(&req.images);
	texts_check(&req.settings);
	texts_check(&req.args);
	ASSERT(req.target || !(req.op->needs & CONTROL_NEEDS_TARGET));
	ASSERT(req.type || !(req.op->needs & CONTROL_NEEDS_TYPE));
	ASSERT((req.kind && req.secret) || !(req.op->needs & CONTROL_NEEDS_KIND));
	ASSERT(req.slot_given || !(req.op->needs & CONTROL_NEEDS_SLOT));
	control_request_release(&req);
	return 0;
}
