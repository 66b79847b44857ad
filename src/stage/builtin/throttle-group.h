/*
 * throttle-group.h - the buckets that the requests of one or several images pass, and their turn
 *
 * An image is a *member* of one group; each of its two directions is a *lane*, a queue of requests
 * in order of arrival.  Turn: start-time fair queueing over the lanes that wait: each lane has a
 * clock that advances by what a request costs of the scarcest bucket (seconds), and the lane whose
 * clock is behind goes first.  So images share the limit by time, not by number of requests: one
 * that sends 1 MiB pieces gets no more than one that sends 4 KiB.
 * (Goyal, Vin, Cheng, "Start-time fair queuing", SIGCOMM'96.)
 *
 * The limits of a group are the strictest of its members', bucket by bucket.
 *
 * Threads: any, all functions lock the group.  What they let go is handed out as a list, for the
 * caller to resume without a lock.
 */
#pragma once

#include "stage/builtin/bucket.h"
#include "stage/stage.h"

#define THROTTLE_GROUP_NAME_MAX 63u

enum throttle_bucket {
	THROTTLE_IOPS,
	THROTTLE_IOPS_READ,
	THROTTLE_IOPS_WRITE,
	THROTTLE_BPS,
	THROTTLE_BPS_READ,
	THROTTLE_BPS_WRITE,
	THROTTLE_BUCKETS,
};
enum throttle_direction { THROTTLE_READ, THROTTLE_WRITE, THROTTLE_DIRECTIONS };

struct throttle_limits {
	uint64_t rate[THROTTLE_BUCKETS], burst[THROTTLE_BUCKETS], burst_ns;
	uint64_t io_bytes; /* a request counts as one operation for each so many bytes; 0: as one */
};

/* A request that waits or passes; lives in its context. */
struct throttle_wait {
	struct throttle_wait *next;
	struct throttle_member *member;
	struct request *req;
	uint64_t since_ns;
	enum throttle_direction direction;
	bool passed;
};

struct throttle_lane {
	struct throttle_wait *first, **last;
	unsigned n;
	double clock_s;
	bool active;                       /* in the group's list */
	struct throttle_lane *next, *prev; /* of those that wait */
	struct throttle_member *member;
	enum throttle_direction direction;
};

struct throttle_group;
/* Embedded in the stage; all private but host, self, limits. */
struct throttle_member {
	const struct stage_host *host;
	struct stage_link *self;
	struct throttle_limits limits;
	struct throttle_group *group;
	struct throttle_member *next; /* in the group */
	struct throttle_lane lanes[THROTTLE_DIRECTIONS];
	bool open; /* quiesced: passes at once, and is charged */
	uint64_t kept, waited_ns, waited_max_ns, passed;
};

/* A reference to the group of that name, or to a new one without a name (""); -ENOMEM. */
int throttle_group_get(const char *name, struct throttle_group **ret_group) MUST_CHECK;
void throttle_group_put(struct throttle_group *g); /* accepts NULL */
/* The member, with its limits, becomes one of g; takes the reference over. */
void throttle_group_join(struct throttle_member *m, struct throttle_group *g);
/* Nothing of its own waits.  Accepts one that is in no group. */
void throttle_group_leave(struct throttle_member *m);
/* m->limits become those. */
void throttle_group_limits(struct throttle_member *m, const struct throttle_limits *limits);

/*
 * A request arrives: w->member, req, direction are set.  True: it passes.  False: it is kept, and
 * w may be gone at once.  *ret_list: requests whose turn came meanwhile (never w).
 */
bool throttle_group_enter(
        struct throttle_wait *w, uint64_t now_ns, struct throttle_wait **ret_list);
/* Time went by: *ret_list as above. */
void throttle_group_turn(
        struct throttle_member *m, uint64_t now_ns, struct throttle_wait **ret_list);
/* When the member's next request may have its turn; 0: none waits. */
uint64_t throttle_group_due_ns(struct throttle_member *m, uint64_t now_ns);
/* Quiesce: all of its own that wait are let go; until opened = false all pass at once. */
void throttle_group_open(
        struct throttle_member *m, bool opened, uint64_t now_ns, struct throttle_wait **ret_list);

/* For reports. */
struct throttle_stats {
	uint64_t taken[THROTTLE_BUCKETS]; /* by the whole group */
	double level[THROTTLE_BUCKETS];
	uint64_t rate[THROTTLE_BUCKETS];                 /* in effect */
	uint64_t kept, waited_ns, waited_max_ns, passed; /* by this member */
	unsigned waiting, members;
};
void throttle_group_stats(
        struct throttle_member *m, uint64_t now_ns, struct throttle_stats *ret_stats);
