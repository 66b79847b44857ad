/*
 * tier-plan.h - what should lie on which tier: the decision, without doing anything
 *
 * Given the tiers, from fast to slow, and every segment with where it lies and how much it is read, says
 * what to move, in which order, and why.  The mover does what comes first and asks again; `weir tier
 * plan` prints it.  A plan that is empty is the sign to stop: carrying one out, with nothing
 * else changing, leads to an empty one.
 *
 * Pure: the same input gives the same plan.  Threads: any.
 */
#pragma once

#include "base/compiler.h"

struct plan_tier {
	uint32_t number; /* as in segment rows */
	uint64_t
	        capacity_bytes; /* that segments may take in all: the smaller of limit and medium */
	uint64_t used_bytes;    /* by files of segments now, copies included */
	unsigned high_pct, low_pct;
	bool usable;   /* can be read and written; else nothing moves to or from it */
	bool draining; /* all goes elsewhere, nothing comes */
};

#define PLAN_ANY UINT8_MAX

struct plan_segment {
	uint64_t id;
	uint32_t bytes; /* of its file */
	uint8_t tier;   /* index in the plan's tiers */
	uint8_t copy;   /* the same of its copy; PLAN_ANY: there is none */
	uint8_t pin;    /* index of the tier that an image of it wants it on; PLAN_ANY: none does */
	uint8_t min;    /* index of the slowest that one allows; PLAN_ANY: all */
	uint8_t windows;    /* as in struct segment_activity */
	bool snapshot_only; /* nothing of it is in an image as it is now */
	float hour, day;    /* likewise */
	uint64_t age_s;     /* since it was written, or moved */
};

struct plan_rules {
	uint64_t age_min_s;   /* younger ones are not demoted */
	unsigned windows_min; /* distinct windows with reads, to be promoted */
	float gain;           /* so many times hotter than what it takes the place of */
};
extern const struct plan_rules plan_defaults;

enum plan_reason {
	PLAN_DRAIN,  /* its tier is being emptied */
	PLAN_PIN,    /* an image wants it there */
	PLAN_FULL,   /* its tier is above the high watermark */
	PLAN_ROOM,   /* makes room for a hotter one */
	PLAN_HOT,    /* it is read, and there is room on a faster tier */
	PLAN_UNCOPY, /* its copy takes room that is needed */
};
const char *plan_reason_text(enum plan_reason reason);

struct plan_move {
	uint64_t segment;
	uint32_t bytes;
	uint8_t from, to; /* indices of tiers; of PLAN_UNCOPY: both that of the copy */
	bool keep;        /* what it leaves becomes the copy */
	bool free;        /* the copy is there already: nothing is written */
	enum plan_reason reason;
};

/* A segment's heat: about the chunks read of it in an hour, lately. */
float plan_heat(const struct plan_segment *s);
/*
 * At most cap moves into ret_moves, of first importance first; *ret_n.  segs may be in any order
 * and is put into another.  -ENOMEM.
 */
int plan_make(const struct plan_tier *tiers, unsigned n_tiers, struct plan_segment *segs, size_t n,
        const struct plan_rules *rules, struct plan_move *ret_moves, size_t cap,
        size_t *ret_n) MUST_CHECK;
