/*
 * ns-engine.h - for the tests of meta/: what the engine does with rows
 *
 * Rows collect in the open group; a frozen one is committed, fails, or is replayed after a reopen.
 */
#pragma once

#include <pthread.h>

#include "base/bytes.h"
#include "meta-fixture.h"
#include "meta/namespace.h"

struct engine {
	struct fixture f;
	struct meta *m;
	struct ns *ns;
	pthread_mutex_t lock;
	_Atomic uint64_t txg; /* collects now */
	struct bytes_out open, frozen;
	bool has_frozen;
	int fail_append;
};

static inline int sink_append(void *arg, const void *rows, size_t len)
{
	struct engine *e = arg;

	if (e->fail_append && --e->fail_append == 0)
		return -ENOMEM;
	pthread_mutex_lock(&e->lock);
	bytes_append(&e->open, rows, len);
	pthread_mutex_unlock(&e->lock);
	return 0;
}

static inline uint64_t sink_txg(void *arg)
{
	return ((struct engine *)arg)->txg;
}

static inline void engine_start(struct engine *e)
{
	const struct ns_sink sink = {e, sink_append, sink_txg};
	struct store_state s;
	struct errmsg em;

	e->m = fixture_meta(&e->f, false);
	assert_int_equal(e->m->ops->state_get(e->m, &s), 0);
	e->txg = s.txg + 1;
	assert_int_equal(ns_open(e->m, &e->ns, &em), 0);
	ns_set_sink(e->ns, &sink);
}

static inline void engine_open(struct engine *e)
{
	memset(e, 0, sizeof(*e));
	pthread_mutex_init(&e->lock, NULL);
	fixture_open(&e->f);
	fixture_create(&e->f);
	engine_start(e);
}

static inline void engine_close(struct engine *e)
{
	ns_close(e->ns);
	meta_close(e->m);
	bytes_release(&e->open);
	bytes_release(&e->frozen);
	fixture_close(&e->f);
	pthread_mutex_destroy(&e->lock);
}

static inline void engine_freeze(struct engine *e)
{
	if (e->has_frozen)
		return;
	pthread_mutex_lock(&e->lock);
	e->frozen = e->open;
	e->open = (struct bytes_out){0};
	e->has_frozen = true;
	e->txg++;
	pthread_mutex_unlock(&e->lock);
}

static inline int engine_commit(struct engine *e)
{
	struct meta *m = e->m;
	struct store_state s;

	if (!e->has_frozen)
		return 0;
	int r = m->ops->begin(m);
	if (r == 0)
		r = m->ops->rows_apply(m, e->frozen.data, e->frozen.len);
	assert_int_equal(m->ops->state_get(m, &s), 0);
	s.txg = e->txg - 1;
	if (r == 0)
		r = m->ops->state_put(m, &s);
	if (r == 0)
		r = m->ops->commit(m);
	if (r < 0) {
		m->ops->rollback(m);
		return r;
	}
	ns_committed(e->ns, s.txg);
	bytes_release(&e->frozen);
	e->has_frozen = false;
	return 0;
}

static inline void engine_reopen(struct engine *e)
{
	ns_close(e->ns);
	meta_close(e->m);
	engine_start(e);
	if (e->has_frozen) {
		if (e->open.len > 0)
			bytes_append(&e->frozen, e->open.data, e->open.len);
		bytes_release(&e->open);
		e->open = e->frozen;
		e->frozen = (struct bytes_out){0};
		e->has_frozen = false;
	}
	assert_int_equal(ns_replay(e->ns, e->open.data, e->open.len), 0);
}
