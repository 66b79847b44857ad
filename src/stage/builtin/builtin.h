/*
 * builtin.h - the stage types that are part of this program
 *
 * A new one: its file, a line here, a line in builtin.c.
 */
#pragma once

#include "stage/stage.h"

extern const struct stage_type stage_pass;
extern const struct stage_type stage_scan;
extern const struct stage_type stage_throttle;
extern const struct stage_type stage_protect;
extern const struct stage_type stage_cache;
extern const struct stage_type stage_scramble;
extern const struct stage_type stage_fault;
extern const struct stage_type stage_analytics;
extern const struct stage_type stage_discover;

/* chunk-stages.c */
extern const struct stage_type stage_dedupe;
extern const struct stage_type stage_compress;
extern const struct stage_type stage_encrypt;
extern const struct stage_type stage_integrity;
extern const struct stage_type stage_tier;
