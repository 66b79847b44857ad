/*
 * test-mount-options.c - "-o" lists: ours, libfuse's, mount(8)'s
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "tools/mount-options.h"

static void refused(const char *text, const char *part)
{
	struct mount_list list = {0};
	struct errmsg em = {0};

	assert_int_equal(mount_list_parse(&list, text, &em), -EINVAL);
	if (!strstr(em.text, part))
		fail_msg("'%s' is not in '%s'", part, em.text);
	mount_list_release(&list);
}

static void own_options_set_their_fields(void **state)
{
	struct mount_list list = {0};
	struct errmsg em = {0};

	assert_int_equal(mount_list_parse(&list,
	                         "cache=2G,index=64M,overlay=128M,map=32M,threads=3,txg=0.5,"
	                         "allow_other,ro",
	                         &em),
	        0);
	assert_int_equal(list.opt.store.cache_bytes, 2ull << 30);
	assert_int_equal(list.opt.store.index_bytes, 64u << 20);
	assert_int_equal(list.opt.store.overlay_bytes, 128u << 20);
	assert_int_equal(list.opt.store.map_bytes, 32u << 20);
	assert_int_equal(list.opt.store.threads, 3);
	assert_int_equal(list.opt.store.txg_ns, 500000000);
	assert_true(list.opt.allow_other);
	assert_true(list.opt.store.read_only);
	assert_null(list.opt.fuse_options);
	mount_list_release(&list);
}

static void keys_add_up_with_absolute_paths(void **state)
{
	struct mount_list list = {0};
	struct errmsg em = {0};

	assert_int_equal(mount_list_parse(&list, "key=a:/dev/null,ro", &em), 0);
	assert_int_equal(mount_list_parse(&list, "key=b.c:/dev/../dev/zero", &em), 0);
	assert_int_equal(list.opt.n_keys, 2);
	assert_string_equal(list.opt.keys[0], "a:/dev/null");
	assert_string_equal(list.opt.keys[1], "b.c:/dev/zero");
	mount_list_release(&list);
	refused("key=a", "is not NAME:FILE");
	refused("key=:/dev/null", "is not NAME:FILE");
	refused("key=a:", "is not NAME:FILE");
	refused("key=a:/nowhere/at/all", "cannot read key file '/nowhere/at/all'");
	refused("key", "needs a value");
}

static void the_last_of_ro_and_rw_counts(void **state)
{
	struct mount_list list = {0};
	struct errmsg em = {0};

	assert_int_equal(mount_list_parse(&list, "ro,rw", &em), 0);
	assert_false(list.opt.store.read_only);
	assert_int_equal(mount_list_parse(&list, "ro", &em), 0);
	assert_true(list.opt.store.read_only);
	mount_list_release(&list);
}

static void fuse_options_are_passed_on_in_order(void **state)
{
	struct mount_list list = {0};
	struct errmsg em = {0};

	assert_int_equal(
	        mount_list_parse(&list, "nosuid,cache=1G,nodev,noatime,max_read=65536", &em), 0);
	assert_string_equal(list.opt.fuse_options, "nosuid,nodev,noatime,max_read=65536");
	mount_list_release(&list);
}

static void options_of_fstab_and_systemd_are_dropped(void **state)
{
	struct mount_list list = {0};
	struct errmsg em = {0};

	assert_int_equal(
	        mount_list_parse(&list,
	                "defaults,noauto,nofail,_netdev,user,user=joe,users,relatime,"
	                "x-systemd.requires-mounts-for=/srv,X-mount.mkdir=0755,comment=hello,,rw",
	                &em),
	        0);
	assert_null(list.opt.fuse_options);
	assert_null(list.fuse);
	mount_list_release(&list);
}

static void an_unknown_option_names_its_neighbour(void **state)
{
	refused("cahce=2G", "did you mean 'cache='");
	refused("allow_othre", "did you mean 'allow_other'");
	refused("frobnicate", "unknown mount option 'frobnicate'");
}

static void sloppy_drops_unknown_options_only(void **state)
{
	struct mount_list list = {.sloppy = true};
	struct errmsg em = {0};

	assert_int_equal(mount_list_parse(&list, "frobnicate,allow_other", &em), 0);
	assert_true(list.opt.allow_other);
	assert_int_equal(mount_list_parse(&list, "cache=lots", &em), -EINVAL);
	mount_list_release(&list);
}

static void a_value_is_demanded_or_refused(void **state)
{
	refused("cache", "needs a value");
	refused("ro=1", "takes no value");
	refused("nosuid=1", "takes no value");
}

static void filter_types_to_do_without_are_listed(void **state)
{
	struct mount_list list = {0};
	struct errmsg em = {0};

	assert_int_equal(mount_list_parse(&list, "without=scramble,ro,without=pass", &em), 0);
	assert_string_equal(list.opt.without, "scramble,pass");
	mount_list_release(&list);
	refused("without", "needs a value");
	refused("without=", "needs a filter type");
}

static void values_have_limits(void **state)
{
	refused("overlay=1M", "use 16.0 MiB to 1.0 TiB");
	refused("cache=", "not a size");
	refused("cache=2Q", "not a size");
	refused("threads=0", "from 1 to 256");
	refused("threads=1.5", "from 1 to 256");
	refused("threads=-1", "from 1 to 256");
	refused("threads=", "from 1 to 256");
	refused("txg=0", "from 0.1 to 60");
	refused("txg=nan", "from 0.1 to 60");
	refused("txg=1e1", "from 0.1 to 60");
	refused("txg=.", "from 0.1 to 60");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(own_options_set_their_fields),
	        cmocka_unit_test(keys_add_up_with_absolute_paths),
	        cmocka_unit_test(the_last_of_ro_and_rw_counts),
	        cmocka_unit_test(fuse_options_are_passed_on_in_order),
	        cmocka_unit_test(options_of_fstab_and_systemd_are_dropped),
	        cmocka_unit_test(an_unknown_option_names_its_neighbour),
	        cmocka_unit_test(sloppy_drops_unknown_options_only),
	        cmocka_unit_test(a_value_is_demanded_or_refused),
	        cmocka_unit_test(filter_types_to_do_without_are_listed),
	        cmocka_unit_test(values_have_limits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
