/*
 * test-keys.c - named keys: created, unlocked, given slots, deleted; how secrets are sent
 */
#include "fs/control/base64.h"
#include "keys-world.h"

/* --- create, unlock, lock --- */

static void test_a_new_key_is_unlocked_and_locked_after_a_mount(void **state)
{
	struct world w;
	struct errmsg em = {""};
	uint32_t got = 0;

	world_open(&w);
	const uint32_t domain = create(&w, "secret");
	assert_true(domain > 0);
	assert_true(keyring_has(w.kr, domain));
	assert_int_equal(slots_of(&w, domain), 1);
	assert_int_equal(keys_domain_usable(w.k, domain, &em), 0);
	assert_int_equal(keys_domain_usable(w.k, 0, &em), 0);
	assert_int_equal(create_key(&w, "k", "other", &em), -EEXIST);
	world_crash(&w);
	assert_false(keyring_has(w.kr, domain));
	assert_int_equal(keys_domain_of(w.k, "k", &got, &em), -ENOKEY);
	assert_string_equal(em.text, "key 'k' is locked (weir key unlock /ds k)");
	assert_int_equal(keys_domain_usable(w.k, domain, &em), -ENOKEY);
	assert_string_equal(em.text, "key 'k' is locked (weir key unlock /ds k)");
	assert_int_equal(keys_domain_usable(w.k, domain + 1, &em), -ENOKEY);
	assert_non_null(strstr(em.text, "belongs to no key"));
	assert_int_equal(unlock_with(&w, "wrong", &em), -EKEYREJECTED);
	assert_string_equal(em.text, "this key file does not open key 'k'");
	assert_int_equal(keys_domain_of(w.k, "k", &got, &em), -ENOKEY);
	assert_false(keyring_has(w.kr, domain));
	assert_int_equal(unlock_with(&w, "secret", &em), 0);
	assert_int_equal(w.unlocks, 1);
	assert_int_equal(keys_domain_of(w.k, "k", &got, &em), 0);
	assert_int_equal(got, domain);
	assert_int_equal(unlock_with(&w, "secret", &em), 0);            /* again: nothing */
	assert_int_equal(unlock_with(&w, "wrong", &em), -EKEYREJECTED); /* but still checked */
	assert_int_equal(w.unlocks, 1);
	world_close(&w);
}

static void test_names_are_checked(void **state)
{
	static const char *const bad[] = {"", "a b", "a:b", "-a", "a/b", "a,b"};
	struct world w;
	struct errmsg em;
	uint32_t domain = 0;

	world_open(&w);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(create_key(&w, bad[i], "s", &em), -EINVAL);
	assert_int_equal(keys_domain_of(w.k, NULL, &domain, &em), -EINVAL);
	assert_int_equal(keys_domain_of(w.k, "none", &domain, &em), -ENOENT);
	assert_string_equal(em.text, "there is no key 'none' (weir key create /ds none)");
	world_close(&w);
}

static void test_a_passphrase_opens_its_key_and_a_file_of_the_same_bytes_does_not(void **state)
{
	struct world w;
	struct errmsg em = {""};
	struct secret s = {0};
	json_t *json = NULL;

	world_open(&w);
	assert_int_equal(secret_parse("passphrase", "Y29ycmVjdCBob3JzZQ==", &s, &em), 0);
	assert_int_equal(s.len, 13);
	assert_memory_equal(s.data, "correct horse", 13);
	assert_int_equal(key_create(w.k, &root, "k", &s, &json, &em), 0);
	json_decref(json);
	world_crash(&w);
	s.kind = KEYSLOT_FILE;
	assert_int_equal(key_unlock(w.k, &root, "k", &s, &json, &em), -EKEYREJECTED);
	s.kind = KEYSLOT_PASSPHRASE;
	assert_int_equal(key_unlock(w.k, &root, "k", &s, &json, &em), 0);
	json_decref(json);
	secret_release(&s);
	world_close(&w);
}

static void test_a_key_in_use_is_not_locked(void **state)
{
	struct world w;
	struct errmsg em = {""};

	world_open(&w);
	const uint32_t domain = create(&w, "secret");
	make(&w, 5, S_IFREG);
	attach(&w, 5, domain);
	w.open_ino = 5;
	assert_int_equal(lock_it(&w, &em), -EBUSY);
	assert_non_null(strstr(em.text, "'image-5' is open"));
	assert_int_equal(keys_domain_usable(w.k, domain, &em), 0); /* as before */
	w.open_ino = 0;
	job(&w, 5, 0);
	assert_int_equal(lock_it(&w, &em), -EBUSY);
	job_done(&w, 5);
	assert_int_equal(w.locks, 0);
	assert_int_equal(w.forgotten, 0);
	w.forget_domain = domain;
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(w.forgotten, 5);
	assert_int_equal(w.locks, 1);
	assert_false(keyring_has(w.kr, domain));
	assert_int_equal(keys_domain_usable(w.k, domain, &em), -ENOKEY);
	assert_int_equal(lock_it(&w, &em), 0); /* again: nothing */
	assert_int_equal(w.locks, 1);
	world_close(&w);
}

static void test_what_the_store_cannot_take_is_not_unlocked(void **state)
{
	struct world w;
	struct errmsg em = {""};

	world_open(&w);
	const uint32_t domain = create(&w, "secret");
	assert_int_equal(lock_it(&w, &em), 0);
	w.fail_unlocked = -EIO;
	assert_int_equal(unlock_with(&w, "secret", &em), -EIO);
	assert_int_equal(keys_domain_usable(w.k, domain, &em), -ENOKEY);
	assert_false(keyring_has(w.kr, domain));
	w.fail_unlocked = 0;
	assert_int_equal(unlock_with(&w, "secret", &em), 0);
	world_close(&w);
}

static void test_a_read_only_datastore_can_be_unlocked_and_nothing_else(void **state)
{
	struct world w;
	struct errmsg em = {""};

	world_open(&w);
	create(&w, "secret");
	w.read_only = true;
	world_crash(&w);
	assert_int_equal(unlock_with(&w, "secret", &em), 0);
	assert_int_equal(add_slot(&w, "secret", "more", &em), -EROFS);
	assert_int_equal(create_key(&w, "l", "secret", &em), -EROFS);
	assert_int_equal(lock_it(&w, &em), 0);
	world_close(&w);
}

/* --- slots --- */

static void test_each_slot_opens_the_key_until_it_is_removed(void **state)
{
	struct world w;
	struct errmsg em = {""};

	world_open(&w);
	create(&w, "one");
	assert_int_equal(add_slot(&w, "wrong", "two", &em), -EKEYREJECTED);
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	assert_int_equal(add_slot(&w, "two", "three", &em), 2);
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(unlock_with(&w, "three", &em), 0);
	assert_int_equal(key_remove(w.k, &root, "k", 7, &em), -ENOENT);
	assert_int_equal(key_remove(w.k, &root, "k", 0, &em), 0);
	assert_int_equal(unlock_with(&w, "one", &em), -EKEYREJECTED);
	assert_int_equal(unlock_with(&w, "two", &em), 0);
	assert_int_equal(add_slot(&w, "two", "four", &em), 0); /* the number is free again */
	assert_int_equal(key_remove(w.k, &root, "k", 1, &em), 0);
	assert_int_equal(key_remove(w.k, &root, "k", 2, &em), 0);
	assert_int_equal(key_remove(w.k, &root, "k", 0, &em), -EBUSY);
	assert_non_null(strstr(em.text, "last one"));
	assert_int_equal(unlock_with(&w, "four", &em), 0);
	for (unsigned i = 1; i < KEYS_SLOTS_MAX; i++)
		assert_int_equal(add_slot(&w, "four", "more", &em), i);
	assert_int_equal(add_slot(&w, "four", "more", &em), -ENOSPC);
	world_close(&w);
}

static void test_a_recovery_key_is_shown_once_and_opens_the_key(void **state)
{
	struct world w;
	struct errmsg em = {""};
	struct secret s = file_secret("one"), recovery = {0};
	json_t *json = NULL;

	world_open(&w);
	const uint32_t domain = create(&w, "one");
	assert_int_equal(key_add(w.k, &root, "k", &s, NULL, &json, &em), 0);
	secret_release(&s);
	const char *text = json_string_value(json_object_get(json, "recovery"));
	assert_non_null(text);
	assert_int_equal(lock_it(&w, &em), 0);
	char *base64 = base64_encode(text, strlen(text));
	assert_int_equal(secret_parse("recovery", base64, &recovery, &em), 0);
	free(base64);
	json_decref(json);
	json = NULL;
	assert_int_equal(recovery.len, SEAL_KEY_LEN);
	assert_int_equal(key_unlock(w.k, &root, "k", &recovery, &json, &em), 0);
	json_decref(json);
	assert_true(keyring_has(w.kr, domain));
	json = NULL;
	assert_int_equal(key_create(w.k, &root, "l", &recovery, &json, &em), -EINVAL);
	recovery.data[3] ^= 1;
	assert_int_equal(key_unlock(w.k, &root, "k", &recovery, &json, &em), -EKEYREJECTED);
	secret_release(&recovery);
	base64 = base64_encode("weir-no-such", 12);
	assert_int_equal(secret_parse("recovery", base64, &recovery, &em), -EINVAL);
	free(base64);
	world_close(&w);
}

static void test_a_damaged_slot_does_not_hide_the_others(void **state)
{
	struct world w;
	struct errmsg em = {""};

	world_open(&w);
	const uint32_t domain = create(&w, "one");
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(ns_record_put(w.e.ns, RECORD_KEYSLOT, domain, 0, "rubbish", 7), 0);
	assert_int_equal(unlock_with(&w, "two", &em), 0);
	assert_int_equal(key_remove(w.k, &root, "k", 1, &em), -EBUSY); /* it is all there is */
	assert_int_equal(key_remove(w.k, &root, "k", 0, &em), 0);
	world_close(&w);
}

/* --- deletion --- */

static void test_a_key_in_use_is_not_deleted_and_a_deleted_one_is_gone(void **state)
{
	struct world w;
	struct errmsg em = {""};
	struct bytes_out value = {0};

	world_open(&w);
	const uint32_t domain = create(&w, "one");
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	make(&w, 2, S_IFREG);
	attach(&w, 2, domain);
	assert_int_equal(key_delete(w.k, &root, "k", &em), -EBUSY);
	assert_non_null(strstr(em.text, "by 'image-2'"));
	assert_int_equal(ns_record_del(w.e.ns, RECORD_ATTACHMENT, 2, 1), 0);
	job(&w, 2, domain); /* still being decrypted */
	assert_int_equal(key_delete(w.k, &root, "k", &em), -EBUSY);
	job_done(&w, 2);
	assert_int_equal(key_delete(w.k, &root, "k", &em), 0);
	assert_int_equal(key_delete(w.k, &root, "k", &em), -ENOENT);
	assert_false(keyring_has(w.kr, domain));
	assert_int_equal(slots_of(&w, domain), 0);
	assert_int_equal(ns_record_get(w.e.ns, RECORD_KEYSLOT, domain, 0, &value), -ENOENT);
	world_crash(&w);
	assert_true(create(&w, "three") > domain); /* the number is not used again */
	assert_int_equal(complaints(w.e.m), 0);
	world_close(&w);
}

/* --- the trail, the list, what is stored --- */

static int collect_actions(void *arg, json_t *entry)
{
	char *all = arg;

	strcat(all, json_string_value(json_object_get(entry, "action")));
	strcat(all, ";");
	assert_string_equal(json_string_value(json_object_get(entry, "type")), "k");
	return 0;
}

static void test_every_operation_is_in_the_audit_trail(void **state)
{
	struct world w;
	struct errmsg em = {""};
	struct audit_verdict v = {0};
	char all[1024] = "";
	json_t *json = NULL;

	world_open(&w);
	create(&w, "one");
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	assert_int_equal(key_remove(w.k, &root, "k", 0, &em), 0);
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(unlock_with(&w, "one", &em), -EKEYREJECTED);
	assert_int_equal(unlock_with(&w, "two", &em), 0);
	assert_int_equal(rotate(&w, "two", false, &json, &em), 0);
	json_decref(json);
	assert_int_equal(key_delete(w.k, &root, "k", &em), 0);
	assert_int_equal(audit_each(w.e.ns, 0, collect_actions, all), 0);
	assert_string_equal(all, "key create;key add;key remove;key lock;key unlock failed;"
	                         "key unlock;key rotate;key rotated;key delete;");
	assert_int_equal(audit_verify(w.e.ns, NULL, &v), 0);
	assert_int_equal(v.bad_seq, 0);
	world_close(&w);
}

static void test_the_list_says_what_is_unlocked_and_used(void **state)
{
	struct world w;
	struct errmsg em = {""};
	json_t *json = NULL;
	const char *name = NULL, *now = NULL, *kind = NULL;
	int images = 0, slot = 0, unlocked = 0;

	world_open(&w);
	const uint32_t domain = create(&w, "one");
	make(&w, 2, S_IFREG);
	make(&w, 3, S_IFDIR);
	attach(&w, 2, domain);
	attach(&w, 3, domain); /* no image */
	assert_int_equal(keys_json(w.e.ns, w.k, &json), 0);
	assert_int_equal(json_unpack(json, "{s:[{s:s, s:s, s:i, s:b, s:[{s:i, s:s}]}]}", "keys",
	                         "name", &name, "state", &now, "images", &images, "unlocked",
	                         &unlocked, "slots", "slot", &slot, "kind", &kind),
	        0);
	assert_string_equal(name, "k");
	assert_string_equal(now, "unlocked");
	assert_string_equal(kind, "file");
	assert_int_equal(images, 1);
	assert_true(unlocked);
	json_decref(json);
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(keys_json(w.e.ns, w.k, &json), 0);
	assert_int_equal(json_unpack(json, "{s:[{s:s}]}", "keys", "state", &now), 0);
	assert_string_equal(now, "locked");
	json_decref(json);
	assert_int_equal(keys_report(w.e.ns, &json), 0); /* without a daemon */
	assert_int_equal(json_array_size(json_object_get(json, "keys")), 1);
	json_decref(json);
	world_close(&w);
}

static void test_a_removed_slot_is_nowhere_in_the_database(void **state)
{
	struct world w;
	struct errmsg em = {""};
	struct bytes_out value = {0};
	struct io_file *f = NULL;
	size_t len = 0;

	world_open(&w);
	const uint32_t domain = create(&w, "one");
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	assert_int_equal(ns_record_get(w.e.ns, RECORD_KEYSLOT, domain, 0, &value), 0);
	assert_int_equal(meta_checkpoint(w.e.m), 0); /* into meta.db itself */
	assert_int_equal(key_remove(w.k, &root, "k", 0, &em), 0);
	ns_close(w.e.ns);
	meta_close(w.e.m);
	assert_int_equal(io_open(w.e.f.faults->real, META_NAME, IO_READ, &f), 0);
	uint8_t *all = read_all(f, &len);
	io_close(f);
	assert_null(memmem(all, len, value.data, value.len));
	/* Nor a part of it: SQLite overwrites the first bytes of what it frees. */
	assert_null(memmem(all, len, value.data + value.len / 2, value.len / 2));
	free(all);
	bytes_release(&value);
	engine_start(&w.e);
	world_close(&w);
}

static void test_rows_of_keys_are_checked_when_read(void **state)
{
	static const char *const bad[] = {"", "{", "[]", "{\"name\":\"k\",\"domain\":1}",
	        "{\"name\":\"a b\",\"domain\":1,\"rotating_from\":[]}",
	        "{\"name\":\"k\",\"domain\":0,\"rotating_from\":[]}",
	        "{\"name\":\"k\",\"domain\":4294967296,\"rotating_from\":[]}",
	        "{\"name\":\"k\",\"domain\":1,\"rotating_from\":[1]}",
	        "{\"name\":\"k\",\"domain\":1,\"rotating_from\":[2,3,4,5]}",
	        "{\"name\":\"k\",\"domain\":1,\"rotating_from\":[\"2\"]}"};
	const struct named_key key = {.name = "k",
	        .created_ns = 7,
	        .n_domains = 3,
	        .domains = {{9, true}, {5, false}, {6, false}}};
	struct named_key got = {.number = 3};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(key_decode(bad[i], strlen(bad[i]), &got), -EUCLEAN);
	char *text = key_encode(&key);
	assert_string_equal(
	        text, "{\"created_ns\":7,\"domain\":9,\"name\":\"k\",\"rotating_from\":[5,6]}");
	assert_int_equal(key_decode(text, strlen(text), &got), 0);
	assert_int_equal(got.number, 3);
	assert_int_equal(got.n_domains, 3);
	assert_int_equal(got.domains[0].id, 9);
	assert_false(got.domains[0].unlocked);
	assert_int_equal(got.domains[2].id, 6);
	free(text);
}

static void test_a_damaged_key_leaves_the_others_alone(void **state)
{
	struct world w;
	struct errmsg em = {""};

	world_open(&w);
	create(&w, "one");
	assert_int_equal(ns_record_put(w.e.ns, RECORD_KEY, 0, 77, "{}", 2), 0);
	world_crash(&w);
	assert_int_equal(unlock_with(&w, "one", &em), 0);
	world_close(&w);
}

static void test_base64_takes_what_it_gives_and_nothing_else(void **state)
{
	static const char *const bad[] = {"A", "AA", "AAA", "A===", "====", "AA=A", "A=AA",
	        "AB==", "AAB=", "AA==AA==", "AAA ", "AA\n=", "AA-_", "AAAAA"};
	static const char *const good[][2] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="},
	        {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="},
	        {"foobar", "Zm9vYmFy"}}; /* RFC 4648, section 10 */
	uint8_t *data = NULL, all[256];
	size_t len = 0;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(base64_decode(bad[i], &data, &len), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		char *text = base64_encode(good[i][0], strlen(good[i][0]));
		assert_string_equal(text, good[i][1]);
		assert_int_equal(base64_decode(text, &data, &len), 0);
		assert_int_equal(len, strlen(good[i][0]));
		assert_memory_equal(data, good[i][0], len);
		free(data);
		free(text);
	}
	for (unsigned i = 0; i < sizeof(all); i++)
		all[i] = (uint8_t)i;
	char *text = base64_encode(all, sizeof(all));
	assert_int_equal(base64_decode(text, &data, &len), 0);
	assert_int_equal(len, sizeof(all));
	assert_memory_equal(data, all, len);
	free(data);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_a_new_key_is_unlocked_and_locked_after_a_mount),
	        cmocka_unit_test(test_names_are_checked),
	        cmocka_unit_test(
	                test_a_passphrase_opens_its_key_and_a_file_of_the_same_bytes_does_not),
	        cmocka_unit_test(test_a_key_in_use_is_not_locked),
	        cmocka_unit_test(test_what_the_store_cannot_take_is_not_unlocked),
	        cmocka_unit_test(test_a_read_only_datastore_can_be_unlocked_and_nothing_else),
	        cmocka_unit_test(test_each_slot_opens_the_key_until_it_is_removed),
	        cmocka_unit_test(test_a_recovery_key_is_shown_once_and_opens_the_key),
	        cmocka_unit_test(test_a_damaged_slot_does_not_hide_the_others),
	        cmocka_unit_test(test_a_key_in_use_is_not_deleted_and_a_deleted_one_is_gone),
	        cmocka_unit_test(test_every_operation_is_in_the_audit_trail),
	        cmocka_unit_test(test_the_list_says_what_is_unlocked_and_used),
	        cmocka_unit_test(test_a_removed_slot_is_nowhere_in_the_database),
	        cmocka_unit_test(test_rows_of_keys_are_checked_when_read),
	        cmocka_unit_test(test_a_damaged_key_leaves_the_others_alone),
	        cmocka_unit_test(test_base64_takes_what_it_gives_and_nothing_else),
	};

	log_set_level(getenv("WEIR_TEST_VERBOSE") ? LOG_NOTE : (enum log_level) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
