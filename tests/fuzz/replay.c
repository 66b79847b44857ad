/*
 * replay.c - runs a fuzz target over its corpus, as an ordinary test
 *
 * Each file of the corpus is given to the target as it is, cut short at many lengths, and with
 * bytes changed at random from a fixed seed: enough to catch a decoder that trusts its input, on
 * every run, with no fuzzer at hand.  Inputs lie in buffers of exactly their size, so that a
 * sanitizer sees a read past the end.  An empty corpus is a failure: it would test nothing.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"

#define INPUT_MAX   (16u << 20)
#define CUTS_MAX    256u
#define VARIANTS    256u
#define CHANGES_MAX 4u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void run_exact(const uint8_t *data, size_t size)
{
	CLEANUP(free_ptr) uint8_t *copy = malloc(size ? size : 1);

	ASSERT(copy);
	if (size)
		memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
}

static void run_variants(uint8_t *data, size_t size)
{
	uint64_t state = 0x9e3779b97f4a7c15ull;
	const size_t step = size / CUTS_MAX + 1;

	run_exact(data, size);
	for (size_t cut = 0; cut < size; cut += step)
		run_exact(data, cut);
	for (unsigned v = 0; v < VARIANTS && size; v++) {
		size_t at[CHANGES_MAX];
		uint8_t old[CHANGES_MAX];
		const unsigned n = 1 + v % CHANGES_MAX;
		for (unsigned i = 0; i < n; i++) {
			/* Half of the changes hit the first bytes, where headers are. */
			const size_t range = v & 8 && size > 64 ? 64 : size;
			at[i] = random_next(&state) % range;
			old[i] = data[at[i]];
			data[at[i]] = (uint8_t)random_next(&state);
		}
		run_exact(data, size);
		for (unsigned i = n; i-- > 0;)
			data[at[i]] = old[i];
	}
}

static int run_file(const char *dir, const char *name)
{
	char path[4096];

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, name) >= sizeof(path))
		return -1;
	FILE *f = fopen(path, "rb");
	if (!f) {
		perror(path);
		return -1;
	}
	CLEANUP(free_ptr) uint8_t *data = malloc(INPUT_MAX);
	ASSERT(data);
	const size_t size = fread(data, 1, INPUT_MAX, f);
	const int failed = ferror(f);
	fclose(f);
	if (failed) {
		perror(path);
		return -1;
	}
	run_variants(data, size);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned files = 0;

	if (argc != 2) {
		fprintf(stderr, "usage: fuzz-NAME CORPUS-DIRECTORY\n");
		return 2;
	}
	DIR *d = opendir(argv[1]);
	if (!d) {
		perror(argv[1]);
		return 1;
	}
	LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
	for (struct dirent *e = readdir(d); e; e = readdir(d)) {
		if (e->d_name[0] == '.')
			continue;
		if (run_file(argv[1], e->d_name) < 0)
			return 1;
		files++;
	}
	closedir(d);
	printf("%u inputs\n", files);
	return files ? 0 : 1;
}
