/*
 * change.h - draining a pipeline, for change.c and pipeline.c
 */
#pragma once

#include "stage/pipeline-private.h"

/* Called for each stage, top-down, once nothing above can reach it; all below still answers. */
typedef int quiesce_visit(void *arg, struct stage_link *l, struct errmsg *em);
/*
 * Shuts the gate and drains, level by level.  On failure (QUIESCE refused, unless `regardless`; or a
 * visit's) it stops where it is; pipeline_thaw() is the caller's in either case.  Under control.
 */
int pipeline_quiesce(struct pipeline *p, bool regardless, quiesce_visit *visit, void *arg,
        struct errmsg *em) MUST_CHECK;
/* THAW to whom was quiesced, and the gate opens. */
void pipeline_thaw(struct pipeline *p);
