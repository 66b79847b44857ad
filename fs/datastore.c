/*
 * datastore.c - creating, opening and closing a datastore
 *
 * Composition only: lock, backing directory, metadata, namespace, engine; closed in the opposite
 * order.  The engine calls back into the namespace through the hooks bound here.
 *
 * Creation.  A file "creating" is made durable before anything else and removed after everything
 * else is durable: a directory in which it is found was left by a crash in the middle, and is
 * refused with that message instead of being taken for a datastore, or for a damaged one.
 */
#include "fs/datastore.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/filter/job.h"
#include "fs/filter/manager.h"
#include "fs/lock.h"

#define CREATING_NAME "creating"

#define OVERLAY_DEFAULT_BYTES (256ull << 20)
#define CACHE_DEFAULT_BYTES   (512ull << 20)
#define INDEX_DEFAULT_BYTES   (256ull << 20)
#define MAP_DEFAULT_BYTES     (64ull << 20)
#define LOG_DEFAULT_BYTES     (256ull << 20)

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

/* --- creating --- */

static int not_empty(void *arg, const char *name, bool is_dir)
{
	return strcmp(name, "lost+found") ? 1 : 0; /* the top of a fresh ext4 has that */
}

/* The name of a directory that was just made is durable with its parent. */
static int sync_parent(const char *dir)
{
	char *path = NULL;

	if (asprintf(&path, "%s/..", dir) < 0)
		return -ENOMEM;
	const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(path);
	if (fd < 0)
		return -errno;
	const int r = fsync(fd) < 0 ? -errno : 0;
	close(fd);
	return r;
}

static int make_dir(const char *dir, struct errmsg *em)
{
	if (mkdir(dir, 0700) < 0) {
		if (errno != EEXIST)
			return errmsg_set(em, -errno, "cannot create directory '%s': %s", dir,
			        strerror(errno));
		return 0;
	}
	const int r = sync_parent(dir);
	return r < 0 ? errmsg_set(em, r, "cannot sync the parent of '%s': %s", dir, strerror(-r))
	             : 0;
}

static int mark_creating(struct io *io)
{
	struct io_file *f;
	int r = io_open(io, CREATING_NAME, IO_WRITE | IO_CREATE | IO_EXCL, &f);

	if (r < 0)
		return r;
	r = io_sync(f);
	io_close(f);
	return r < 0 ? r : io_sync_dir(io, "");
}

static int unmark_creating(struct io *io)
{
	int r = io_sync_dir(io, "");

	if (!r)
		r = io_unlink(io, CREATING_NAME);
	return r < 0 ? r : io_sync_dir(io, "");
}

static int create_parts(
        struct io *io, const struct datastore_create_options *opt, struct errmsg *em)
{
	const uint64_t log_bytes = opt->log_bytes ? opt->log_bytes : LOG_DEFAULT_BYTES;
	const struct meta_create_params params = {
	        .index_bytes = opt->index_bytes,
	        .log_bytes = log_bytes,
	        .created_wall_ns = clock_wall_ns(),
	};
	struct meta_info info;
	struct meta *m;
	int r = meta_create(io, &params, em);

	if (r < 0)
		return r;
	r = meta_open(io, false, &m, em);
	if (r < 0)
		return r;
	r = meta_info_get(m, &info);
	meta_close(m);
	if (r < 0)
		return errmsg_set(em, r, "cannot read the new metadata: %s", strerror(-r));
	return store_create(io, log_bytes, info.uuid, em);
}

int datastore_create(const char *dir, const struct datastore_create_options *opt, struct errmsg *em)
{
	CLEANUP(io_freep) struct io *io = NULL;
	CLEANUP(close_fd) int lock_fd = -1;
	int r = make_dir(dir, em);

	if (!r)
		r = io_posix_open(dir, &io, em);
	if (r < 0)
		return r;
	r = io_list(io, "", not_empty, NULL);
	if (r > 0)
		return errmsg_set(
		        em, -ENOTEMPTY, "cannot create a datastore in '%s': not empty", dir);
	if (r < 0)
		return errmsg_set(em, r, "cannot read '%s': %s", dir, strerror(-r));
	r = mark_creating(io);
	if (r < 0)
		return errmsg_set(
		        em, r, "cannot create a datastore in '%s': %s", dir, strerror(-r));
	r = lock_take(dir, false, &lock_fd, em);
	if (!r)
		r = create_parts(io, opt, em);
	if (r < 0)
		return r;
	r = unmark_creating(io);
	return r < 0 ? errmsg_set(em, r, "cannot sync '%s': %s", dir, strerror(-r)) : 0;
}

/* --- hooks between engine and namespace --- */

static int sink_append(void *arg, const void *rows, size_t len)
{
	struct datastore *ds = arg;

	return store_rows_append(ds->store, rows, len);
}

static uint64_t sink_txg(void *arg)
{
	struct datastore *ds = arg;

	return store_txg(ds->store);
}

struct binding {
	struct datastore ds; /* first: datastore_close frees it */
	void (*collect_rows)(void *arg, uint64_t image);
	void *arg;
};

static void hook_opened(void *arg, struct store *s)
{
	struct binding *b = arg;

	b->ds.store = s;
}

static void hook_collect(void *arg, uint64_t image)
{
	struct binding *b = arg;

	if (b->collect_rows)
		b->collect_rows(b->arg, image);
}

static void hook_committed(void *arg, uint64_t txg)
{
	struct binding *b = arg;

	ns_committed(b->ds.ns, txg);
}

static int hook_policy(void *arg, uint64_t image, struct image_policy *ret_policy)
{
	struct binding *b = arg;

	return manager_policy(b->ds.ns, image, ret_policy);
}

static int hook_replay(void *arg, const void *rows, size_t len)
{
	struct binding *b = arg;

	return ns_replay(b->ds.ns, rows, len);
}

/* ds.store may not be set yet. */
static void hook_leaving(void *arg, struct store *s)
{
	struct binding *b = arg;

	jobs_leaving(b->ds.ns, s);
}

/* --- opening --- */

static int store_start(struct binding *b, const struct datastore_options *opt,
        const struct meta_info *info, struct errmsg *em)
{
	const uint64_t index_bytes = opt->index_bytes ? opt->index_bytes : info->index_bytes;
	const struct store_config cfg = {
	        .io = b->ds.io,
	        .meta = b->ds.meta,
	        .keyring = b->ds.keyring,
	        .hooks = {b, hook_collect, hook_committed, hook_replay, hook_policy, hook_leaving},
	        .overlay_bytes = opt->overlay_bytes ? opt->overlay_bytes : OVERLAY_DEFAULT_BYTES,
	        .cache_bytes = b->ds.cache_bytes,
	        .index_bytes = index_bytes ? index_bytes : INDEX_DEFAULT_BYTES,
	        .map_bytes = opt->map_bytes ? opt->map_bytes : MAP_DEFAULT_BYTES,
	        .threads = opt->threads,
	        .txg_ns = opt->txg_ns,
	        .opened = hook_opened,
	        .read_only = opt->read_only,
	};
	const int r = store_open(&cfg, &b->ds.store, em);

	if (r < 0)
		b->ds.store = NULL; /* hook_opened may have set it */
	return r;
}

/* With domain 0 only: nothing is unlocked yet. */
static int keyring_start(struct datastore *ds)
{
	struct store_state state;
	int r = ds->meta->ops->state_get(ds->meta, &state);

	if (r == 0)
		r = keyring_new(state.uuid, state.domain_key, &ds->keyring);
	explicit_bzero(state.domain_key, sizeof(state.domain_key));
	return r;
}

static int parts_open(struct binding *b, const struct datastore_options *opt, struct errmsg *em)
{
	struct datastore *ds = &b->ds;
	struct meta_info info;
	int r = meta_open(ds->io, opt->read_only, &ds->meta, em);

	if (r < 0)
		return r;
	r = meta_info_get(ds->meta, &info);
	if (r < 0)
		return errmsg_set(
		        em, r, "cannot read the metadata of '%s': %s", ds->dir, strerror(-r));
	r = ns_open(ds->meta, &ds->ns, em);
	if (r < 0)
		return r;
	const struct ns_sink sink = {ds, sink_append, sink_txg};
	ns_set_sink(ds->ns, &sink);
	r = keyring_start(ds);
	if (r < 0)
		return errmsg_set(
		        em, r, "cannot read the metadata of '%s': %s", ds->dir, strerror(-r));
	return store_start(b, opt, &info, em);
}

/* A directory that is no datastore gets that message before its lock file is created. */
static int dir_check(struct io *io, const char *dir, struct errmsg *em)
{
	struct io_file *f;
	int r = io_open(io, CREATING_NAME, IO_READ, &f);

	if (r == 0) {
		io_close(f);
		return errmsg_set(em, -EMEDIUMTYPE,
		        "'%s' is an unfinished datastore: its creation was interrupted, or is "
		        "under way (empty the directory and create it again)",
		        dir);
	}
	r = io_open(io, META_NAME, IO_READ, &f);
	if (r == -ENOENT)
		return errmsg_set(
		        em, -EMEDIUMTYPE, "'%s' is not a datastore (weir create %s)", dir, dir);
	if (r < 0)
		return errmsg_set(em, r, "cannot open '%s/%s': %s", dir, META_NAME, strerror(-r));
	io_close(f);
	return 0;
}

/* Frees what is open, without a commit when the store is still there. */
static void datastore_free(struct datastore *ds)
{
	keyring_free(ds->keyring);
	ns_close(ds->ns);
	meta_close(ds->meta);
	io_free(ds->io);
	close_fd(&ds->lock_fd);
	free(ds->dir);
	free(CONTAINER_OF(ds, struct binding, ds));
}

/* em says what is wrong inside: in which datastore, and what helps. */
static int explain_failure(const char *dir, int err, struct errmsg *em)
{
	const bool damage = err == -EUCLEAN || err == -EIO || err == -ENOENT || err == -ESTALE;
	struct errmsg why;

	if (!em)
		return err;
	why = *em;
	return errmsg_set(em, err, "cannot open datastore '%s': %s%s", dir, why.text,
	        damage ? " ('weir check' tells what is lost, and --repair makes good what can be)"
	               : "");
}

static int datastore_start(
        struct binding *b, const struct datastore_options *opt, struct errmsg *em)
{
	struct datastore *ds = &b->ds;
	int r = io_posix_open(ds->dir, &ds->io, em);

	if (!r)
		r = dir_check(ds->io, ds->dir, em);
	if (!r)
		r = lock_take(ds->dir, opt->read_only, &ds->lock_fd, em);
	if (r < 0)
		return r;
	r = parts_open(b, opt, em);
	return r < 0 ? explain_failure(ds->dir, r, em) : 0;
}

int datastore_open(const char *dir, const struct datastore_options *opt,
        void (*collect_rows)(void *arg, uint64_t image), void *arg, struct datastore **ret_ds,
        struct errmsg *em)
{
	struct binding *b = calloc(1, sizeof(*b));

	if (!b)
		return errmsg_set(em, -ENOMEM, "out of memory");
	b->collect_rows = collect_rows;
	b->arg = arg;
	b->ds.lock_fd = -1;
	b->ds.read_only = opt->read_only;
	b->ds.cache_bytes = opt->cache_bytes ? opt->cache_bytes : CACHE_DEFAULT_BYTES;
	b->ds.opened_wall_ns = clock_wall_ns();
	b->ds.dir = realpath(dir, NULL);
	const int r = b->ds.dir ? datastore_start(b, opt, em)
	                        : errmsg_set(em, -errno, "cannot open datastore '%s': %s", dir,
	                                  strerror(errno));
	if (r < 0) {
		datastore_free(&b->ds);
		return r;
	}
	*ret_ds = &b->ds;
	return 0;
}

int datastore_close(struct datastore *ds)
{
	const int r = store_close(ds->store);

	datastore_free(ds);
	return r;
}

int datastore_holder(const char *dir, long *ret_pid, struct errmsg *em)
{
	long pid = 0;
	const int r = lock_holder(dir, &pid);

	if (r < 0 && r != -ENOENT)
		return errmsg_set(
		        em, r, "cannot look at '%s/%s': %s", dir, DATASTORE_LOCK, strerror(-r));
	*ret_pid = pid;
	return 0;
}
