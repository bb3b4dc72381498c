#include "util/region.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static char *region_of(const void *at)
{
	return (char *)((uintptr_t)at & ~(uintptr_t)(REGION - 1));
}

/*
 * Out of twice as much, the upper part: the kernel goes downwards, so that the next one lies right
 * below, and it makes one mapping of both. It has no more than some ten thousand for a process.
 */
void *terrace__region_map(bool large)
{
	char *map = mmap(NULL, 2 * (size_t)REGION, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *region;

	if (map == MAP_FAILED)
		return NULL;
	region = region_of(map + REGION);
	if (region > map)
		munmap(map, (size_t)(region - map));
	if (region < map + REGION)
		munmap(region + REGION, (size_t)(map + REGION - region));
	/* Where there are no large pages it is like any memory. */
	madvise(region, REGION, large ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return region;
}

bool terrace__region_unmap(void *region)
{
	return munmap(region, REGION) == 0;
}

void terrace__region_give_back(void *at, size_t size)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t start = ((uintptr_t)at + page - 1) & ~(page - 1);
	uintptr_t end = ((uintptr_t)at + size) & ~(page - 1);

	if (start >= end)
		return;
	/* Else the kernel would fill it again. */
	madvise(region_of(at), REGION, MADV_NOHUGEPAGE);
	madvise((void *)start, end - start, MADV_DONTNEED);
}
