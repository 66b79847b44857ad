/*
 * analytics.h - what the files of the analytics stage share; private to them
 */
#pragma once

#include <pthread.h>
#include <stdio.h>

#include "stage/builtin/block-hash.h"
#include "stage/builtin/heat.h"
#include "stage/builtin/shards.h"
#include "stage/builtin/streams.h"
#include "stage/builtin/tally.h"
#include "stage/builtin/workset.h"

/* One request in this many is timed, and counts in the heat map; flushes always are. */
#define ANALYTICS_SAMPLE 16u

/* All numbers about one image.  A change of settings makes a new one. */
struct analytics_numbers {
	struct tally tally;
	struct streams streams;
	struct workset workset;
	uint64_t since_wall_ns; /* the reset, or attaching */
	uint64_t memory_bytes;
	unsigned within_percent; /* rule of the recommended cache size */
	unsigned hottest;        /* regions listed */
	uint64_t save_ns;
	struct heat_config heat_config; /* image_bytes: as last seen */
	/* Guards all below and workset's windows. */
	pthread_mutex_t lock;
	struct shards *shards;
	struct heat *heat;
};

struct analytics {
	const struct stage_host *host;
	struct stage_link *self;
	struct analytics_numbers *numbers; /* changed while drained */
	struct analytics_numbers *next;    /* between prepare and commit */
};

/* --- analytics-json.c: each writes one JSON value; the caller holds the lock --- */
void analytics_json_all(FILE *out, struct analytics *a);
void analytics_json_map(FILE *out, struct analytics *a);
void analytics_json_curve(FILE *out, struct analytics *a);
/* Parts of analytics_json_all, by name; NULL ends the list. */
struct analytics_part {
	const char *name;
	void (*write)(FILE *out, struct analytics *a);
};
extern const struct analytics_part analytics_parts[];

/* --- analytics-state.c --- */
/* What is kept when the image is closed, malloc'ed; the caller holds the lock. */
int analytics_encode(struct analytics_numbers *n, uint8_t **ret_buf, size_t *ret_len) MUST_CHECK;
/*
 * Takes any bytes into numbers that are new.  -EBADMSG: they begin anew (the caller resets them);
 * -ENOMEM.
 */
int analytics_decode(struct analytics_numbers *n, const uint8_t *buf, size_t len) MUST_CHECK;

/* --- analytics.c --- */
int analytics_numbers_new(const struct stage_host *host, const struct settings *settings,
        uint64_t image_bytes, struct analytics_numbers **ret_numbers) MUST_CHECK;
void analytics_numbers_free(const struct stage_host *host, struct analytics_numbers *n);
void analytics_numbers_reset(const struct stage_host *host, struct analytics_numbers *n);
