#include "store/chunk.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(
        XXH3_SECRET_SIZE_MIN <= sizeof(((struct chunk_hasher *)0)->secret), "secret too short");

void chunk_hasher_init(struct chunk_hasher *h, const uint8_t key[DOMAIN_KEY_LEN])
{
	XXH3_generateSecret(h->secret, sizeof(h->secret), key, DOMAIN_KEY_LEN);
}

struct hash128 chunk_hash(const struct chunk_hasher *h, const void *data)
{
	const XXH128_hash_t x =
	        XXH3_128bits_withSecret(data, CHUNK_SIZE, h->secret, sizeof(h->secret));
	struct hash128 r = {.lo = x.low64, .hi = x.high64};
#ifdef WEIR_HASH_BITS
	/*
	 * The kept bits are spread so that neither the index's tag nor the map's check is constant.
	 */
	r.lo = (r.lo & ((1ull << (WEIR_HASH_BITS < 64 ? WEIR_HASH_BITS : 63)) - 1)) *
	       0x9e3779b97f4a7c15ull;
	r.hi = r.lo >> 7;
#endif
	return r;
}

bool chunk_is_zero(const void *data)
{
	const uint64_t *w = data;

	/* Most chunks show a non-zero word at once; a zero one is compared with itself, shifted. */
	if (w[0] | w[1] | w[CHUNK_SIZE / 16] | w[CHUNK_SIZE / 8 - 1])
		return false;
	return memcmp(data, (const char *)data + 8, CHUNK_SIZE - 8) == 0;
}
