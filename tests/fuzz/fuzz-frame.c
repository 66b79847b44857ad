/*
 * fuzz-frame.c - frames: header, whole, and unpacking, on any bytes
 *
 * The input is copied to memory of just its size, so that a sanitizer sees each byte read past it.
 * Unpacking is also tried on the bytes alone, since a checksum would keep nearly all of them out.
 */
#include <errno.h>

#include "store/frame.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t chunks[FRAME_UNPACK_BYTES], plain[FRAME_UNPACK_BYTES];

/* A key, so that sealed frames are opened: whether one is authentic decides libcrypto, not us. */
static const struct crypto_domain *domain_for(uint32_t key_id)
{
	static const uint8_t key[SEAL_KEY_LEN];
	static struct crypto_domain d;

	if (!d.frame && seal_key_new(key, &d.frame) < 0)
		abort();
	d.id = key_id;
	return &d;
}

/*
 * A frame that is well and truly sealed, with what the input says for a payload: what comes out of
 * the seal is no more trusted by the decompressor than what lies in the open.
 */
static void frame_sealed_try(const struct frame_info *info, const uint8_t *payload)
{
	static uint8_t buf[FRAME_SIZE_MAX];
	const uint8_t *sealed = NULL;
	struct frame_info f = *info;
	size_t size = 0;

	f.key_id = 3;
	f.payload_len += SEAL_OVERHEAD;
	f.segment = 1;
	frame_slots_set(&f, 0);
	const int r = frame_encode_sealed(&f, domain_for(3)->frame, payload, buf);
	ASSERT(r == 0);
	const int d = frame_decode(buf, sizeof(buf), 1, &f, &sealed, &size);
	ASSERT(d == 0);
	const int o = frame_open(&f, domain_for(3), sealed, plain, chunks);
	ASSERT(o == 0 || o == -EUCLEAN);
}

static void frame_check(const uint8_t *buf, size_t len, uint64_t segment)
{
	struct frame_info f;
	const uint8_t *payload = NULL;
	size_t size = 0;

	if (frame_decode_header(buf, len, segment, &f, &size) == 0) {
		ASSERT(f.n >= 1 && f.n <= FRAME_CHUNKS_MAX && size <= FRAME_SIZE_MAX);
		for (unsigned i = 0; i < f.n; i++)
			ASSERT(f.slots[i] < SEGMENT_SLOTS && f.slots[i] >= f.slots[0]);
	}
	if (frame_decode(buf, len, segment, &f, &payload, &size) == 0) {
		ASSERT(size <= len && payload > buf && payload + f.payload_len <= buf + size);
		const int r = frame_open(&f, domain_for(f.key_id), payload, plain, chunks);
		(void)r; /* any answer will do */
	}
}

/* Gives the header a right checksum, so that what lies behind it is reached. */
static void frame_reseal(uint8_t *buf, size_t len)
{
	if (len < FRAME_HEADER_LEN + 16 * FRAME_CHUNKS_MAX)
		return;
	const size_t hashes = (buf[4] % (FRAME_CHUNKS_MAX + 1)) * 16;
	const uint64_t head =
	        XXH3_64bits_withSeed(buf + FRAME_HEADER_LEN, hashes, XXH3_64bits(buf, 48));
	const size_t payload = FRAME_HEADER_LEN + hashes;
	const size_t payload_len = MIN(get_u32(buf + 12), len - payload);

	put_u64(buf + 48, head);
	put_u64(buf + 56, XXH3_64bits_withSeed(buf + payload, payload_len, head));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frame_info f = {.n = 1 + (unsigned)(size % FRAME_CHUNKS_MAX), .codec = CODEC_LZ4};
	uint8_t *buf = malloc(size + 1);

	if (!buf)
		return 0;
	memcpy(buf, data, size);
	const uint64_t segment = size >= 32 ? get_u64(buf + 24) : 1;
	f.payload_len = (uint32_t)MIN(size, f.n * CHUNK_SIZE);
	const int r = frame_unpack(&f, buf, chunks);
	(void)r; /* any answer will do */
	if (f.payload_len > 0)
		frame_sealed_try(&f, buf);
	frame_check(buf, size, segment);
	frame_reseal(buf, size);
	frame_check(buf, size, segment);
	free(buf);
	return 0;
}
