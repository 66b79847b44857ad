/*
 * mount-options.h - the options of a mount: "-o cache=2G,allow_other,noatime"
 *
 * Three kinds meet in one list: weir's own, those that libfuse or the kernel act on (passed on as
 * they are), and those that mount(8), fstab and systemd keep for themselves (dropped).
 */
#pragma once

#include "fs/daemon.h"

struct mount_list {
	struct mount_options opt; /* fuse_options, without and keys point here */
	char *fuse, *without;     /* owned */
	char **keys;              /* owned */
	bool sloppy;              /* unknown options are dropped, as mount -s asks for */
};

/*
 * Takes the options of text into list, later ones over earlier ones.  -EINVAL with the reason in
 * em: an unknown option (with its nearest match), a value that is missing, malformed or out of
 * range.
 */
int mount_list_parse(struct mount_list *list, const char *text, struct errmsg *em) MUST_CHECK;
void mount_list_release(struct mount_list *list);
