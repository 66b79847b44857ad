/*
 * records.h - snapshots as rows: names, scope, what each image was like at that instant
 *
 * A snapshot has a *number* (ns_number_alloc), the number of the engine's set; the images in it are
 * counted from 1.  Rows RECORD_SNAPSHOT, JSON:
 *
 *	owner   id      value
 *	0       number  {name, kind: "image"/"directory"/"datastore", scope (inode), target (its path
 *	                then), time_ns, images, holders: [text]}
 *	number  image   {inode, path, mode, uid, gid, size, atime_ns, mtime_ns, ctime_ns, btime_ns,
 *	                generation}, as of that instant; of one that was received: guid, in hex
 *
 * The image's *key*, snapshot_id(number, image), is its id in the engine (store/snapshot.h).  What
 * filters were attached to it, and their state, are rows ATTACHMENT and FILTER_STATE as the image's
 * own are, of the owner snapshot_image(key), which is no inode number.
 *
 * A name is unique among the snapshots of a scope and among those that an image is in: IMAGE@NAME
 * says one thing only.  A snapshot stays when its images or its directory are removed.
 *
 * Threads: reading from any; changes inside the gate.
 */
#pragma once

#include <jansson.h>

#include "meta/records.h"
#include "store/snapshot.h"

#define SNAPSHOT_NAME_MAX    127u
#define SNAPSHOT_IMAGES_MAX  ((1u << SNAPSHOT_SET_SHIFT) - 1)
#define SNAPSHOT_HOLDERS_MAX 64u
#define SNAPSHOT_HOLDER_MAX  63u
#define SNAPSHOT_GUID_LEN    16u

enum snapshot_kind { SNAPSHOT_IMAGE, SNAPSHOT_DIRECTORY, SNAPSHOT_DATASTORE };

struct snapshot {
	uint64_t number;
	char name[SNAPSHOT_NAME_MAX + 1];
	enum snapshot_kind kind;
	uint64_t scope; /* inode; NS_ROOT_INO: the datastore */
	uint64_t time_ns;
	uint64_t n_images;
	const char *target;    /* in json */
	const json_t *holders; /* array of texts; in json */
	json_t *json;          /* owned */
};

struct snapshot_image {
	uint64_t key;
	struct ns_inode inode; /* nlink 1, parent 0 */
	char *path;            /* owned */
	/*
	 * Of one that was received: what it is called over datastores (src/stream/FORMAT.md).  All zero: it
	 * was made here; fs/stream/guid.h tells it of both.
	 */
	uint8_t guid[SNAPSHOT_GUID_LEN];
};

const char *snapshot_kind_name(enum snapshot_kind kind);
/* Letters, digits and "._:+-", the first one a letter or digit. */
bool snapshot_name_good(const char *name);

void snapshot_release(struct snapshot *s);
void snapshot_image_release(struct snapshot_image *si);

/* Borrowed by fn until it returns; non-zero stops and is returned.  Damaged rows are passed over. */
typedef int snapshot_fn(void *arg, const struct snapshot *s);
int snapshots_each(struct ns *ns, snapshot_fn *fn, void *arg) MUST_CHECK;
typedef int snapshot_image_fn(void *arg, const struct snapshot_image *si);
int snapshot_images_each(
        struct ns *ns, uint64_t number, snapshot_image_fn *fn, void *arg) MUST_CHECK;

/* By number.  -ENOENT, -EUCLEAN. */
int snapshot_get(struct ns *ns, uint64_t number, struct snapshot *ret_s) MUST_CHECK;
/* The image in a snapshot, by its inode.  -ENOENT. */
int snapshot_image_get(
        struct ns *ns, uint64_t number, uint64_t ino, struct snapshot_image *ret_si) MUST_CHECK;
/* The snapshot of this name that has exactly this scope.  -ENOENT. */
int snapshot_of_scope(
        struct ns *ns, uint64_t scope, const char *name, struct snapshot *ret_s) MUST_CHECK;
/* The snapshot of this name that an image is in, and the image in it.  -ENOENT. */
int snapshot_of_image(struct ns *ns, uint64_t ino, const char *name, struct snapshot *ret_s,
        struct snapshot_image *ret_si) MUST_CHECK;
/* "vm/a.raw@s1" for the owner snapshot_image(key) of rows: for messages. */
void snapshot_path(struct ns *ns, uint64_t owner, char *buf, size_t cap);
/* Is the image in any snapshot?  1, 0 or -errno. */
int snapshot_holds(struct ns *ns, uint64_t ino) MUST_CHECK;

/* --- changes; inside the gate --- */
/* s->json is not looked at. */
int snapshot_put(struct ns *ns, const struct snapshot *s) MUST_CHECK;
int snapshot_image_put(struct ns *ns, const struct snapshot_image *si) MUST_CHECK;
/* Any bytes.  -EUCLEAN; -ENOMEM. */
int snapshot_decode(
        uint64_t number, const void *value, size_t len, struct snapshot *ret_s) MUST_CHECK;
int snapshot_image_decode(
        uint64_t key, const void *value, size_t len, struct snapshot_image *ret_si) MUST_CHECK;
