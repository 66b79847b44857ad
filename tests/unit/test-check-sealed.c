/*
 * test-check-sealed.c - weir check on a datastore with encrypted content, without and with its key
 *
 * One image is in crypto domain 7, whose key is in a key file's slot; another one is in none.  Part
 * of the former is in the intent log only, as after a crash.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "crypto/keyslot.h"
#include "fs/datastore.h"
#include "meta/records.h"
#include "store/ilog-format.h"
#include "tools/check.h"
#include "tools/cmd.h"

#define SECRET      2ull
#define PLAIN       3ull
#define DOMAIN      7u
#define IMAGE_BYTES (3u << 20)
#define LEAVES      3u

static char dir[64], key_file[96];
static uint8_t data_key[SEAL_KEY_LEN];

/* --- making one --- */

static struct datastore *ds_open(void)
{
	const struct datastore_options opt = {.overlay_bytes = 32u << 20,
	        .cache_bytes = 16u << 20,
	        .index_bytes = 8u << 20,
	        .map_bytes = 8u << 20,
	        .threads = 1};
	struct datastore *ds = NULL;
	struct errmsg em = {0};

	if (datastore_open(dir, &opt, NULL, NULL, &ds, &em) < 0)
		fail_msg("%s", em.text);
	return ds;
}

static void inode_add(struct datastore *ds, uint64_t ino, const char *name)
{
	const struct ns_inode inode = {
	        .ino = ino, .mode = S_IFREG | 0600, .nlink = 1, .size = IMAGE_BYTES};

	assert_int_equal(ns_inode_put(ds->ns, &inode), 0);
	assert_int_equal(ns_name_put(ds->ns, NS_ROOT_INO, name, ino, S_IFREG), 0);
}

static void slot_add(struct datastore *ds)
{
	static const char key[] = "{\"name\":\"test\",\"domain\":7}";
	uint8_t secret[64], slot[KEYSLOT_BYTES_MAX];
	struct errmsg em = {0};
	size_t len = 0;

	memset(secret, 0x5e, sizeof(secret));
	assert_int_equal(keyslot_wrap(KEYSLOT_FILE, DOMAIN, 1, secret, sizeof(secret), data_key,
	                         slot, &len, &em),
	        0);
	assert_int_equal(ns_record_put(ds->ns, RECORD_KEY, 0, 1, key, strlen(key)), 0);
	assert_int_equal(ns_record_put(ds->ns, RECORD_KEYSLOT, DOMAIN, 1, slot, len), 0);
	FILE *f = fopen(key_file, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(secret, sizeof(secret), 1, f), 1);
	fclose(f);
}

static void image_write(struct image *img, uint64_t off, size_t len, unsigned seed)
{
	uint8_t *buf = malloc(len);
	uint64_t x = seed;

	assert_non_null(buf);
	for (size_t i = 0; i < len; i++) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		buf[i] = (uint8_t)(x >> 56);
	}
	assert_int_equal(store_write(img, off, buf, len), 0);
	free(buf);
}

/* In a process of its own, which then dies: what was flushed last is in the log. */
static void make_and_die(void)
{
	const struct image_policy policy = {.domain = DOMAIN};
	struct datastore *ds = ds_open();
	struct image *secret = NULL, *plain = NULL;

	assert_int_equal(keyring_add(ds->keyring, DOMAIN, data_key), 0);
	store_enter(ds->store);
	inode_add(ds, SECRET, "secret.raw");
	inode_add(ds, PLAIN, "plain.raw");
	slot_add(ds);
	store_leave(ds->store);
	assert_int_equal(store_image_open(ds->store, SECRET, &secret), 0);
	assert_int_equal(store_image_open(ds->store, PLAIN, &plain), 0);
	store_enter(ds->store);
	store_policy_set(secret, &policy);
	image_write(secret, 0, IMAGE_BYTES, 1);
	image_write(plain, 0, IMAGE_BYTES, 2);
	store_leave(ds->store);
	assert_int_equal(store_sync(ds->store), 0);
	store_enter(ds->store);
	image_write(secret, 4096, 8192, 3);
	store_leave(ds->store);
	assert_int_equal(store_flush(ds->store, secret), 0);
	kill(getpid(), SIGKILL);
}

static int make(void **state)
{
	const struct datastore_create_options opt = {.log_bytes = 16u << 20};
	struct errmsg em = {0};
	int status = 0;

	strcpy(dir, "/tmp/weir-check.XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(key_file, sizeof(key_file), "%s.key", dir);
	memset(data_key, 0x42, sizeof(data_key));
	if (datastore_create(dir, &opt, &em) < 0)
		fail_msg("%s", em.text);
	const pid_t pid = fork();
	if (pid == 0)
		make_and_die();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	return 0;
}

static int unmake(void **state)
{
	char cmd[256];

	snprintf(cmd, sizeof(cmd), "rm -rf %s %s", dir, key_file);
	return system(cmd);
}

/* --- checking --- */

static int check_now(struct check *c, bool data, bool repair, bool with_key)
{
	struct errmsg em = {0};

	*c = (struct check){.dir = dir, .data = data, .repair = repair};
	if (check_open(c, &em) < 0)
		fail_msg("%s", em.text);
	if (with_key && check_key_add(c, key_file, &em) < 0)
		fail_msg("%s", em.text);
	assert_int_equal(check_all(c), 0);
	return check_exit_code(c);
}

static struct meta *port_open(struct io **io)
{
	struct meta *m = NULL;
	struct errmsg em = {0};

	assert_int_equal(io_posix_open(dir, io, &em), 0);
	if (meta_open(*io, false, &m, &em) < 0)
		fail_msg("%s", em.text);
	assert_int_equal(m->ops->begin(m), 0);
	return m;
}

static void port_commit(struct meta *m, struct io *io)
{
	assert_int_equal(m->ops->commit(m), 0);
	meta_close(m);
	io_free(io);
}

/* --- the cases --- */

static void what_is_locked_is_counted_and_no_damage(void **state)
{
	struct check c;

	for (unsigned repair = 0; repair < 2; repair++) {
		assert_int_equal(check_now(&c, true, repair, false), WEIR_EXIT_OK);
		findings_print(&c.findings);
		assert_int_equal(c.findings.n, 0);
		assert_int_equal(c.sum.locked_leaves, LEAVES);
		assert_true(c.sum.locked_frames > 0);
		assert_int_equal(c.sum.locked_records, 1);
		assert_int_equal(c.sum.data_chunks, IMAGE_BYTES / CHUNK_SIZE); /* of the other */
		check_release(&c);
	}
}

static void with_the_key_everything_is_looked_into(void **state)
{
	struct check c;

	assert_int_equal(check_now(&c, true, false, true), WEIR_EXIT_OK);
	findings_print(&c.findings);
	assert_int_equal(c.findings.n, 0);
	assert_int_equal(c.sum.locked_leaves + c.sum.locked_frames + c.sum.locked_records, 0);
	assert_int_equal(c.sum.data_chunks, 2 * IMAGE_BYTES / CHUNK_SIZE);
	assert_int_equal(c.sum.referenced_chunks, 2 * IMAGE_BYTES / CHUNK_SIZE);
	check_release(&c);
}

static void a_key_file_that_opens_nothing_is_refused(void **state)
{
	struct check c = {.dir = dir};
	struct errmsg em = {0};
	FILE *f = fopen(key_file, "w");

	assert_non_null(f);
	fputs("this is another key file, of more than 32 bytes\n", f);
	fclose(f);
	assert_int_equal(check_open(&c, &em), 0);
	assert_int_equal(check_key_add(&c, key_file, &em), -EKEYREJECTED);
	assert_non_null(strstr(em.text, key_file));
	check_release(&c);
}

struct id_set {
	uint64_t ids[64];
	unsigned n;
};

static int node_list(void *arg, uint64_t id)
{
	struct id_set *set = arg;

	set->ids[set->n++] = id;
	return set->n == 64;
}

/* Damage is told from locked by the checksum, with no key. */
static void a_damaged_sealed_leaf_is_a_loss(void **state)
{
	struct id_set set = {.n = 0};
	uint8_t blob[NODE_BLOB_MAX];
	struct map_node n;
	struct io *io = NULL;
	struct meta *m = port_open(&io);
	struct check c;
	size_t len = 0;

	m->ops->node_each(m, 1, MAP_NODE_MAX, node_list, &set);
	for (unsigned i = 0; i < set.n; i++) {
		assert_int_equal(m->ops->node_get(m, set.ids[i], blob, sizeof(blob), &len), 0);
		if (map_node_decode(blob, len, set.ids[i], &n) != -ENOKEY)
			continue;
		blob[40] ^= 1;
		assert_int_equal(m->ops->node_put(m, set.ids[i], blob, len), 0);
		break;
	}
	port_commit(m, io);
	assert_int_equal(check_now(&c, false, false, false), WEIR_EXIT_DAMAGED);
	assert_int_equal(c.findings.counts[SEVERITY_LOSS], 1);
	assert_int_equal(c.findings.list[0].kind, FINDING_NODE);
	assert_int_equal(c.findings.list[0].image, SECRET);
	assert_int_equal(c.sum.locked_leaves, LEAVES - 1);
	check_release(&c);
}

static int domain_segment(void *arg, const struct segment_row *row)
{
	struct segment_row *found = arg;

	if (row->domain == DOMAIN)
		*found = *row;
	return 0;
}

static struct segment_row secret_segment(void)
{
	struct segment_row row = {0};
	struct io *io = NULL;
	struct meta *m = port_open(&io);

	assert_int_equal(m->ops->segment_each(m, domain_segment, &row), 0);
	port_commit(m, io);
	assert_true(row.id != 0);
	return row;
}

/* Its row is lost, and what refers to it cannot be read: the file must stay. */
static void repair_keeps_a_file_that_sealed_leaves_may_refer_to(void **state)
{
	const struct segment_row row = secret_segment();
	char name[SEGMENT_NAME_LEN], path[160];
	struct io *io = NULL;
	struct meta *m = port_open(&io);
	struct check c;

	assert_int_equal(m->ops->segment_del(m, row.id), 0);
	port_commit(m, io);
	segment_name(0, row.id, row.gen, name);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	check_now(&c, false, true, false);
	check_release(&c);
	assert_int_equal(access(path, F_OK), 0);
	/* With the key, the row comes back. */
	check_now(&c, false, true, true);
	check_release(&c);
	assert_int_equal(check_now(&c, true, false, true), WEIR_EXIT_OK);
	check_release(&c);
}

static void damage_in_a_sealed_segment_may_be_of_something_in_use(void **state)
{
	const struct segment_row row = secret_segment();
	char name[SEGMENT_NAME_LEN], path[160];
	struct check c;
	uint8_t b = 0;

	segment_name(0, row.id, row.gen, name);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	const int fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &b, 1, SEGMENT_HEADER_LEN + 400), 1);
	b ^= 0xff;
	assert_int_equal(pwrite(fd, &b, 1, SEGMENT_HEADER_LEN + 400), 1);
	close(fd);
	assert_int_equal(check_now(&c, true, false, false), WEIR_EXIT_DAMAGED);
	assert_int_equal(c.findings.counts[SEVERITY_LOSS], 1);
	assert_int_equal(c.findings.list[0].kind, FINDING_FRAME);
	check_release(&c);
	assert_int_equal(check_now(&c, true, false, true), WEIR_EXIT_DAMAGED);
	assert_true(c.findings.counts[SEVERITY_LOSS] > 1); /* which part of which image */
	check_release(&c);
}

static void parked_records_are_counted_and_kept(void **state)
{
	const struct ilog_record rec = {ILOG_PUNCH, 5, SECRET, 0, 4096, NULL};
	uint8_t good[ILOG_RECORD_HEADER_LEN];
	struct io *io = NULL;
	struct meta *m = port_open(&io);
	struct check c;

	ilog_record_encode(&rec, good);
	assert_int_equal(m->ops->parked_put(m, SECRET, 1, good, sizeof(good)), 0);
	port_commit(m, io);
	assert_int_equal(check_now(&c, false, true, false), WEIR_EXIT_OK);
	assert_int_equal(c.sum.parked_records, 1);
	check_release(&c);
	m = port_open(&io);
	assert_int_equal(m->ops->parked_put(m, SECRET, 2, "rubbish", 7), 0);
	port_commit(m, io);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(check_now(&c, false, true, false), WEIR_EXIT_DAMAGED);
		assert_int_equal(c.sum.parked_records, 2);
		assert_int_equal(c.findings.counts[SEVERITY_LOSS], 1);
		check_release(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, make, unmake)
	        CASE(what_is_locked_is_counted_and_no_damage),
	        CASE(with_the_key_everything_is_looked_into),
	        CASE(a_key_file_that_opens_nothing_is_refused),
	        CASE(a_damaged_sealed_leaf_is_a_loss),
	        CASE(repair_keeps_a_file_that_sealed_leaves_may_refer_to),
	        CASE(damage_in_a_sealed_segment_may_be_of_something_in_use),
	        CASE(parked_records_are_counted_and_kept),
	};

	log_set_level((enum log_level) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
