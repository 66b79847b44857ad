/*
 * test-receive-hostile.c - streams that are damaged, and streams that check but lie
 *
 * A real stream is taken apart; its records are changed, dropped, doubled, swapped or cut, and put
 * together again with checksums that fit: so the decoder is passed and the receiver itself has to
 * hold.  Whatever comes of it: never a crash, a failure changes nothing that can be seen, and what
 * stays behind is a hidden image with its record, or nothing.
 *
 * WEIR_HOSTILE_ROUNDS: how many of each kind; a failure prints the number that repeats it.
 */
#include <openssl/evp.h>
#include <xxhash.h>

#include "receive-world.h"
#include "sim/rng.h"
#include "stream/stream.h"

#define RECORDS_MAX 512u

struct record {
	unsigned type;
	uint8_t *payload; /* owned */
	uint32_t len;
};

struct stream {
	uint8_t prologue[16];
	struct record records[RECORDS_MAX];
	unsigned n;
};

static uint32_t le32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void le64_put(uint8_t *p, uint64_t v)
{
	for (unsigned i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static void record_add(struct stream *s, unsigned type, const void *payload, uint32_t len)
{
	struct record *r = &s->records[s->n++];

	assert_true(s->n <= RECORDS_MAX);
	*r = (struct record){type, malloc(len + 1), len};
	memcpy(r->payload, payload, len);
}

static void stream_load(int fd, struct stream *s)
{
	const size_t len = length_of(fd);
	uint8_t *buf = malloc(len);
	size_t at = 16;

	s->n = 0;
	assert_int_equal(pread(fd, buf, len, 0), len);
	memcpy(s->prologue, buf, 16);
	while (at < len) {
		const uint32_t n = le32(buf + at + 4);
		record_add(s, buf[at] | (unsigned)buf[at + 1] << 8, buf + at + 16, n);
		at += 16 + n;
	}
	assert_int_equal(at, len);
	free(buf);
}

static void stream_copy(const struct stream *from, struct stream *to)
{
	memcpy(to->prologue, from->prologue, 16);
	to->n = 0;
	for (unsigned i = 0; i < from->n; i++)
		record_add(
		        to, from->records[i].type, from->records[i].payload, from->records[i].len);
}

static void stream_drop(struct stream *s)
{
	for (unsigned i = 0; i < s->n; i++)
		free(s->records[i].payload);
	s->n = 0;
}

/* Places of a DATA record. */
static unsigned places_of(const struct record *r)
{
	return r->type == STREAM_DATA && r->len >= 4 ? r->payload[2] | r->payload[3] << 8 : 0;
}

/* What END says of what precedes it. */
static void end_fill(struct stream *s, unsigned at, EVP_MD_CTX *sha)
{
	struct record *end = &s->records[at];
	uint64_t places = 0;
	unsigned len = 0;

	if (end->len != 48)
		return;
	for (unsigned i = 0; i < at; i++)
		places += places_of(&s->records[i]);
	le64_put(end->payload, at);
	le64_put(end->payload + 8, places);
	EVP_MD_CTX *copy = EVP_MD_CTX_new();
	EVP_MD_CTX_copy(copy, sha);
	EVP_DigestFinal_ex(copy, end->payload + 16, &len);
	EVP_MD_CTX_free(copy);
}

/* With checksums that fit. */
static int stream_write(struct stream *s)
{
	const int fd = memfd_create("hostile", MFD_CLOEXEC);
	uint64_t chain = XXH3_64bits(s->prologue, 16);
	EVP_MD_CTX *sha = EVP_MD_CTX_new();
	XXH3_state_t *sum = XXH3_createState();

	EVP_DigestInit_ex(sha, EVP_sha256(), NULL);
	EVP_DigestUpdate(sha, s->prologue, 16);
	assert_int_equal(write(fd, s->prologue, 16), 16);
	for (unsigned i = 0; i < s->n; i++) {
		const struct record *r = &s->records[i];
		uint8_t head[16] = {(uint8_t)r->type, (uint8_t)(r->type >> 8)};
		if (r->type == STREAM_END)
			end_fill(s, i, sha);
		le64_put(head + 4, r->len); /* the checksum goes over its upper half */
		XXH3_64bits_reset_withSeed(sum, chain);
		XXH3_64bits_update(sum, head, 8);
		XXH3_64bits_update(sum, r->payload, r->len);
		chain = XXH3_64bits_digest(sum);
		le64_put(head + 8, chain);
		EVP_DigestUpdate(sha, head, 16);
		EVP_DigestUpdate(sha, r->payload, r->len);
		assert_int_equal(write(fd, head, 16), 16);
		assert_int_equal(write(fd, r->payload, r->len), r->len);
	}
	XXH3_freeState(sum);
	EVP_MD_CTX_free(sha);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

/* --- what is done to it --- */

static struct record *some_record(struct stream *s, struct rng *r)
{
	return &s->records[rng_below(r, s->n)];
}

static void change_bytes(struct stream *s, struct rng *r)
{
	struct record *rec = some_record(s, r);
	const uint32_t head = rng_chance(r, 700) ? 24u : rec->len, within = MIN(rec->len, head);

	for (unsigned n = 1 + (unsigned)rng_below(r, 3); n > 0 && within; n--)
		rec->payload[rng_below(r, within)] =
		        rng_chance(r, 500) ? (uint8_t)rng_next(r) : (uint8_t)(rng_below(r, 4) - 1);
}

static void change_number(struct stream *s, struct rng *r)
{
	static const uint64_t numbers[] = {0, 1, 4095, 4096, 8192, MIB, 6 * MIB, 16ull << 40,
	        (16ull << 40) - 4096, 1ull << 62, UINT64_MAX, UINT64_MAX - 4095};
	struct record *rec = some_record(s, r);

	if (rec->len >= 8)
		le64_put(rec->payload + 8 * rng_below(r, MIN(rec->len / 8, 10u)),
		        numbers[rng_below(r, ARRAY_SIZE(numbers))]);
}

static void change_order(struct stream *s, struct rng *r)
{
	struct record *a = some_record(s, r), *b = some_record(s, r), c = *a;

	*a = *b;
	*b = c;
}

static void change_count(struct stream *s, struct rng *r)
{
	struct record *rec = some_record(s, r);

	if (rng_chance(r, 300) && s->n < RECORDS_MAX) {
		record_add(s, rec->type, rec->payload, rec->len);
		return change_order(s, r);
	}
	if (s->n < 2)
		return;
	free(rec->payload);
	memmove(rec, rec + 1, (size_t)(&s->records[--s->n] - rec) * sizeof(*rec));
}

static void change_length(struct stream *s, struct rng *r)
{
	struct record *rec = some_record(s, r);

	rec->len = (uint32_t)rng_below(r, rec->len + 1);
}

/* Fields of the description, and of rows: texts with others of about their length. */
static void change_text(struct stream *s, struct rng *r)
{
	static const char *const words[] = {"..", ".weir", "/", "a/../../b", "\\u0000", "\"", "{",
	        "0", "-1", "9223372036854775807", "1e99", "null", "true", "scramble", "watch",
	        "encrypt", "active", "converting in", "\xff\xfe"};
	struct record *rec = some_record(s, r);
	const char *word = words[rng_below(r, ARRAY_SIZE(words))];
	const size_t len = strlen(word);

	for (unsigned i = 0; i < 20 && rec->type != STREAM_META && rec->type != STREAM_ROW; i++)
		rec = some_record(s, r);
	if (rec->len > len)
		memcpy(rec->payload + rng_below(r, rec->len - len), word, len);
}

static void change(struct stream *s, struct rng *r)
{
	static void (*const changes[])(struct stream * s, struct rng * r) = {change_bytes,
	        change_number, change_order, change_count, change_length, change_text};

	changes[rng_below(r, ARRAY_SIZE(changes))](s, r);
}

/* --- what must hold --- */

static unsigned rounds(void)
{
	const char *text = getenv("WEIR_HOSTILE_ROUNDS");

	return text ? (unsigned)atoi(text) : 150;
}

static uint64_t sum_of(const char *name)
{
	struct vnode *f;
	static char buf[MIB];
	const uint64_t ino = ino_of(TOP, name), size = size_of(ino);
	uint64_t sum = size;

	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	for (uint64_t off = 0; off < size; off += MIB)
		sum = XXH3_64bits_withSeed(buf, get(f, off, buf, MIN(size - off, MIB)), sum);
	vfs_release(vfs, f);
	return sum;
}

static int count_name(void *arg, const char *name, uint64_t ino, uint32_t mode, uint64_t cookie)
{
	++*(unsigned *)arg;
	return 0;
}

static unsigned names(void)
{
	unsigned n = 0;

	assert_int_equal(ns_name_each(ds->ns, TOP, 0, count_name, &n), 0);
	return n;
}

static void clear_hidden(const char *target)
{
	json_t *json = NULL;
	struct errmsg em = {0};

	assert_int_equal(orphans(), hidden());
	if (hidden() > 0)
		assert_int_equal(receive_abort(m, &me, target, &json, &em), 0);
	json_decref(json);
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
}

static unsigned taken; /* streams that lied well enough */

static void whole_round(const struct stream *good, uint64_t seed)
{
	struct rng r = {seed};
	static struct stream s;
	const unsigned before = names();

	stream_copy(good, &s);
	for (unsigned n = 1 + (unsigned)rng_below(&r, 3); n > 0; n--)
		change(&s, &r);
	const int fd = stream_write(&s);
	const int got = receive(fd, "b");
	if (got == 0) {
		taken++;
		assert_int_equal(names(), before + 1);
		sum_of("b"); /* it can be read */
		assert_int_equal(vfs_unlink(vfs, TOP, "b"), 0);
	}
	assert_int_equal(names(), before);
	clear_hidden("b");
	close(fd);
	stream_drop(&s);
}

static void whole_images_that_lie(void **state)
{
	static struct stream good;

	make_source();
	assert_int_equal(attach("a", "scramble", NULL, true), 0);
	assert_int_equal(attach("a", "watch", NULL, false), 0);
	keep("a", "s2");
	const int fd = sent("a", "s2", NULL);
	stream_load(fd, &good);
	const int copy = stream_write(&good); /* what we put together is what it was */
	received(copy, "b");
	same_files("a", "b");
	assert_int_equal(vfs_unlink(vfs, TOP, "b"), 0);
	taken = 0;
	for (unsigned i = 0; i < rounds(); i++) {
		print_message("\rwhole %u ", i);
		whole_round(&good, i);
	}
	print_message("%u of %u were taken\n", taken, rounds());
	stream_drop(&good);
	close(copy);
	close(fd);
}

static void update_round(const struct stream *good, uint64_t seed, uint64_t sum)
{
	struct rng r = {seed};
	static struct stream s;
	const unsigned before = names();
	const struct snapshot_request back = {.target = "b", .name = "s1"};
	json_t *json = NULL;

	stream_copy(good, &s);
	for (unsigned n = 1 + (unsigned)rng_below(&r, 3); n > 0; n--)
		change(&s, &r);
	const int fd = stream_write(&s);
	if (receive(fd, "b") == 0) {
		taken++;
		sum_of("b");
		assert_int_equal(snapshots_rollback(m, &me, &back, NULL, NULL, &json, &why), 0);
		json_decref(json);
		const struct snapshot_request gone = {.target = "b",
		        .name = json_string_value(json_object_get(result, "snapshot"))};
		assert_int_equal(snapshots_delete(m, &me, &gone, &json, &why), 0);
		json_decref(json);
	}
	assert_true(sum_of("b") == sum);
	assert_int_equal(names(), before);
	clear_hidden("b");
	close(fd);
	stream_drop(&s);
}

static void updates_that_lie(void **state)
{
	static struct stream good;

	make_source();
	int fd = sent("a", "s1", NULL);
	received(fd, "b");
	close(fd);
	change_source();
	fd = sent("a", "s2", "s1");
	stream_load(fd, &good);
	const uint64_t sum = sum_of("b");
	taken = 0;
	for (unsigned i = 0; i < rounds(); i++) {
		print_message("\rupdate %u ", i);
		update_round(&good, 1000000 + i, sum);
	}
	print_message("%u of %u were taken\n", taken, rounds());
	received(fd, "b");
	same_files("a", "b");
	stream_drop(&good);
	close(fd);
}

static void bytes_that_are_damaged(void **state)
{
	make_source();
	const int fd = sent("a", "s1", NULL);
	const size_t len = length_of(fd);
	uint8_t *buf = malloc(len);
	struct rng r = {7};

	assert_int_equal(pread(fd, buf, len, 0), len);
	for (unsigned i = 0; i < rounds() / 2; i++) {
		const size_t at = rng_chance(&r, 500) ? rng_below(&r, 1000) : rng_below(&r, len);
		const uint8_t was = buf[at];
		const int bad = memfd_create("bad", MFD_CLOEXEC);
		buf[at] ^= (uint8_t)(1u << rng_below(&r, 8));
		assert_int_equal(write(bad, buf, len), len);
		assert_int_equal(lseek(bad, 0, SEEK_SET), 0);
		assert_true(receive(bad, "b") < 0);
		assert_int_equal(ino_of(TOP, "b"), 0);
		assert_int_equal(orphans(), hidden());
		buf[at] = was;
		close(bad);
	}
	received(fd, "b"); /* on top of what damaged ones left */
	same_files("a", "b");
	free(buf);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        MANAGER_CASE(whole_images_that_lie),
	        MANAGER_CASE(updates_that_lie),
	        MANAGER_CASE(bytes_that_are_damaged),
	};
	struct errmsg em;

	if (stage_type_add(&watch_type, &em) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
