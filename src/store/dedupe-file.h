/*
 * dedupe-file.h - saving and loading the dedupe index's tables (private to the index)
 *
 * Threads: any; the tables may be in use meanwhile.
 */
#pragma once

#include "base/io.h"
#include "store/dedupe-format.h"

/* See dedupe_save() and dedupe_load(). */
int index_file_save(struct hint_table *const tables[INDEX_TABLES], struct io *io, const char *name,
        const uint8_t uuid[16], uint64_t txg) MUST_CHECK;
int index_file_load(struct hint_table *const tables[INDEX_TABLES], struct io *io, const char *name,
        const uint8_t uuid[16], uint64_t txg) MUST_CHECK;
