/*
 * instant.c - one instant of several images, with the stages of those that are open told of it
 *
 * Of an image that is open, pipeline_event() drains the requests and asks the stages; of the next
 * one the same, inside; innermost, with all of them drained, the work begins.  The engine fixes the
 * instant at its next freeze and then commits, which takes as long as it takes; the guests need not
 * wait for that.  So the work has a thread, and the events end when it says that the instant is reached.
 *
 * The stages' commit says then that the instant is fixed, not that it is durable.
 */
#include <errno.h>
#include <string.h>

#include "fs/snapshot/private.h"

struct instant {
	struct manager *m;
	const uint64_t *inos;
	size_t n, next;
	struct stage_event event;
	instant_work_fn *work;
	void *arg;
	struct errmsg *em;
	struct errmsg work_em;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t cond;
	bool reached, done;
	int result;
};

static void *instant_main(void *arg)
{
	struct instant *in = arg;
	const int r = in->work(in->arg, in, &in->work_em);

	pthread_mutex_lock(&in->lock);
	in->result = r;
	in->done = true;
	pthread_cond_signal(&in->cond);
	pthread_mutex_unlock(&in->lock);
	return NULL;
}

void instant_reached(struct instant *in)
{
	pthread_mutex_lock(&in->lock);
	in->reached = true;
	pthread_cond_signal(&in->cond);
	pthread_mutex_unlock(&in->lock);
}

/* All are drained.  An error only where nothing was done. */
static int instant_begin(struct instant *in, struct errmsg *em)
{
	const int r = pthread_create(&in->thread, NULL, instant_main, in);

	if (r)
		return errmsg_set(em, -r, "cannot start a thread: %s", strerror(r));
	in->started = true;
	pthread_mutex_lock(&in->lock);
	while (!in->reached && !in->done)
		pthread_cond_wait(&in->cond, &in->lock);
	const int result = in->reached ? 0 : in->result;
	pthread_mutex_unlock(&in->lock);
	return result;
}

/* The next image that is open; then the rest, inside its event. */
static int instant_next(void *arg, struct errmsg *em)
{
	struct instant *in = arg;

	while (in->next < in->n) {
		struct filter_image *fi = image_peek(in->m, in->inos[in->next++]);
		if (!fi)
			continue;
		pthread_mutex_lock(&fi->lock);
		const bool open = fi->pipeline;
		const int r =
		        open ? pipeline_event(fi->pipeline, &in->event, instant_next, in, em) : 0;
		pthread_mutex_unlock(&fi->lock);
		image_put(fi);
		if (open)
			return r;
	}
	return instant_begin(in, em);
}

int instant_run(struct manager *m, const uint64_t *inos, size_t n, enum stage_event_kind kind,
        instant_work_fn *work, void *arg, struct errmsg *em)
{
	struct instant in = {
	        .m = m,
	        .inos = inos,
	        .n = n,
	        .event = {.kind = kind},
	        .work = work,
	        .arg = arg,
	};

	pthread_mutex_init(&in.lock, NULL);
	pthread_cond_init(&in.cond, NULL);
	int r = instant_next(&in, em);
	if (in.started) {
		pthread_join(in.thread, NULL);
		r = in.result;
		if (r < 0)
			*em = in.work_em;
	}
	pthread_cond_destroy(&in.cond);
	pthread_mutex_destroy(&in.lock);
	return r;
}
