/*
 * readahead.c - sequential readers find the next chunks in the cache
 *
 * A reader that continues where it left off, and has missed the cache, gets the following
 * AHEAD_BYTES read by a thread of the store's, a piece at a time, as it advances.  Detection is a
 * hint kept in the image with relaxed atomics: two readers of one image may hide each other.
 * Requests that find the queue full are dropped.
 */
#include <errno.h>

#include "store/store-priv.h"

#define AHEAD_STREAK 2
#define AHEAD_BYTES  (4ull << 20)
#define QUEUE_MAX    32u

struct request {
	struct image *image; /* referenced */
	uint64_t off;
};

struct readahead {
	struct store *store;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct request queue[QUEUE_MAX]; /* lock */
	unsigned head, n;                /* lock */
	bool stop;                       /* lock */
};

static bool enqueue(struct readahead *ra, struct image *img, uint64_t off)
{
	pthread_mutex_lock(&ra->lock);
	const bool room = ra->n < QUEUE_MAX && !ra->stop;
	if (room) {
		image_ref(img);
		ra->queue[(ra->head + ra->n++) % QUEUE_MAX] = (struct request){img, off};
		pthread_cond_signal(&ra->wake);
	}
	pthread_mutex_unlock(&ra->lock);
	return room;
}

void readahead_note(struct image *img, uint64_t off, size_t len, bool missed)
{
	struct readahead *ra = img->store->readahead;

	if (!ra)
		return;
	const uint64_t next = atomic_load_explicit(&img->read_next, memory_order_relaxed);
	atomic_store_explicit(&img->read_next, off + len, memory_order_relaxed);
	if (off != next) {
		atomic_store_explicit(&img->read_streak, 0, memory_order_relaxed);
		return;
	}
	const unsigned streak =
	        atomic_fetch_add_explicit(&img->read_streak, 1, memory_order_relaxed) + 1;
	uint64_t end = atomic_load_explicit(&img->read_ahead_end, memory_order_relaxed);
	if (streak < AHEAD_STREAK)
		return;
	const bool inside = end > off && end - off <= 2 * AHEAD_BYTES;
	if (!inside && !missed)
		return; /* all of it is cached as it is */
	if (!inside)
		end = off + len;
	while (end < off + len + AHEAD_BYTES && end + READ_MAX <= IMAGE_SIZE_MAX &&
	        enqueue(ra, img, end))
		end += READ_MAX;
	atomic_store_explicit(&img->read_ahead_end, end, memory_order_relaxed);
}

void readahead_want(struct image *img, uint64_t off, uint64_t len)
{
	struct readahead *ra = img->store->readahead;
	const uint64_t end = off + len;

	while (ra && off < end && off + READ_MAX <= IMAGE_SIZE_MAX && enqueue(ra, img, off))
		off += READ_MAX;
}

static void *readahead_main(void *arg)
{
	struct readahead *ra = arg;

	pthread_mutex_lock(&ra->lock);
	for (;;) {
		while (ra->n == 0 && !ra->stop)
			pthread_cond_wait(&ra->wake, &ra->lock);
		if (ra->n == 0)
			break;
		const struct request rq = ra->queue[ra->head];
		const bool skip = ra->stop;
		ra->head = (ra->head + 1) % QUEUE_MAX;
		ra->n--;
		pthread_mutex_unlock(&ra->lock);
		if (!skip)
			read_prefetch(rq.image, rq.off, READ_MAX);
		store_image_close(rq.image);
		pthread_mutex_lock(&ra->lock);
	}
	pthread_mutex_unlock(&ra->lock);
	return NULL;
}

int readahead_start(struct store *s)
{
	struct readahead *ra = calloc(1, sizeof(*ra));

	if (!ra)
		return -ENOMEM;
	ra->store = s;
	pthread_mutex_init(&ra->lock, NULL);
	pthread_cond_init(&ra->wake, NULL);
	const int r = pthread_create(&ra->thread, NULL, readahead_main, ra);
	if (r != 0) {
		free(ra);
		return -r;
	}
	s->readahead = ra;
	return 0;
}

void readahead_stop(struct store *s)
{
	struct readahead *ra = s->readahead;

	if (!ra)
		return;
	pthread_mutex_lock(&ra->lock);
	ra->stop = true;
	pthread_cond_signal(&ra->wake);
	pthread_mutex_unlock(&ra->lock);
	pthread_join(ra->thread, NULL);
	s->readahead = NULL;
	pthread_cond_destroy(&ra->wake);
	pthread_mutex_destroy(&ra->lock);
	free(ra);
}
