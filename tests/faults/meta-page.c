/*
 * meta-page.c - changes bytes of a page of meta.db, and makes its checksum right again
 *
 * usage: meta-page FILE PAGE OFFSET HEX
 *
 * For what a checksum does not catch: content that was written so.  Damage that it does catch needs
 * no tool like this.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "meta/dbvfs.h"

static int page_change(int fd, uint32_t number, size_t off, const char *hex)
{
	const off_t at = (off_t)(number - 1) * DBVFS_PAGE_SIZE;
	uint8_t page[DBVFS_PAGE_SIZE];
	unsigned byte;

	if (pread(fd, page, sizeof(page), at) != (ssize_t)sizeof(page) ||
	        !dbvfs_page_good(page, number))
		return -1;
	for (; *hex && off < sizeof(page); hex += 2) {
		if (sscanf(hex, "%2x", &byte) != 1)
			return -1;
		page[off++] = (uint8_t)byte;
	}
	dbvfs_page_seal(page, number);
	return pwrite(fd, page, sizeof(page), at) == (ssize_t)sizeof(page) ? 0 : -1;
}

int main(int argc, char **argv)
{
	if (argc != 5 || strlen(argv[4]) % 2) {
		fprintf(stderr, "usage: meta-page FILE PAGE OFFSET HEX\n");
		return 2;
	}
	const int fd = open(argv[1], O_RDWR | O_CLOEXEC);
	const int r = fd < 0 ? -1
	                     : page_change(fd, (uint32_t)strtoul(argv[2], NULL, 0),
	                               strtoul(argv[3], NULL, 0), argv[4]);

	if (r < 0)
		fprintf(stderr, "meta-page: cannot change page %s of '%s'\n", argv[2], argv[1]);
	return r < 0;
}
