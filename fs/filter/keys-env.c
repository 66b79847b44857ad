/*
 * keys-env.c - keys in a daemon: what the manager and the store give them
 *
 * The only part of the keys that knows struct manager.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/filter/keys-private.h"
#include "fs/filter/manager-private.h"
#include "fs/snapshot/records.h"

static void env_lock(void *arg)
{
	struct manager *m = arg;

	pthread_mutex_lock(&m->lock);
}

static void env_unlock(void *arg)
{
	struct manager *m = arg;

	pthread_mutex_unlock(&m->lock);
}

static int env_begin(void *arg, struct errmsg *em)
{
	return rows_begin(arg, em);
}

static void env_end(void *arg)
{
	rows_end(arg);
}

static int env_audit(void *arg, const struct filter_caller *who, const char *action,
        const char *key, const char *old_value, const char *new_value)
{
	return audit_note(arg, who, action, 0, "", key, old_value, new_value);
}

static int env_flush(void *arg)
{
	return rows_flush(arg);
}

static int env_wipe_rows(void *arg)
{
	const struct manager *m = arg;

	return store_wipe_rows(m->ds->store);
}

static int env_domain_unlocked(void *arg, uint32_t domain)
{
	const struct manager *m = arg;

	return store_domain_unlocked(m->ds->store, domain);
}

static void env_unlocked(void *arg)
{
	const struct manager *m = arg;

	if (m->jobs)
		jobs_kick(m->jobs);
}

static int env_domain_lock(void *arg, uint32_t domain)
{
	const struct manager *m = arg;

	return store_domain_lock(m->ds->store, domain);
}

static bool env_image_open(void *arg, uint64_t ino)
{
	struct filter_image *fi = image_peek(arg, ino);

	if (!fi)
		return false;
	pthread_mutex_lock(&fi->lock);
	const bool open = fi->pipeline;
	pthread_mutex_unlock(&fi->lock);
	image_put(fi);
	return open;
}

static void env_path_of(void *arg, uint64_t ino, char *buf, size_t cap)
{
	const struct manager *m = arg;

	if (ino & SNAPSHOT_BIT)
		snapshot_path(m->ds->ns, ino, buf, cap);
	else if (ns_path_of(m->ds->ns, ino, buf, cap) < 0)
		snprintf(buf, cap, "inode %llu", (unsigned long long)ino);
}

static void env_forget_pages(void *arg, uint64_t ino)
{
	manager_invalidate(arg, ino, NULL);
}

static int env_move(void *arg, const struct filter_caller *who, uint64_t ino, uint32_t from,
        uint32_t to, struct errmsg *em)
{
	return change_domain(arg, who, ino, from, to, em);
}

static int env_wait(
        void *arg, uint64_t ino, uint64_t link, gc_progress_fn *fn, void *fn_arg, struct errmsg *em)
{
	const struct manager *m = arg;

	return jobs_wait(m->jobs, ino, link, fn, fn_arg, em);
}

int keys_new(struct manager *m, struct keys **ret_keys, struct errmsg *em)
{
	const struct keys_env env = {
	        .ns = m->ds->ns,
	        .keyring = m->ds->keyring,
	        .dir = m->ds->dir,
	        .read_only = m->read_only,
	        .arg = m,
	        .lock = env_lock,
	        .unlock = env_unlock,
	        .begin = env_begin,
	        .audit = env_audit,
	        .end = env_end,
	        .flush = env_flush,
	        .wipe_rows = env_wipe_rows,
	        .protect = keyring_protect,
	        .domain_unlocked = env_domain_unlocked,
	        .domain_lock = env_domain_lock,
	        .unlocked = env_unlocked,
	        .image_open = env_image_open,
	        .path_of = env_path_of,
	        .forget_pages = env_forget_pages,
	        .move = env_move,
	        .wait = env_wait,
	};

	return keys_open(&env, ret_keys, em);
}

int keys_domain_for(
        struct manager *m, const char *key_name, uint32_t *ret_domain, struct errmsg *em)
{
	return keys_domain_of(m->keys, key_name, ret_domain, em);
}

int keys_check_domain(struct manager *m, uint32_t domain, struct errmsg *em)
{
	return keys_domain_usable(m->keys, domain, em);
}

void keys_domain_left(struct manager *m, uint32_t domain)
{
	struct keys *k = m->keys;
	struct named_key key;

	pthread_mutex_lock(&k->op_lock);
	const bool known = keys_find_domain(k, domain, &key) == 0;
	if (key_domain_settle(k, domain) < 0)
		log_note("crypto domain %u is given up when its key is unlocked next", domain);
	const bool gone = known && keys_find_domain(k, domain, &key) < 0;
	pthread_mutex_unlock(&k->op_lock);
	if (gone)
		keys_wipe_rows(k);
}

/* --- a key file --- */

static int file_read(const char *path, struct secret *ret_s, struct errmsg *em)
{
	struct secret s = {KEYSLOT_FILE, malloc(KEYSLOT_SECRET_MAX + 1), KEYSLOT_SECRET_MAX + 1};
	size_t len = 0;
	ssize_t n = 1;

	if (!s.data)
		return errmsg_set(em, -ENOMEM, "out of memory");
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	int r = fd < 0 ? -errno : 0;
	while (r == 0 && n > 0 && len < s.len) {
		n = read(fd, s.data + len, s.len - len);
		if (n < 0 && errno != EINTR)
			r = -errno;
		len += n > 0 ? (size_t)n : 0;
		n = n < 0 ? 1 : n;
	}
	if (fd >= 0)
		close(fd);
	if (r < 0) {
		errmsg_set(em, r, "cannot read key file '%s': %s", path, strerror(-r));
	} else if (len == 0 || len > KEYSLOT_SECRET_MAX) {
		r = errmsg_set(em, -EINVAL, "key file '%s' must have 1 to %u bytes", path,
		        KEYSLOT_SECRET_MAX);
	}
	if (r < 0) {
		secret_release(&s);
		return r;
	}
	s.len = len; /* the rest was never written to */
	*ret_s = s;
	return 0;
}

int keys_unlock_file(struct manager *m, const char *name, const char *path, struct errmsg *em)
{
	struct secret s = {0};
	json_t *json = NULL;
	int r = file_read(path, &s, em);

	if (r < 0)
		return r;
	r = key_unlock(m->keys, NULL, name, &s, &json, em);
	secret_release(&s);
	json_decref(json);
	return r;
}
