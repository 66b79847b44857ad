/*
 * vfs-stages.h - filter stages and a small manager of them, for the tests of the vfs
 *
 * Every file that is opened gets the stages of stages_types, in that order.  What happens to files
 * and requests is written down in `seen`.
 */
#pragma once

#include "vfs-world.h"

#define STAGES_MAX 4u

struct seen {
	_Atomic unsigned opens, closes, open_now, collects, inherits;
	_Atomic unsigned ops[REQUEST_OPS];
	_Atomic unsigned flags[REQUEST_OPS]; /* of the last one */
	_Atomic uint64_t lens[REQUEST_OPS];
	_Atomic uint64_t collected, inherited_dir, inherited; /* inode numbers of the last */
};
extern struct seen seen;
extern const struct stage_type *_Atomic stages_types[STAGES_MAX]; /* NULL ends */
extern int stages_open_result, stages_inherit_result;
extern _Atomic bool stages_read_only;

extern const struct stage_type stage_note; /* writes down what it sees */
extern const struct stage_type stage_deny; /* fails changes with EPERM */
extern const struct stage_type stage_xor;  /* what is stored differs from what is read */
extern const struct stage_type stage_keep; /* keeps what stages_keep asks for */
extern _Atomic unsigned stages_keep;       /* OP bits */

/* A plan of stages_types, as files are opened with; released by the caller. */
void stages_plan(struct stack_plan *ret_plan);

/* Requests kept now; how many to wait for. */
unsigned kept_count(void);
void kept_wait(unsigned n);
/* Lets all that are kept go on, and what comes from now on pass. */
void kept_resume(void);

/* A case with these stages; more than one world may be opened in it. */
int stages_setup(void **state);
int stages_teardown(void **state);
#define STAGES_CASE(fn) cmocka_unit_test_setup_teardown(fn, stages_setup, stages_teardown)
