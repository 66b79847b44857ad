/*
 * health.c - what is wrong at present, and why
 *
 * Several things can be wrong at once, and each ends on its own: so each cause has a text of its
 * own, and what `weir status` shows is the gravest of those that are set.  A cause is logged when
 * it begins, when its text changes, and when it ends.  Damage stays until the store is closed: it
 * was met, and somebody should look.
 *
 * Any thread; everything is under health.lock, which is taken last of all locks.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "store/store-priv.h"

void health_set(struct store *s, enum health_cause cause, const char *fmt, ...)
{
	struct health *h = &s->health;
	char text[HEALTH_TEXT_LEN];
	va_list ap;

	ASSERT(cause < HEALTH_CAUSES);
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&h->lock);
	const bool news = strcmp(text, h->texts[cause]) != 0;
	memcpy(h->texts[cause], text, sizeof(text));
	atomic_fetch_or(&h->causes, BIT(cause));
	pthread_mutex_unlock(&h->lock);
	if (news)
		log_error("%s", text);
}

void store_note_io_error(struct store *s)
{
	if (atomic_load(&s->health.causes) == 0)
		health_set(s, HEALTH_DAMAGE,
		        "an operation failed because the backing could not be read; 'weir check' "
		        "tells what is lost");
}

void health_clear(struct store *s, enum health_cause cause, const char *why)
{
	struct health *h = &s->health;

	ASSERT(cause < HEALTH_CAUSES);
	if (!(atomic_load(&h->causes) & BIT(cause)))
		return;
	pthread_mutex_lock(&h->lock);
	const bool news = atomic_load(&h->causes) & BIT(cause);
	h->texts[cause][0] = '\0';
	atomic_fetch_and(&h->causes, ~BIT(cause));
	pthread_mutex_unlock(&h->lock);
	if (news)
		log_note("%s", why);
}

bool health_is(const struct store *s, enum health_cause cause)
{
	return atomic_load(&s->health.causes) & BIT(cause);
}

void health_get(struct store *s, struct store_stats *st)
{
	struct health *h = &s->health;

	st->health = STORE_OK;
	st->health_text[0] = '\0';
	pthread_mutex_lock(&h->lock);
	for (unsigned i = 0; i < HEALTH_CAUSES; i++) {
		if (!(atomic_load(&h->causes) & BIT(i)))
			continue;
		st->health = STORE_DEGRADED;
		memcpy(st->health_text, h->texts[i], sizeof(st->health_text));
		break;
	}
	pthread_mutex_unlock(&h->lock);
}
