/*
 * discover-worker.h - the parts of the process that looks into an image; private to them
 *
 * One thread, one image, then the end: nothing here is freed with care, and globals are allowed
 * where a library leaves no other way.  Everything that is read is a guest's, hence hostile.
 */
#pragma once

#include <jansson.h>

#include "base/compiler.h"

/* --- discover-source.c: bytes of the image --- */

struct source {
	int fd; /* a memfd that holds what was asked for so far */
	uint64_t size;
	uint64_t asked;
	uint64_t *pieces; /* hash set of what is in the memfd, in SOURCE_PIECE, + 1 */
};
#define SOURCE_PIECE 65536u

#define SOURCE_FD 4 /* its number */
/* Before the sandbox. */
int source_open(struct source *s, uint64_t size) MUST_CHECK;
/* Makes the range readable through s->fd, as far as it lies inside the image.  0 or -errno. */
int source_want(struct source *s, uint64_t off, uint64_t len) MUST_CHECK;
/* All of len bytes of a file.  -ENODATA: it ends before. */
int file_read_at(int fd, uint64_t off, void *buf, size_t len) MUST_CHECK;
/* All of it, or -errno (-ENODATA past the end). */
int source_read(struct source *s, uint64_t off, void *buf, size_t len) MUST_CHECK;
/* The answer, to the parent. */
int source_answer(const char *json, size_t len) MUST_CHECK;

/* --- discover-blkid.c: tables and filesystems --- */

/* Fills "table", "partitions" and "content" of found; looks into what can be (discover-ext.c). */
void discover_image(struct source *s, json_t *found);

/* --- discover-ext.c: ext2, ext3, ext4 --- */

/*
 * Looks into the filesystem at [base, base + len): sizes into content, and what is installed to the
 * list systems, as on partition `number` (0: the whole image).
 */
void discover_ext(struct source *s, uint64_t base, uint64_t len, int number, json_t *content,
        json_t *systems);

/* --- discover-os.c: texts of a system; pure --- */

struct discover_texts {
	char *os_release; /* terminated; NULL: not there */
	char *hostname;
	char *dpkg, *apk; /* package databases */
	bool has_rpm, has_pacman;
};
/* An entry of "systems", or NULL when there is no sign of one. */
json_t *discover_system(const struct discover_texts *t);

/* --- discover-worker.c --- */
/* A string of a guest's bytes: what is not UTF-8 becomes '?'. */
json_t *discover_string(const char *text);
/* Sets key unless text is NULL or empty. */
void discover_set(json_t *object, const char *key, const char *text);
/* The whole of the process: "discover-worker SIZE". */
int discover_worker_main(int argc, char **argv);
