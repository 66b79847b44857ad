/*
 * test-key-rotate.c - a key gets a new crypto domain, and its images move there
 */
#include "keys-world.h"

static void test_rotation_moves_directories_first_and_gives_the_old_domain_up_at_the_end(
        void **state)
{
	struct world w;
	struct errmsg em = {""};
	json_t *json = NULL;

	world_open(&w);
	const uint32_t old = create(&w, "one");
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	make(&w, 2, S_IFREG); /* before the directory, by number */
	make(&w, 3, S_IFDIR);
	make(&w, 4, S_IFREG);
	attach(&w, 2, old);
	attach(&w, 3, old);
	w.born = 6;
	assert_int_equal(rotate(&w, "wrong", false, &json, &em), -EKEYREJECTED);
	if (rotate(&w, "two", false, &json, &em) < 0)
		fail_msg("%s", em.text);
	const uint32_t new = domain_now(&w);
	assert_true(new != old);
	assert_int_equal(w.moves, 3);
	assert_int_equal(w.moved[0], 3);
	assert_int_equal(w.moved[1], 2);
	assert_int_equal(w.moved[2], 6);
	assert_int_equal(json_integer_value(json_object_get(json, "images")), 2);
	/* The first slot's secret is not known: it opens the old domain only. */
	const json_t *dropped = json_object_get(json, "dropped");
	assert_int_equal(json_array_size(dropped), 1);
	assert_int_equal(
	        json_integer_value(json_object_get(json_array_get(dropped, 0), "slot")), 0);
	json_decref(json);
	assert_int_equal(slots_of(&w, new), 1);
	/* Both are needed until the last job is done. */
	assert_true(keyring_has(w.kr, old) && keyring_has(w.kr, new));
	job_done(&w, 2);
	assert_int_equal(key_domain_settle(w.k, old), 0);
	assert_true(keyring_has(w.kr, old));
	assert_int_equal(slots_of(&w, old), 2);
	job_done(&w, 6);
	assert_int_equal(key_domain_settle(w.k, old), 0);
	assert_false(keyring_has(w.kr, old));
	assert_int_equal(slots_of(&w, old), 0);
	assert_int_equal(key_domain_settle(w.k, new), 0); /* never the one in use */
	assert_true(keyring_has(w.kr, new));
	world_crash(&w);
	assert_int_equal(unlock_with(&w, "one", &em), -EKEYREJECTED);
	assert_int_equal(unlock_with(&w, "two", &em), 0);
	world_close(&w);
}

static void test_rotation_of_an_unused_key_ends_at_once_and_waiting_waits(void **state)
{
	struct world w;
	struct errmsg em = {""};
	json_t *json = NULL;

	world_open(&w);
	const uint32_t first = create(&w, "one");
	assert_int_equal(rotate(&w, "one", false, &json, &em), 0);
	json_decref(json);
	assert_false(keyring_has(w.kr, first));
	assert_int_equal(slots_of(&w, first), 0);
	make(&w, 2, S_IFREG);
	attach(&w, 2, domain_now(&w));
	assert_int_equal(rotate(&w, "one", true, &json, &em), 0);
	json_decref(json);
	assert_int_equal(w.waits, 1);
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(rotate(&w, "one", false, &json, &em), -ENOKEY);
	world_close(&w);
}

static void test_every_secret_that_is_given_keeps_its_slot(void **state)
{
	struct world w;
	struct errmsg em = {""};
	json_t *json = NULL;
	struct secret all[4];
	const char *names[] = {"three", "one", "three", "wrong"};

	world_open(&w);
	const uint32_t first = create(&w, "one");
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	assert_int_equal(add_slot(&w, "one", "three", &em), 2);
	for (unsigned i = 0; i < 4; i++)
		all[i] = file_secret(names[i]);
	assert_int_equal(
	        key_rotate(w.k, &root, "k", all, 4, false, NULL, NULL, &json, &em), -EKEYREJECTED);
	assert_int_equal(domain_now(&w), first);
	assert_int_equal(key_rotate(w.k, &root, "k", all, 3, false, NULL, NULL, &json, &em), 0);
	const json_t *dropped = json_object_get(json, "dropped");
	assert_int_equal(json_array_size(dropped), 1);
	assert_int_equal(
	        json_integer_value(json_object_get(json_array_get(dropped, 0), "slot")), 1);
	json_decref(json);
	assert_int_equal(slots_of(&w, domain_now(&w)), 2);
	world_crash(&w);
	assert_int_equal(unlock_with(&w, "two", &em), -EKEYREJECTED);
	assert_int_equal(unlock_with(&w, "three", &em), 0);
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(unlock_with(&w, "one", &em), 0);
	for (unsigned i = 0; i < 4; i++)
		secret_release(&all[i]);
	world_close(&w);
}

static void test_a_rotation_cut_off_goes_on_when_the_key_is_unlocked(void **state)
{
	struct world w;
	struct errmsg em = {""};
	json_t *json = NULL;

	world_open(&w);
	const uint32_t old = create(&w, "one");
	for (uint64_t ino = 2; ino < 5; ino++) {
		make(&w, ino, S_IFREG);
		attach(&w, ino, old);
	}
	w.fail_move = 2;
	assert_int_equal(rotate(&w, "one", false, &json, &em), -EIO);
	assert_int_equal(w.moves, 1);
	world_crash(&w);
	const uint32_t new = domain_now(&w);
	assert_true(new != old);
	assert_int_equal(unlock_with(&w, "one", &em), 0);
	assert_int_equal(w.moves, 3);
	assert_true(keyring_has(w.kr, old));
	/* A slot that comes meanwhile opens both domains. */
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	assert_int_equal(slots_of(&w, old), 2);
	assert_int_equal(slots_of(&w, new), 2);
	for (uint64_t ino = 2; ino < 5; ino++)
		job_done(&w, ino);
	world_crash(&w); /* before anybody said that the domain is left */
	assert_int_equal(unlock_with(&w, "two", &em), 0);
	assert_false(keyring_has(w.kr, old));
	assert_int_equal(slots_of(&w, old), 0);
	world_close(&w);
}

static void test_rotations_on_top_of_each_other_are_bounded(void **state)
{
	struct world w;
	struct errmsg em = {""};
	json_t *json = NULL;

	world_open(&w);
	const uint32_t first = create(&w, "one");
	make(&w, 2, S_IFREG);
	attach(&w, 2, first);
	for (unsigned i = 1; i < KEYS_DOMAINS_MAX; i++) {
		assert_int_equal(rotate(&w, "one", false, &json, &em), 0);
		json_decref(json);
	}
	assert_int_equal(rotate(&w, "one", false, &json, &em), -EBUSY);
	assert_true(keyring_has(w.kr, first));
	job_done(&w, 2);
	assert_int_equal(key_domain_settle(w.k, first), 0);
	assert_int_equal(rotate(&w, "one", false, &json, &em), 0);
	json_decref(json);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(
	                test_rotation_moves_directories_first_and_gives_the_old_domain_up_at_the_end),
	        cmocka_unit_test(test_rotation_of_an_unused_key_ends_at_once_and_waiting_waits),
	        cmocka_unit_test(test_every_secret_that_is_given_keeps_its_slot),
	        cmocka_unit_test(test_a_rotation_cut_off_goes_on_when_the_key_is_unlocked),
	        cmocka_unit_test(test_rotations_on_top_of_each_other_are_bounded),
	};

	log_set_level(getenv("WEIR_TEST_VERBOSE") ? LOG_NOTE : (enum log_level) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
