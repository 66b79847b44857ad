/*
 * policy.h - how the chunks of an image are stored: its chunk stages, as the engine sees them
 *
 * Takes effect on what is committed from then on; what is stored already stays as it is until it is
 * rewritten (store_reseal for the crypto domain, overwriting for the rest).
 */
#pragma once

#include "base/compiler.h"

enum policy_compress { POLICY_LZ4, POLICY_COMPRESS_OFF, POLICY_LZ4HC, POLICY_COMPRESS_AUTO };
enum policy_dedupe { POLICY_DEDUPE_ON, POLICY_DEDUPE_OFF, POLICY_DEDUPE_VERIFY };

/* All zero is the default: LZ4, dedupe, not encrypted. */
struct image_policy {
	uint32_t
	        domain; /* crypto domain that new chunks, log records and map leaves belong to; 0: none */
	enum policy_compress compress;
	uint8_t level; /* LZ4HC: 3..12 */
	enum policy_dedupe dedupe;
};
