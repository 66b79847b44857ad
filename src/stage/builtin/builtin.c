/*
 * builtin.c - the table of the stage types that are part of this program, in the order of a stack
 */
#include "stage/builtin/builtin.h"

const struct stage_type *const stage_builtin[] = {
        &stage_pass,
        &stage_scan,
        &stage_throttle,
        &stage_protect,
        &stage_cache,
        &stage_analytics,
        &stage_discover,
        &stage_scramble,
        &stage_fault,
        &stage_dedupe,
        &stage_compress,
        &stage_encrypt,
        &stage_integrity,
        &stage_tier,
        NULL,
};
