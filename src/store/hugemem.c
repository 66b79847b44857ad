/*
 * hugemem.c - large, lazily touched memory on huge pages
 *
 * Kernels before 6.7 do not align large anonymous mappings by themselves, and a huge page needs an
 * aligned range: so one huge page too much is mapped, and what sticks out is given back.
 * MAP_NORESERVE: the limit of a cache is not a demand for that much memory.
 *
 * No state; any thread.
 */
#include "store/hugemem.h"

#include <errno.h>
#include <sys/mman.h>

#define PAGE_BYTES       4096ull
#define HUGE_BYTES       (2ull << 20)
#define BYTES_MAX        (1ull << 46)
#define WARM_SLICE_BYTES (16ull << 20)

int hugemem_alloc(uint64_t bytes, void **ret_mem)
{
	ASSERT(bytes > 0);
	if (bytes > BYTES_MAX)
		return -ENOMEM;
	const uint64_t len = ROUND_UP(bytes, PAGE_BYTES);
	const uint64_t slack = len >= HUGE_BYTES ? HUGE_BYTES : 0;
	char *p = mmap(NULL, len + slack, PROT_READ | PROT_WRITE,
	        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	if (slack) {
		const uint64_t lead = ROUND_UP((uintptr_t)p, HUGE_BYTES) - (uintptr_t)p;
		if (lead)
			munmap(p, lead);
		p += lead;
		if (slack - lead)
			munmap(p + len, slack - lead);
		/* Advice: without it everything works, only slower. */
		(void)madvise(p, len, MADV_HUGEPAGE);
	}
	(void)madvise(p, len, MADV_DONTDUMP);
	*ret_mem = p;
	return 0;
}

void hugemem_free(void *mem, uint64_t bytes)
{
	if (mem)
		munmap(mem, ROUND_UP(bytes, PAGE_BYTES));
}

void hugemem_warm(void *mem, uint64_t bytes, const _Atomic bool *stop)
{
	const uint64_t end = ROUND_UP(bytes, PAGE_BYTES);

	for (uint64_t at = 0; at < end && !*stop; at += WARM_SLICE_BYTES)
		if (madvise((char *)mem + at, MIN(WARM_SLICE_BYTES, end - at),
		            MADV_POPULATE_WRITE) < 0)
			return; /* Linux 5.14 and later; without, pages come as they are used */
}

uint64_t hugemem_resident(void *mem, uint64_t bytes)
{
	unsigned char pages[4096];
	uint64_t resident = 0;

	for (uint64_t off = 0; off < bytes; off += sizeof(pages) * PAGE_BYTES) {
		const uint64_t len = MIN(bytes - off, sizeof(pages) * PAGE_BYTES);
		if (mincore((char *)mem + off, len, pages) < 0)
			return bytes; /* cannot tell: the upper bound */
		for (uint64_t i = 0; i < DIV_UP(len, PAGE_BYTES); i++)
			resident += pages[i] & 1 ? PAGE_BYTES : 0;
	}
	return MIN(resident, bytes);
}
