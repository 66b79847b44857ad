/*
 * test-segments-sealed.c - segments of several crypto domains: apart from each other, closed without
 * their key, and wiped of what is dead
 */
#include "segments-env.h"

#define DOMAINS 8u /* 0 among them */

static void keys_add(struct env *e, uint32_t from, uint32_t to)
{
	for (uint32_t d = from; d <= to; d++) {
		const uint8_t key[SEAL_KEY_LEN] = {(uint8_t)d, (uint8_t)(d >> 8), 0xa5};
		assert_int_equal(keyring_add(e->keyring, d, key), 0);
	}
}

/* Of each domain a frame in turn. */
static void append_mixed(struct env *e, unsigned rounds, uint32_t domains)
{
	for (unsigned i = 0; i < rounds * domains; i++) {
		e->domain = i % domains;
		assert_int_equal(env_append(e, 1, 1 + i % 8), 0);
	}
}

static void each_domain_has_segments_of_its_own(void **state)
{
	struct env *e = *state;

	keys_add(e, 1, DOMAINS - 1);
	append_mixed(e, 30, DOMAINS);
	env_verify(e);
	assert_int_equal(env_commit(e), 0);
	env_verify(e);
	for (unsigned i = 0; i < e->n_known; i++) {
		uint32_t domain = 99;
		assert_int_equal(segments_domain(e->ss, loc_segment(e->known[i].loc), &domain), 0);
		assert_int_equal(domain, env_row(e, loc_segment(e->known[i].loc))->domain);
		assert_true(segments_present(e->ss, e->known[i].loc, domain));
		assert_false(segments_present(e->ss, e->known[i].loc, domain + 1));
	}
	assert_int_equal(segments_next(e->ss), 1 + DOMAINS);
}

static void open_segments_are_continued_each_in_its_domain(void **state)
{
	struct env *e = *state;

	keys_add(e, 1, DOMAINS - 1);
	append_mixed(e, 5, DOMAINS);
	assert_int_equal(env_commit(e), 0);
	env_remount(e);
	append_mixed(e, 5, DOMAINS);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(segments_next(e->ss), 1 + DOMAINS);
	env_remount(e);
	env_verify(e);
}

static void there_may_be_more_domains_than_open_segments(void **state)
{
	enum { MANY = 150 };
	struct env *e = *state;
	struct segments_stats st;

	keys_add(e, 1, MANY - 1);
	append_mixed(e, 2, MANY);
	assert_int_equal(env_commit(e), 0);
	env_verify(e);
	segments_stats_get(e->ss, &st);
	assert_in_range(st.open, 1, 64);
	env_remount(e);
	env_verify(e);
	append_mixed(e, 1, MANY);
	assert_int_equal(env_commit(e), 0);
	env_verify(e);
}

struct appender {
	struct env *e;
	uint64_t seed;
	unsigned frames;
	uint64_t *locs;
	int error;
	pthread_t thread;
};

static void *append_all(void *arg)
{
	struct appender *a = arg;
	uint8_t chunk[CHUNK_SIZE];
	struct hash128 hash;

	for (unsigned i = 0; i < a->frames && a->error == 0; i++) {
		const struct crypto_domain *d = keyring_get(a->e->keyring, (uint32_t)(i % DOMAINS));
		chunk_fill(a->seed + i, chunk);
		a->error = domain_hash(d, chunk, &hash);
		const struct frame_spec spec = {.n = 1,
		        .codec = CODEC_RAW,
		        .hashes = &hash,
		        .payload = chunk,
		        .payload_len = CHUNK_SIZE,
		        .crypto = d};
		if (a->error == 0)
			a->error = segments_append(a->e->ss, a->e->txg, &spec, &a->locs[i]);
		keyring_put(a->e->keyring, d);
	}
	return NULL;
}

static void many_threads_append_to_many_domains(void **state)
{
	struct env *e = *state;
	struct appender a[6];

	keys_add(e, 1, DOMAINS - 1);
	for (unsigned i = 0; i < ARRAY_SIZE(a); i++) {
		a[i] = (struct appender){.e = e, .seed = 1 + i * 100000, .frames = 2000};
		a[i].locs = calloc(a[i].frames, sizeof(uint64_t));
		assert_int_equal(pthread_create(&a[i].thread, NULL, append_all, &a[i]), 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(a); i++) {
		pthread_join(a[i].thread, NULL);
		assert_int_equal(a[i].error, 0);
		for (unsigned k = 0; k < a[i].frames; k++)
			known_add(e, a[i].locs[k], a[i].seed + k);
		free(a[i].locs);
	}
	assert_int_equal(env_commit(e), 0);
	env_verify(e);
	env_remount(e);
	env_verify(e);
}

static void an_aborted_group_of_several_domains_is_repeated(void **state)
{
	struct env *e = *state;

	keys_add(e, 1, DOMAINS - 1);
	append_mixed(e, 3, DOMAINS);
	assert_int_equal(env_commit(e), 0);
	const unsigned good = e->n_known;
	append_mixed(e, 3, DOMAINS);
	e->io.error = -EIO;
	e->io.countdown = 2;
	assert_int_equal(env_commit(e), -EIO);
	segments_txg_abort(e->ss);
	e->io.countdown = -1;
	e->n_known = good;
	append_mixed(e, 3, DOMAINS);
	assert_int_equal(env_commit(e), 0);
	env_verify(e);
	env_remount(e);
	env_verify(e);
}

/* --- without the key --- */

static void without_its_key_a_domain_is_closed_and_others_are_not(void **state)
{
	struct env *e = *state;
	uint64_t sealed, plain, both[2];
	bool seen[2] = {false};

	keys_add(e, 1, 1);
	e->domain = 1;
	assert_int_equal(env_append(e, 10, 8), 0);
	sealed = e->known[0].loc;
	e->domain = 0;
	assert_int_equal(env_append(e, 10, 8), 0);
	plain = e->known[e->n_known - 1].loc;
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(keyring_remove(e->keyring, 1), 0);
	both[0] = sealed;
	both[1] = plain;
	assert_int_equal(env_read(e, both, 2, seen), -ENOKEY);
	assert_false(seen[0]);
	assert_true(seen[1]);
	/* Mounting takes no key, nor does continuing others. */
	env_remount(e);
	assert_int_equal(env_append(e, 3, 8), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(env_read(e, &sealed, 1, NULL), -ENOKEY);
	keys_add(e, 1, 1);
	env_verify(e);
}

static void another_key_opens_nothing(void **state)
{
	const uint8_t wrong[SEAL_KEY_LEN] = {9};
	struct env *e = *state;

	keys_add(e, 1, 1);
	e->domain = 1;
	assert_int_equal(env_append(e, 1, 8), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(keyring_remove(e->keyring, 1), 0);
	assert_int_equal(keyring_add(e->keyring, 1, wrong), 0);
	assert_int_equal(env_read(e, &e->known[0].loc, 1, NULL), -EUCLEAN);
}

/* Every other chunk of what is known lives. */
static void half_live(const struct env *e, uint64_t segment, struct slot_bits *ret_live)
{
	memset(ret_live, 0, sizeof(*ret_live));
	for (unsigned i = 0; i < e->n_known; i += 2)
		if (loc_segment(e->known[i].loc) == segment)
			ret_live->words[loc_slot(e->known[i].loc) / 64] |=
			        1ull << loc_slot(e->known[i].loc) % 64;
}

static void known_halve(struct env *e)
{
	for (unsigned i = 0; i < e->n_known / 2; i++) {
		e->known[i] = e->known[2 * i];
		const uint64_t loc = e->known[i].loc;
		e->known_at[loc_segment(loc) * SEGMENT_SLOTS + loc_slot(loc)] = i;
	}
	e->n_known /= 2;
}

static void seal_all(struct env *e)
{
	segments_seal_all(e->ss);
	assert_int_equal(env_commit(e), 0);
}

static void rewriting_without_the_key_copies_what_it_cannot_open(void **state)
{
	struct env *e = *state;
	struct slot_bits live;
	uint64_t written = 0;

	keys_add(e, 1, 1);
	e->domain = 1;
	assert_int_equal(env_append(e, 40, 8), 0);
	seal_all(e);
	assert_int_equal(keyring_remove(e->keyring, 1), 0);
	half_live(e, 1, &live);
	assert_int_equal(segments_rewrite(e->ss, 1, &live, NULL, 0, &written), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(env_row(e, 1)->gen, 1);
	const uint32_t copied = env_row(e, 1)->bytes;
	keys_add(e, 1, 1);
	known_halve(e);
	env_verify(e);
	/* With it, there is less to keep. */
	memset(&live, 0, sizeof(live));
	for (unsigned i = 0; i < e->n_known; i++)
		live.words[loc_slot(e->known[i].loc) / 64] |= 1ull
		                                              << loc_slot(e->known[i].loc) % 64;
	assert_int_equal(segments_rewrite(e->ss, 1, &live, NULL, 0, &written), 0);
	assert_int_equal(env_commit(e), 0);
	assert_true(env_row(e, 1)->bytes < copied * 3 / 4);
	env_verify(e);
	env_remount(e);
	env_verify(e);
}

static void what_is_damaged_heals_under_the_domains_own_hash(void **state)
{
	struct env *e = *state;
	uint8_t chunk[CHUNK_SIZE];
	struct slot_bits all;
	uint64_t written = 0;
	char path[128];

	keys_add(e, 1, 1);
	e->domain = 1;
	assert_int_equal(env_append(e, 4, 1), 0);
	seal_all(e);
	env_path(e, 1, 0, path);
	FILE *f = fopen(path, "r+");
	assert_non_null(f);
	assert_int_equal(fseek(f, SEGMENT_HEADER_LEN + 500, SEEK_SET), 0);
	const int was = fgetc(f);
	assert_int_equal(fseek(f, SEGMENT_HEADER_LEN + 500, SEEK_SET), 0);
	assert_int_equal(fputc(was ^ 1, f), was ^ 1);
	fclose(f);
	env_remount(e);
	assert_int_equal(env_read(e, &e->known[0].loc, 1, NULL), -EUCLEAN);
	memset(&all, 0xff, sizeof(all));
	chunk_fill(e->known[0].seed, chunk);
	struct heal heal = {.loc = e->known[0].loc, .data = chunk};
	assert_int_equal(segments_rewrite(e->ss, 1, &all, &heal, 1, &written), 0);
	assert_true(heal.used);
	assert_int_equal(env_commit(e), 0);
	env_verify(e);
}

/* --- what is in the files --- */

/* Looks through every file of the segments directory. */
static bool files_hold(const struct env *e, const void *needle, size_t len)
{
	static uint8_t buf[SEGMENT_BYTES_MAX];
	char cmd[128], path[256];
	bool found = false;

	snprintf(cmd, sizeof(cmd), "find '%s' -type f", e->dir);
	FILE *list = popen(cmd, "r");
	assert_non_null(list);
	while (fgets(path, sizeof(path), list)) {
		path[strcspn(path, "\n")] = '\0';
		FILE *f = fopen(path, "r");
		assert_non_null(f);
		const size_t n = fread(buf, 1, sizeof(buf), f);
		found |= memmem(buf, n, needle, len) != NULL;
		fclose(f);
	}
	pclose(list);
	return found;
}

/* Each frame a chunk with a mark in it that compression leaves as it is. */
static uint64_t append_marked(struct env *e, const char *mark)
{
	const struct crypto_domain *d = keyring_get(e->keyring, e->domain);
	uint8_t chunk[CHUNK_SIZE], packed[CHUNK_SIZE];
	uint64_t loc = 0;

	memset(chunk, 0, sizeof(chunk));
	memcpy(chunk + 100, mark, strlen(mark));
	struct hash128 hash;
	assert_int_equal(domain_hash(d, chunk, &hash), 0);
	struct frame_spec spec = {.n = 1, .hashes = &hash, .payload = packed, .crypto = d};
	spec.codec = frame_pack(chunk, 1, packed, &spec.payload_len);
	assert_int_equal(spec.codec, CODEC_LZ4);
	assert_int_equal(segments_append(e->ss, e->txg, &spec, &loc), 0);
	keyring_put(e->keyring, d);
	return loc;
}

static void nothing_sealed_is_in_the_files(void **state)
{
	const uint8_t key[SEAL_KEY_LEN] = {1, 0, 0xa5};
	struct env *e = *state;

	keys_add(e, 1, 1);
	e->domain = 1;
	append_marked(e, "nobody may read this text");
	e->domain = 0;
	append_marked(e, "everybody may read that");
	assert_int_equal(env_commit(e), 0);
	assert_false(files_hold(e, "nobody may read", 15));
	assert_false(files_hold(e, key, sizeof(key)));
	assert_true(files_hold(e, "everybody may read", 18)); /* so the search does find things */
}

/* A frame in the clear where a sealed one was: as good as a key for who can write to the disk. */
static void a_frame_in_the_clear_does_not_pass_for_a_sealed_one(void **state)
{
	static uint8_t frame[FRAME_SIZE_MAX];
	struct env *e = *state;
	uint8_t chunk[CHUNK_SIZE];
	char path[128];

	keys_add(e, 1, 1);
	e->domain = 1;
	e->next_seed = 4; /* does not compress: both frames are 66 units long */
	assert_int_equal(env_append(e, 1, 1), 0);
	seal_all(e);
	chunk_fill(4, chunk);
	struct frame_info f = {.n = 1,
	        .codec = CODEC_RAW,
	        .payload_len = CHUNK_SIZE,
	        .store = frame_store((const uint8_t *)"0123456789abcde"),
	        .segment = 1};
	f.hashes[0] = env_hash(e, 0, chunk);
	assert_int_equal(frame_encode(&f, chunk, frame), 66 * FRAME_ALIGN);
	env_path(e, 1, 0, path);
	FILE *file = fopen(path, "r+");
	assert_non_null(file);
	assert_int_equal(fseek(file, SEGMENT_HEADER_LEN, SEEK_SET), 0);
	assert_int_equal(fwrite(frame, 1, 66 * FRAME_ALIGN, file), 66 * FRAME_ALIGN);
	fclose(file);
	env_remount(e);
	assert_int_equal(env_read(e, &e->known[0].loc, 1, NULL), -EUCLEAN);
}

/* --- wiping --- */

/* What the collector does with a segment whose slots `live` live. */
static int collect(struct env *e, uint64_t segment, const struct slot_bits *live)
{
	unsigned n = 0;
	uint64_t written = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(live->words); i++)
		n += (unsigned)__builtin_popcountll(live->words[i]);
	if (n == 0)
		return segments_drop(e->ss, segment);
	if (!segments_wipe_wanted(e->ss, segment, n))
		return 0;
	return segments_rewrite(e->ss, segment, live, NULL, 0, &written);
}

static bool all_zero(const char *path)
{
	FILE *f = fopen(path, "r");
	int c;

	assert_non_null(f);
	while ((c = fgetc(f)) == 0)
		;
	fclose(f);
	return c == EOF;
}

static void wiping_overwrites_files_before_they_go(void **state)
{
	struct env *e = *state;
	char path[128], kept_1[128], kept_2[128], cmd[300];
	struct slot_bits one = {{1}}, none = {{0}};

	append_marked(e, "alive");
	append_marked(e, "dead and to be gone");
	seal_all(e);
	append_marked(e, "dead in a segment of its own");
	seal_all(e);
	/* A second name for each file shows what becomes of it. */
	snprintf(kept_1, sizeof(kept_1), "%s/kept.1", e->dir);
	snprintf(kept_2, sizeof(kept_2), "%s/kept.2", e->dir);
	env_path(e, 1, 0, path);
	assert_int_equal(link(path, kept_1), 0);
	env_path(e, 2, 0, path);
	assert_int_equal(link(path, kept_2), 0);
	/* And what a crash may have left. */
	snprintf(cmd, sizeof(cmd),
	        "cp '%s' '%s/segments/09/0000000009.0' 2>/dev/null || "
	        "{ mkdir '%s/segments/09' && cp '%s' '%s/segments/09/0000000009.0'; }",
	        kept_1, e->dir, e->dir, kept_1, e->dir);
	assert_int_equal(system(cmd), 0);

	segments_wipe_begin(e->ss, 0);
	assert_int_equal(collect(e, 1, &one), 0);
	assert_int_equal(collect(e, 2, &none), 0);
	assert_int_equal(env_commit(e), 0);
	unsigned n = 0;
	assert_int_equal(segments_remove_orphans(e->ss, 0, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(segments_wipe_end(e->ss), 0);
	assert_true(all_zero(kept_1));
	assert_true(all_zero(kept_2));
	assert_false(files_hold(e, "dead and", 8));
	assert_false(files_hold(e, "dead in", 7));
	assert_true(files_hold(e, "alive", 5));
}

/* An ordinary collection beside the job that takes images out of the domain, and its leftovers. */
static void files_of_a_domain_that_images_leave_are_overwritten_when_they_go(void **state)
{
	static const struct slot_bits none;
	const uint32_t left[] = {0, 0};
	struct env *e = *state;
	char path[128], kept[2][160], gone[160], cmd[512];
	unsigned n = 0;

	append_marked(e, "left behind");
	seal_all(e);
	append_marked(e, "left behind, too");
	seal_all(e);
	for (unsigned i = 0; i < 2; i++) {
		env_path(e, i + 1, 0, path);
		snprintf(kept[i], sizeof(kept[i]), "%s/kept-%u", e->dir, i);
		assert_int_equal(link(path, kept[i]), 0);
	}
	assert_int_equal(collect(e, 1, &none), 0);
	assert_int_equal(env_commit(e), 0);
	assert_false(all_zero(kept[0])); /* nobody has left yet */
	segments_leaving(e->ss, left, 2, false);
	assert_int_equal(collect(e, 2, &none), 0);
	assert_int_equal(env_commit(e), 0);
	assert_true(all_zero(kept[1]));

	/* A crash left one file that no row names, and one that was being overwritten. */
	snprintf(gone, sizeof(gone), "%s/segments/01/0000000001.0.gone", e->dir);
	snprintf(cmd, sizeof(cmd), "ln '%s' '%s/segments/01/0000000001.0' && cp '%s' '%s'", kept[0],
	        e->dir, kept[0], gone);
	assert_int_equal(system(cmd), 0);
	assert_int_equal(segments_remove_orphans(e->ss, 0, &n), 0);
	assert_true(n >= 1);
	assert_true(all_zero(kept[0]));
	assert_int_equal(access(gone, F_OK), -1);
	segments_leaving(e->ss, NULL, 0, false);
}

static void a_file_that_cannot_be_overwritten_stays_until_it_can(void **state)
{
	struct env *e = *state;
	unsigned n = 0;

	append_marked(e, "not wiped yet");
	seal_all(e);
	segments_wipe_begin(e->ss, 0);
	assert_int_equal(segments_drop(e->ss, 1), 0);
	e->io.error = -EIO;
	e->io.countdown = 1; /* a drop writes nothing but the zeros */
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(segments_wipe_end(e->ss), -EIO);
	assert_true(env_file_exists(e, 1, 0));
	segments_wipe_begin(e->ss, 0);
	assert_int_equal(segments_remove_orphans(e->ss, 0, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(segments_wipe_end(e->ss), 0);
	assert_false(env_file_exists(e, 1, 0));
}

/*
 * Two chunks, which take as many units of a frame as the first alone does, compressed as hard as
 * can be.
 */
static void stubborn_frame_make(uint8_t chunks[2 * CHUNK_SIZE], uint8_t *packed)
{
	struct frame_packer *p = NULL;
	uint32_t both = 0, alone = 0;
	unsigned noise = 1000;
	uint64_t state = 1;

	assert_int_equal(frame_packer_new(&p), 0);
	do {
		assert_true(++noise < 3000);
		memset(chunks, 0, CHUNK_SIZE);
		for (unsigned i = 0; i < noise; i++)
			chunks[i] = (uint8_t)rnd(&state);
		memcpy(chunks + CHUNK_SIZE, chunks, CHUNK_SIZE);
		memcpy(chunks + 2 * CHUNK_SIZE - 9, "dead mark", 9);
		assert_int_equal(frame_pack(chunks, 2, packed, &both), CODEC_LZ4);
		assert_int_equal(frame_pack_hard(p, 12, chunks, 1, packed, &alone), CODEC_LZ4);
	} while (frame_size(2, both) != frame_size(1, alone));
	frame_packer_free(p);
}

static void a_partly_live_frame_is_built_anew_even_where_that_saves_nothing(void **state)
{
	struct env *e = *state;
	uint8_t chunks[2 * CHUNK_SIZE], packed[2 * CHUNK_SIZE];
	struct hash128 hashes[2];
	struct slot_bits live = {{1}};
	uint64_t loc = 0, written = 0;

	/* The dead chunk takes a few bytes of its frame, which does not get smaller without it. */
	stubborn_frame_make(chunks, packed);
	for (unsigned i = 0; i < 2; i++)
		hashes[i] = env_hash(e, 0, chunks + i * CHUNK_SIZE);
	struct frame_spec spec = {.n = 2, .hashes = hashes, .payload = packed};
	spec.codec = frame_pack(chunks, 2, packed, &spec.payload_len);
	assert_int_equal(spec.codec, CODEC_LZ4);
	assert_int_equal(segments_append(e->ss, e->txg, &spec, &loc), 0);
	seal_all(e);
	assert_int_equal(segments_rewrite(e->ss, 1, &live, NULL, 0, &written), 0);
	assert_int_equal(env_commit(e), 0);
	assert_true(files_hold(e, "dead mark", 9)); /* an ordinary collection keeps it */
	segments_wipe_begin(e->ss, 0);
	assert_int_equal(collect(e, 1, &live), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(segments_wipe_end(e->ss), 0);
	assert_false(files_hold(e, "dead mark", 9));
	assert_true(files_hold(e, chunks, 900));
}

static void wiping_leaves_other_domains_alone_and_says_what_it_missed(void **state)
{
	struct env *e = *state;
	struct slot_bits one = {{1}};

	keys_add(e, 1, 1);
	append_marked(e, "in the clear");
	append_marked(e, "in the clear, too");
	e->domain = 1;
	append_marked(e, "sealed");
	seal_all(e);
	segments_wipe_begin(e->ss, 0);
	assert_false(segments_wipe_wanted(e->ss, 2, 1));
	assert_int_equal(segments_wipe_end(e->ss), -EBUSY); /* nobody collected segment 1 */
	segments_wipe_begin(e->ss, 0);
	assert_int_equal(collect(e, 1, &one), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(segments_wipe_end(e->ss), 0);
	assert_int_equal(env_row(e, 2)->gen, 0);
	assert_false(files_hold(e, "in the clear, too", 17));
}

static void a_wiped_sealed_segment_is_sealed_again(void **state)
{
	struct env *e = *state;
	struct slot_bits live;

	keys_add(e, 1, 1);
	e->domain = 1;
	assert_int_equal(env_append(e, 40, 8), 0);
	seal_all(e);
	half_live(e, 1, &live);
	segments_wipe_begin(e->ss, 1);
	assert_int_equal(collect(e, 1, &live), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(segments_wipe_end(e->ss), 0);
	known_halve(e);
	env_verify(e);
	env_remount(e);
	env_verify(e);
	assert_int_equal(keyring_remove(e->keyring, 1), 0);
	assert_int_equal(env_read(e, &e->known[0].loc, 1, NULL), -ENOKEY);
}

#define T(f) cmocka_unit_test_setup_teardown(f, env_setup, env_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(each_domain_has_segments_of_its_own),
	        T(open_segments_are_continued_each_in_its_domain),
	        T(there_may_be_more_domains_than_open_segments),
	        T(many_threads_append_to_many_domains),
	        T(an_aborted_group_of_several_domains_is_repeated),
	        T(without_its_key_a_domain_is_closed_and_others_are_not),
	        T(another_key_opens_nothing),
	        T(rewriting_without_the_key_copies_what_it_cannot_open),
	        T(what_is_damaged_heals_under_the_domains_own_hash),
	        T(nothing_sealed_is_in_the_files),
	        T(a_frame_in_the_clear_does_not_pass_for_a_sealed_one),
	        T(wiping_overwrites_files_before_they_go),
	        T(files_of_a_domain_that_images_leave_are_overwritten_when_they_go),
	        T(a_file_that_cannot_be_overwritten_stays_until_it_can),
	        T(a_partly_live_frame_is_built_anew_even_where_that_saves_nothing),
	        T(wiping_leaves_other_domains_alone_and_says_what_it_missed),
	        T(a_wiped_sealed_segment_is_sealed_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
