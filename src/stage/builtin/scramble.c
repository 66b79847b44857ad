/*
 * scramble.c - a transform without any security: a keyed substitution of bytes
 *
 * For tests and rehearsals of what transforms bring with them (conversion, refusal to open without
 * the stage), not for secrets.  A permutation of 1..255 drawn from the key (Fisher-Yates); zero stays
 * zero, so that holes stay holes.  The same at every offset, so that ranges need no alignment.
 */
#include <errno.h>

#include "stage/builtin/builtin.h"

#define BYTES 256u

struct scramble {
	void (*free)(void *p);
	uint8_t to[BYTES], from[BYTES];
};

static const struct setting_def settings[] = {
        {.key = "key",
                .kind = SETTING_UINT,
                .initial = "1",
                .help = "number that the substitution is drawn from",
                .fixed = true},
        {0},
};

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static void draw(struct scramble *s, uint64_t key)
{
	for (unsigned i = 0; i < BYTES; i++)
		s->to[i] = (uint8_t)i;
	for (unsigned i = BYTES - 1; i > 1; i--) {
		const unsigned j = 1 + (unsigned)(next_random(&key) % i);
		const uint8_t swap = s->to[i];
		s->to[i] = s->to[j];
		s->to[j] = swap;
	}
	for (unsigned i = 0; i < BYTES; i++)
		s->from[s->to[i]] = (uint8_t)i;
}

static int scramble_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *given, void **ret_stage, struct errmsg *em)
{
	struct scramble *s = host->alloc(sizeof(*s));

	if (!s)
		return errmsg_set(em, -ENOMEM, "out of memory");
	s->free = host->free;
	draw(s, settings_number(given, "key"));
	*ret_stage = s;
	return 0;
}

static void scramble_destroy(void *stage)
{
	struct scramble *s = stage;

	if (s)
		s->free(s);
}

static void substitute(const uint8_t table[BYTES], uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		data[i] = table[data[i]];
}

static void scramble_encode(void *stage, uint64_t off, void *data, size_t len)
{
	substitute(((struct scramble *)stage)->to, data, len);
}

static void scramble_decode(void *stage, uint64_t off, void *data, size_t len)
{
	substitute(((struct scramble *)stage)->from, data, len);
}

const struct stage_type stage_scramble = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "scramble",
        .version = 1,
        .summary = "substitutes bytes; no security, for tests and rehearsals of transforms",
        .class = STAGE_TRANSFORM,
        .capabilities = STAGE_TRANSFORMS | STAGE_NEEDS_FORCE,
        .understands = OPS_ALL,
        .settings = settings,
        .create = scramble_create,
        .destroy = scramble_destroy,
        .encode = scramble_encode,
        .decode = scramble_decode,
};
