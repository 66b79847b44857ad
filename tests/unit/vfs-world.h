/*
 * vfs-world.h - a real datastore in a temporary directory with a vfs on it, and short forms
 *
 * The short forms assert that the call succeeds.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/datastore.h"
#include "fs/vfs/filters.h"

#define TOP NS_ROOT_INO
#define MIB (1ull << 20)

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, world_setup, world_teardown)

extern struct datastore *ds;
extern struct vfs *vfs;
extern const struct vfs_cred root;
extern char world_dir[64];
/* Given to the vfs when a world is opened; NULL: none. */
extern const struct vfs_filters *world_filters;

int world_setup(void **state);
int world_teardown(void **state);
int world_open(bool read_only);
void world_close(void);

struct vnode *create(const char *name, uint64_t *ret_ino);
struct vnode *create_mode(uint64_t dir, const char *name, uint32_t mode, uint64_t *ret_ino);
uint64_t make(uint64_t dir, const char *name, uint32_t mode);
/* 0: no such name. */
uint64_t ino_of(uint64_t dir, const char *name);
void put(struct vnode *f, uint64_t off, const void *data, size_t len);
void fill(struct vnode *f, uint64_t off, size_t len, char c);
/* Bytes read; those past the end are not touched. */
size_t get(struct vnode *f, uint64_t off, void *buf, size_t len);
void expect_bytes(struct vnode *f, uint64_t off, size_t len, char c);
struct vfs_attr attr(uint64_t ino);
uint64_t size_of(uint64_t ino);
/* Results as they are. */
int resize(uint64_t ino, uint64_t size);
int set(uint64_t ino, const struct vfs_setattr *sa);
/* For ns_inode_each: counts in the unsigned at arg. */
int count_inode(void *arg, const struct ns_inode *inode);
