/*
 * hold.c - work of the layer above that passes the stages by, and must not meet a change of them
 *
 * Sharing chunks between two files is neither a read nor a write that a stage could see, so it is
 * done only where no stage handles those; and it must stay so until it is done: a transform attached
 * in between would find bytes that it did not encode.  Such work enters by the gate like a request,
 * without one.  What the stages handle changes drained only, so what is seen inside stays true.
 */
#include "stage/pipeline-private.h"

bool pipeline_hold(struct pipeline *p, unsigned ops, struct request *hold)
{
	*hold = (struct request){.op = (enum request_op)__builtin_ctz(ops)};
	gate_enter(p, hold);
	if (!pipeline_handles(p, ops))
		return true;
	pipeline_unhold(p, hold);
	return false;
}

void pipeline_unhold(struct pipeline *p, struct request *hold)
{
	gate_leave(p, hold->trip.shard);
}
