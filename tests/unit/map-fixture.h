/*
 * map-fixture.h - what the tests of image maps share: a datastore with one image, and short forms
 *
 * The metadata store is the double of fake-meta.h.  Whatever returns no error asserts that all goes
 * well.
 */
#pragma once

#include "fake-meta.h"
#include "store/map.h"

#define CACHE_TINY  4096ull /* one node */
#define CACHE_LARGE (64ull << 20)

struct ds {
	struct fake_meta *meta;
	struct maps *maps;
	struct map *map;
	uint64_t txg;
	uint64_t cache_bytes;
};

void ds_init(struct ds *d, uint64_t cache_bytes);
void ds_release(struct ds *d);
/* The maps as a process that starts or ends has them; what is not committed is lost. */
void ds_attach(struct ds *d);
void ds_detach(struct ds *d);
void ds_reopen(struct ds *d);
int ds_try_commit(struct ds *d);
void ds_commit(struct ds *d);
/* As a snapshot does: image copy_id gets the committed root, and both copy on write from here. */
void ds_snapshot(struct ds *d, uint64_t copy_id);

uint64_t data_at(uint64_t segment, unsigned slot);
uint64_t get1(struct map *m, uint64_t chunk);
void set1(struct map *m, uint64_t chunk, uint64_t entry);
/* The whole leaf that chunk is in: the slots of this segment. */
void set_leaf(struct map *m, uint64_t chunk, uint64_t segment);
void assert_counts(struct map *m, uint64_t data, uint64_t zero);
/* Nodes that the image refers to; all leaves can be read. */
size_t walk_count(struct map *m);

struct id_list {
	uint64_t ids[64];
	unsigned levels[64];
	unsigned n;
};

/* For map_walk, arg: struct id_list. */
int list_node(void *arg, uint64_t node, unsigned level);
