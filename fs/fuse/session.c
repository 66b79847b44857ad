/*
 * session.c - mounting through libfuse, and its loop
 *
 * libfuse reports what goes wrong in mounting by printing; its log function is ours, so the
 * last line that it logs becomes the error message.
 *
 * Telling the kernel to drop what it caches is a write to the device, which may wait until dirty
 * pages have been written back through us.  session_unmount() lets those that are under way finish; should
 * nobody serve their writes any more, unmounting ends them.
 *
 * Ending.  When the file system is unmounted, every reader of the device gets ENODEV and the pool's
 * threads end; session_end() ends them while it is mounted.
 */
#include "fs/fuse/session.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/fuse/device.h"
#include "fs/fuse/ops.h"
#include "fs/fuse/pool.h"

#define READ_AHEAD_KIB  1024
#define TELLING_SECONDS 10

struct session {
	struct front front;
	struct fuse_session *fuse; /* owned */
	struct fuse_args args;     /* owned */
	char *mountpoint;          /* owned */
	dev_t dev_before;          /* of the mount point, when nothing was mounted on it */
	struct pool *pool;         /* owned */
	bool mounted;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t cond;
	bool ended;
	unsigned telling; /* threads in session_invalidate() */
};

static _Thread_local char fuse_said[256]; /* libfuse's last complaint, while mounting */

static void fuse_log_line(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char line[sizeof(fuse_said)];

	vsnprintf(line, sizeof(line), fmt, ap);
	line[strcspn(line, "\n")] = 0;
	const char *text = !strncmp(line, "fuse: ", 6) ? line + 6 : line;
	memcpy(fuse_said, text, strlen(text) + 1);
	log_warn("libfuse: %s", text);
}

/* --- options --- */

static int option_add(char **opts, const char *name, const char *value)
{
	char *text = NULL;

	if (asprintf(&text, "%s%s%s", name, value ? "=" : "", value ? value : "") < 0)
		return -ENOMEM;
	const int r = fuse_opt_add_opt_escaped(opts, text); /* commas in value stay in it */
	free(text);
	return r < 0 ? -ENOMEM : 0;
}

static int options_build(const struct session_config *cfg, char **opts)
{
	int r = option_add(opts, "fsname", cfg->source);

	if (!r)
		r = option_add(opts, "subtype", "weir");
	if (!r && cfg->read_only)
		r = option_add(opts, "ro", NULL);
	if (!r && cfg->allow_other)
		r = option_add(opts, "allow_other", NULL);
	if (!r && (cfg->allow_other || cfg->default_permissions))
		r = option_add(opts, "default_permissions", NULL);
	if (!r && cfg->options && *cfg->options && fuse_opt_add_opt(opts, cfg->options) < 0)
		r = -ENOMEM;
	return r;
}

static int args_build(struct session *se, const struct session_config *cfg)
{
	char *opts = NULL;
	int r = options_build(cfg, &opts);

	if (!r &&
	        (fuse_opt_add_arg(&se->args, "weir") < 0 || fuse_opt_add_arg(&se->args, "-o") < 0 ||
	                fuse_opt_add_arg(&se->args, opts) < 0))
		r = -ENOMEM;
	free(opts);
	return r;
}

/* --- mounting --- */

static int fuse_failed(const struct session_config *cfg, struct errmsg *em, int r)
{
	return errmsg_set(em, r, "cannot mount on '%s': %s", cfg->mountpoint,
	        fuse_said[0] ? fuse_said : strerror(-r));
}

static int session_start(struct session *se, const struct session_config *cfg, struct errmsg *em)
{
	const struct fuse_custom_io io = {.read = device_read, .writev = device_writev};
	int r = args_build(se, cfg);

	if (r < 0)
		return errmsg_set(em, r, "out of memory");
	fuse_said[0] = 0;
	se->fuse = fuse_session_new(&se->args, &front_ops, sizeof(front_ops), &se->front);
	if (!se->fuse)
		return fuse_failed(cfg, em, -EINVAL);
	errno = 0;
	if (fuse_session_mount(se->fuse, cfg->mountpoint) < 0)
		return fuse_failed(cfg, em, errno ? -errno : -EIO);
	se->mounted = true;
	r = fuse_session_custom_io(se->fuse, &io, fuse_session_fd(se->fuse));
	return r < 0 ? fuse_failed(cfg, em, r) : 0;
}

static void interrupt_only(int sig)
{
	(void)sig;
}

int session_mount(const struct session_config *cfg, struct session **ret_session, struct errmsg *em)
{
	const struct sigaction sa = {
	        .sa_handler = interrupt_only}; /* no SA_RESTART: that is the point */
	struct session *se = calloc(1, sizeof(*se));

	if (!se)
		return errmsg_set(em, -ENOMEM, "out of memory");
	pthread_mutex_init(&se->lock, NULL);
	pthread_cond_init(&se->cond, NULL);
	sigaction(SIGUSR1, &sa, NULL);
	fuse_set_log_func(fuse_log_line);
	se->front.vfs = cfg->vfs;
	se->mountpoint = strdup(cfg->mountpoint);
	struct stat st;
	if (stat(cfg->mountpoint, &st) == 0)
		se->dev_before = st.st_dev;
	int r = se->mountpoint ? session_start(se, cfg, em) : -ENOMEM;
	if (r == 0)
		r = pool_create(se->fuse, cfg->threads, &se->pool);
	if (r < 0) {
		session_free(se);
		return r;
	}
	*ret_session = se;
	return 0;
}

int session_serve(struct session *se)
{
	return pool_serve(se->pool);
}

/* Only root may; without it, sequential readers through the page cache get 128 KiB at a time. */
static void read_ahead_set(dev_t dev)
{
	char path[64], text[16];

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(dev), minor(dev));
	const int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	const int len = snprintf(text, sizeof(text), "%d", READ_AHEAD_KIB);
	if (write(fd, text, (size_t)len) < 0)
		log_trace("read-ahead stays at its default: %s", strerror(errno));
	close(fd);
}

int session_probe(struct session *se)
{
	struct stat st;

	if (stat(se->mountpoint, &st) < 0 || st.st_dev == se->dev_before)
		return -EIO;
	read_ahead_set(st.st_dev);
	return 0;
}

void session_end(struct session *se)
{
	pthread_mutex_lock(&se->lock);
	if (!se->ended)
		pool_end(se->pool);
	pthread_mutex_unlock(&se->lock);
}

/* --- telling the kernel --- */

void session_invalidate(struct session *se, uint64_t ino, const char *name)
{
	int r = 0;

	pthread_mutex_lock(&se->lock);
	const bool ended = se->ended;
	se->telling += !ended;
	pthread_mutex_unlock(&se->lock);
	if (ended)
		return;
	if (name) {
		r = fuse_lowlevel_notify_inval_entry(se->fuse, ino, name, strlen(name));
		if (r == 0 || r == -ENOENT)
			r = fuse_lowlevel_notify_inval_inode(se->fuse, ino, 0, 0); /* its listing */
	} else {
		r = fuse_lowlevel_notify_inval_inode(se->fuse, ino, 0, 0);
	}
	if (r < 0 && r != -ENOENT) /* not there: it has nothing of it */
		log_warn("inode %llu: the kernel keeps what it has cached: %s",
		        (unsigned long long)ino, strerror(-r));
	pthread_mutex_lock(&se->lock);
	se->telling--;
	pthread_cond_broadcast(&se->cond);
	pthread_mutex_unlock(&se->lock);
}

/* Until nobody is telling, or for this long. */
static void telling_wait(struct session *se, unsigned seconds)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += seconds;
	pthread_mutex_lock(&se->lock);
	se->ended = true;
	while (se->telling && pthread_cond_timedwait(&se->cond, &se->lock, &until) == 0)
		;
	pthread_mutex_unlock(&se->lock);
}

void session_unmount(struct session *se)
{
	if (!se || !se->fuse)
		return;
	telling_wait(se, TELLING_SECONDS);
	if (se->mounted)
		fuse_session_unmount(se->fuse);
	telling_wait(se, TELLING_SECONDS);
	pool_free(se->pool);
	se->pool = NULL;
	fuse_session_destroy(se->fuse);
	se->fuse = NULL;
}

void session_free(struct session *se)
{
	if (!se)
		return;
	session_unmount(se);
	pool_free(se->pool);
	fuse_opt_free_args(&se->args);
	free(se->mountpoint);
	pthread_cond_destroy(&se->cond);
	pthread_mutex_destroy(&se->lock);
	free(se);
}
