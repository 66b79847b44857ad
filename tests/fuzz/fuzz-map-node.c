/*
 * fuzz-map-node.c - map_node_decode on arbitrary bytes
 *
 * The input is tried as it is, and once more with its last 8 bytes replaced by the right checksum,
 * or nothing would ever get past that.  What is accepted must be encodable and come back the same.
 * A sealed leaf is opened with a key that the corpus was made with; the plaintext in it cannot be
 * changed by the fuzzer, but is decoded by the same functions as that of others.
 */
#include <errno.h>

#include "base/bytes.h"
#include "store/map.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define NODE_ID 1

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_sealed(const uint8_t *blob, size_t len, const struct map_node *head)
{
	uint8_t bytes[SEAL_KEY_LEN], again[NODE_BLOB_MAX];
	struct seal_key *key = NULL;
	struct map_node node, back;
	size_t again_len = 0;

	ASSERT(head->level == 0 && head->domain != 0);
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)i;
	ASSERT(seal_key_new(bytes, &key) == 0);
	if (map_node_unseal(blob, len, NODE_ID, key, &node) == 0) {
		ASSERT(map_node_seal(&node, NODE_ID, key, again, &again_len) == 0);
		ASSERT(again_len <= sizeof(again));
		ASSERT(map_node_unseal(again, again_len, NODE_ID, key, &back) == 0);
		ASSERT(memcmp(node.values, back.values, sizeof(node.values)) == 0);
	}
	seal_key_free(key);
}

static void try_blob(const uint8_t *blob, size_t len)
{
	uint8_t again[NODE_BLOB_MAX];
	struct map_node node, back;

	const int r = map_node_decode(blob, len, NODE_ID, &node);
	if (r == -ENOKEY)
		try_sealed(blob, len, &node);
	if (r < 0)
		return;
	const size_t again_len = map_node_encode(&node, NODE_ID, again);
	ASSERT(again_len <= sizeof(again));
	ASSERT(map_node_decode(again, again_len, NODE_ID, &back) == 0);
	ASSERT(node.level == back.level && node.birth_txg == back.birth_txg);
	ASSERT(memcmp(node.values, back.values, sizeof(node.values)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t blob[NODE_BLOB_MAX];

	try_blob(data, size);
	if (size < 8 || size > sizeof(blob))
		return 0;
	memcpy(blob, data, size);
	put_u64(blob + size - 8, XXH3_64bits_withSeed(blob, size - 8, NODE_ID));
	try_blob(blob, size);
	return 0;
}
