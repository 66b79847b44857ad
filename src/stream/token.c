/*
 * token.c - what names a snapshot over datastores, and where a stream may be resumed
 */
#include <errno.h>
#include <stdio.h>

#include "stream/stream-private.h"

#define TOKEN_MAGIC "weir1-"
#define TOKEN_LEN   (2 * STREAM_GUID_LEN + 8u)

_Static_assert(sizeof(TOKEN_MAGIC) + 2 * (TOKEN_LEN + 4) <= STREAM_TOKEN_TEXT, "it fits");

int stream_guid(const uint8_t uuid[16], uint64_t key, uint8_t ret_guid[STREAM_GUID_LEN])
{
	uint8_t in[24], sha[EVP_MAX_MD_SIZE];

	memcpy(in, uuid, 16);
	put_u64(in + 16, key);
	if (!EVP_Digest(in, sizeof(in), sha, NULL, EVP_sha256(), NULL))
		return -EIO;
	memcpy(ret_guid, sha, STREAM_GUID_LEN);
	return 0;
}

void stream_token_text(const struct stream_token *t, char ret_text[STREAM_TOKEN_TEXT])
{
	uint8_t bytes[TOKEN_LEN + 4];
	char *at = ret_text + sprintf(ret_text, TOKEN_MAGIC);

	memcpy(bytes, t->guid, STREAM_GUID_LEN);
	memcpy(bytes + 16, t->guid_from, STREAM_GUID_LEN);
	put_u64(bytes + 32, t->start);
	put_u32(bytes + TOKEN_LEN, (uint32_t)XXH3_64bits(bytes, TOKEN_LEN));
	for (unsigned i = 0; i < sizeof(bytes); i++)
		at += sprintf(at, "%02x", bytes[i]);
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int stream_token_parse(const char *text, struct stream_token *ret_t)
{
	const size_t magic = strlen(TOKEN_MAGIC);
	uint8_t bytes[TOKEN_LEN + 4];

	if (strlen(text) != magic + 2 * sizeof(bytes) || strncmp(text, TOKEN_MAGIC, magic))
		return -EINVAL;
	text += magic;
	for (unsigned i = 0; i < sizeof(bytes); i++) {
		const int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
		if (high < 0 || low < 0)
			return -EINVAL;
		bytes[i] = (uint8_t)(high << 4 | low);
	}
	struct stream_token t = {.start = get_u64(bytes + 32)};
	if (get_u32(bytes + TOKEN_LEN) != (uint32_t)XXH3_64bits(bytes, TOKEN_LEN) ||
	        t.start % CHUNK_SIZE || t.start > IMAGE_SIZE_MAX)
		return -EINVAL;
	memcpy(t.guid, bytes, STREAM_GUID_LEN);
	memcpy(t.guid_from, bytes + 16, STREAM_GUID_LEN);
	*ret_t = t;
	return 0;
}
