/*
 * fuzz-control-request.c - lines of control clients
 */
#include "fs/control/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct control_request req;
	struct errmsg em = {0};

	if (control_request_parse((const char *)data, size, &req, &em) < 0) {
		ASSERT(em.text[0]);
		return 0;
	}
	ASSERT(req.op <= CONTROL_UMOUNT);
	for (size_t i = 0; i < req.n_images; i++)
		ASSERT(req.images[i]);
	control_request_release(&req);
	return 0;
}
