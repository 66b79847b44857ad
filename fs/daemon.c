/*
 * daemon.c - the process behind a mount: starting, ending, and nothing in between
 *
 * Starting: lock and open the datastore, mount, serve, probe that the mount answers, listen on the
 * control socket, and only then tell the process that waits at the other end of a pipe.  What fails
 * on the way goes through that pipe as errno and text; if the daemon dies, the pipe's end says so.
 * So nobody waits for what will not come.
 *
 * Ending.  Whatever asks for it - umount(8), fusermount3, the control socket, SIGTERM, SIGINT - it
 * is the kernel's unmount that ends the loop, and one path from there: loop threads gone, jobs of
 * filters stopped, control quiet, vfs detached, store committed and closed, lock released, those answered who wait for it.
 * A signal that finds the mount in use writes the page cache back (syncfs), detaches the mount and
 * ends the loop all the same: a service manager will not wait for ever, and whoever has files open
 * gets errors, after everything written so far is safe.
 *
 * Threads: the main one runs libfuse's loop.  All signals are blocked in all threads, except one
 * that libfuse's loop is interrupted with; a thread of our own waits for SIGTERM and SIGINT on a
 * signalfd.
 */
#include "fs/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/control/control.h"
#include "fs/filter/keys.h"
#include "fs/fuse/session.h"
#include "fs/mountpoint.h"
#include "fs/snapshot/view.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

struct daemon {
	const struct mount_options *opt;
	char *dir, *mountpoint; /* absolute, owned */
	struct vfs *vfs;
	struct datastore *ds;
	struct manager *manager; /* NULL until the datastore is open */
	struct session *session;
	struct control_server *control; /* NULL until it serves */
	struct errmsg start_em;         /* why the start failed, if it did */
	int start_result;
	int ready_fd; /* of the pipe to who waits; -1 in the foreground */
	int signal_fd, done_fd;
	pthread_t signal_thread, start_thread;
};

/* --- to the process that waits --- */

static void ready_tell(struct daemon *d, int result, const struct errmsg *em)
{
	const int32_t number = result;

	if (d->ready_fd < 0)
		return;
	if (write(d->ready_fd, &number, sizeof(number)) < 0 ||
	        write(d->ready_fd, em->text, strlen(em->text)) < 0)
		log_warn("the process that asked for the mount is gone");
	close(d->ready_fd);
	d->ready_fd = -1;
}

/* Reads errno and text; *ret_n bytes in all, 0 when the daemon died without a word. */
static size_t ready_read(int fd, void *buf, size_t cap)
{
	size_t len = 0;
	ssize_t n;

	while (len < cap && (n = read(fd, (char *)buf + len, cap - len)) != 0) {
		if (n < 0 && errno != EINTR)
			break;
		len += n > 0 ? (size_t)n : 0;
	}
	return len;
}

static int ready_wait(int fd, const char *dir, struct errmsg *em)
{
	char buf[sizeof(int32_t) + ERRMSG_LEN] = "";
	const size_t len = ready_read(fd, buf, sizeof(buf) - 1);
	int32_t number;

	if (len < sizeof(number))
		return errmsg_set(em, -EIO,
		        "cannot mount datastore '%s': the daemon died (see its log)", dir);
	memcpy(&number, buf, sizeof(number));
	return number < 0 ? errmsg_set(em, number, "%s", buf + sizeof(number)) : 0;
}

/* --- ending --- */

/* Any thread. */
static int daemon_unmount(void *arg, bool lazy, struct errmsg *em)
{
	struct daemon *d = arg;

	return mountpoint_unmount(d->mountpoint, lazy, em);
}

/* What programs have written through mappings reaches us before the mount goes. */
static void page_cache_flush(struct daemon *d)
{
	const int fd = open(d->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || syncfs(fd) < 0)
		log_warn("cannot write back the page cache of '%s': %s", d->mountpoint,
		        strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void signal_end(struct daemon *d)
{
	struct errmsg em = {0};

	log_note("asked to end: unmounting '%s'", d->mountpoint);
	if (daemon_unmount(d, false, &em) == 0)
		return;
	log_warn("%s; detaching it", em.text);
	page_cache_flush(d);
	if (daemon_unmount(d, true, &em) < 0)
		log_warn("%s", em.text);
	session_end(d->session);
}

static void *signal_main(void *arg)
{
	struct daemon *d = arg;
	struct pollfd fds[] = {
	        {.fd = d->signal_fd, .events = POLLIN},
	        {.fd = d->done_fd, .events = POLLIN},
	};
	struct signalfd_siginfo info;

	for (;;) {
		if (poll(fds, ARRAY_SIZE(fds), -1) < 0)
			continue;
		if (fds[1].revents)
			return NULL;
		if (read(d->signal_fd, &info, sizeof(info)) == sizeof(info))
			signal_end(d);
	}
}

static int signals_start(struct daemon *d, struct errmsg *em)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	d->done_fd = eventfd(0, EFD_CLOEXEC);
	if (d->signal_fd < 0 || d->done_fd < 0)
		return errmsg_set(em, -errno, "cannot wait for signals: %s", strerror(errno));
	const int r = pthread_create(&d->signal_thread, NULL, signal_main, d);
	return r ? errmsg_set(em, -r, "cannot start a thread: %s", strerror(r)) : 0;
}

static void signals_stop(struct daemon *d)
{
	const uint64_t one = 1;

	if (write(d->done_fd, &one, sizeof(one)) == sizeof(one))
		pthread_join(d->signal_thread, NULL);
}

/* --- starting --- */

/*
 * Any thread that the control server has; the session is there until all of them are done.  ino: also
 * snapshot_image(), as whoever goes through attachments finds it.
 */
static void daemon_invalidate(void *arg, uint64_t ino, const char *name)
{
	struct daemon *d = arg;

	if (ino & SNAPSHOT_BIT && !vfs_is_snapshot(ino))
		ino = vfs_snapshot_inode(d->vfs, ino);
	session_invalidate(d->session, ino, name);
}

static int control_start(struct daemon *d, struct errmsg *em)
{
	const struct control_host host = {
	        .ds = d->ds,
	        .mountpoint = d->mountpoint,
	        .umount = daemon_unmount,
	        .invalidate = daemon_invalidate,
	        .arg = d,
	        .manager = d->manager,
	};

	manager_set_invalidate(d->manager, daemon_invalidate, d);
	const int r = control_server_start(&host, &d->control, em);

	if (r < 0 && d->opt->store.read_only) { /* a read-only medium, or a second reader */
		log_note("no control socket: %s", em->text);
		*em = (struct errmsg){0};
		return 0;
	}
	return r;
}

/* The rest of the start, beside the loop that has to serve it. */
static void *start_main(void *arg)
{
	struct daemon *d = arg;
	struct errmsg em = {0};
	int r = session_probe(d->session);

	if (r < 0)
		errmsg_set(
		        &em, r, "cannot mount on '%s': the mount does not answer", d->mountpoint);
	else
		r = control_start(d, &em);
	d->start_result = r;
	d->start_em = em;
	if (!r) {
		log_note("serving '%s' on '%s'", d->dir, d->mountpoint);
		if (!d->opt->foreground)
			log_to_syslog(false);
		ready_tell(d, 0, &em);
	} else {
		struct errmsg ignored;
		if (daemon_unmount(d, true, &ignored) < 0)
			session_end(d->session);
	}
	return NULL;
}

/* Before any image is opened. */
static int types_disable(const char *names, struct errmsg *em)
{
	CLEANUP(free_ptr) char *copy = strdup(names ? names : "");
	char *save = NULL;
	int r = copy ? 0 : errmsg_set(em, -ENOMEM, "out of memory");

	for (char *name = copy ? strtok_r(copy, ",", &save) : NULL; name && !r;
	        name = strtok_r(NULL, ",", &save))
		r = stage_type_disable(name, em);
	return r;
}

static int daemon_filters(struct daemon *d, struct errmsg *em)
{
	int r = manager_new(d->ds, d->vfs, &d->manager, em);

	if (r < 0)
		return r;
	const struct vfs_filters filters = manager_filters(d->manager);
	vfs_set_filters(d->vfs, &filters);
	r = snapshot_view_attach(d->vfs, d->ds);
	return r < 0 ? errmsg_set(em, r, "cannot show snapshots: %s", strerror(-r)) : 0;
}

/* Before anybody can open an image of them. */
static int daemon_keys(struct daemon *d, struct errmsg *em)
{
	int r = 0;

	for (unsigned i = 0; i < d->opt->n_keys && !r; i++) {
		const char *path = strchr(d->opt->keys[i], ':') + 1;
		CLEANUP(free_ptr)
		char *name = strndup(d->opt->keys[i], (size_t)(path - d->opt->keys[i]) - 1);
		r = name ? keys_unlock_file(d->manager, name, path, em)
		         : errmsg_set(em, -ENOMEM, "out of memory");
	}
	return r;
}

static int daemon_open(struct daemon *d, struct errmsg *em)
{
	int r = types_disable(d->opt->without, em);

	if (r < 0)
		return r;
	r = vfs_new(&d->vfs);
	if (r < 0)
		return errmsg_set(em, r, "out of memory");
	r = datastore_open(d->dir, &d->opt->store, vfs_collect_rows, d->vfs, &d->ds, em);
	if (r < 0)
		return r;
	r = daemon_filters(d, em);
	if (r < 0)
		return r;
	r = vfs_attach(d->vfs, d->ds->ns, d->ds->store, d->opt->store.read_only);
	if (r < 0)
		return errmsg_set(
		        em, r, "cannot read the top directory of '%s': %s", d->dir, strerror(-r));
	r = manager_start(d->manager, em);
	return r < 0 ? r : daemon_keys(d, em);
}

static int daemon_mount_session(struct daemon *d, struct errmsg *em)
{
	const struct session_config cfg = {
	        .vfs = d->vfs,
	        .source = d->dir,
	        .mountpoint = d->mountpoint,
	        .options = d->opt->fuse_options,
	        .read_only = d->opt->store.read_only,
	        .allow_other = d->opt->allow_other,
	        .default_permissions = d->opt->default_permissions,
	        .threads = d->opt->fuse_threads,
	};

	return session_mount(&cfg, &d->session, em);
}

/* Mounted: serves until the end.  0 or why it did not come to serving. */
static int daemon_serve(struct daemon *d, struct errmsg *em)
{
	int r = signals_start(d, em);

	if (r < 0)
		return r;
	r = pthread_create(&d->start_thread, NULL, start_main, d);
	if (r) {
		signals_stop(d);
		return errmsg_set(em, -r, "cannot start a thread: %s", strerror(r));
	}
	r = session_serve(d->session);
	if (r < 0)
		log_error("serving '%s' ended: %s", d->mountpoint, strerror(-r));
	signals_stop(d); /* may be ending the session */
	session_unmount(
	        d->session); /* what still waits for an answer, the probe too, gets an error */
	pthread_join(d->start_thread, NULL);
	if (d->start_result < 0)
		*em = d->start_em;
	return d->start_result;
}

/* Closes what is open; r is what to return if that goes well. */
static int daemon_close(struct daemon *d, int r, struct errmsg *em)
{
	session_unmount(d->session);
	manager_stop(d->manager);
	control_server_quiesce(d->control);
	session_free(d->session);
	if (d->vfs)
		vfs_detach(d->vfs);
	manager_quiet(d->manager);
	const int closed = d->ds ? datastore_close(d->ds) : 0;
	manager_free(d->manager);
	vfs_free(d->vfs);
	control_server_stop(d->control, closed);
	if (closed < 0 && !r)
		r = errmsg_set(em, closed, "datastore '%s': the last commit failed: %s", d->dir,
		        strerror(-closed));
	if (d->signal_fd >= 0)
		close(d->signal_fd);
	if (d->done_fd >= 0)
		close(d->done_fd);
	return r;
}

static int daemon_run(struct daemon *d, struct errmsg *em)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL); /* and of all threads to come */
	/*
	 * An arena a thread, each keeping what it once needed, would cost more than all else
	 * together.
	 */
	mallopt(M_ARENA_MAX, 2);
	mallopt(M_MMAP_THRESHOLD, 256 << 10);
	/*
	 * The kernel may write to our mount to get memory for our own allocations; with this it
	 * does not wait for us.  Not every user may say so.
	 */
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		log_trace("not an I/O flusher: %s", strerror(errno));
	int r = daemon_open(d, em);
	if (!r)
		r = daemon_mount_session(d, em);
	if (!r)
		r = daemon_serve(d, em);
	return daemon_close(d, r, em);
}

/* --- the two ways to be a daemon --- */

static int stdio_close(void)
{
	const int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	for (int i = 0; i < 3; i++)
		if (dup2(fd, i) < 0)
			return -errno;
	if (fd > 2)
		close(fd);
	return 0;
}

static void child_run(struct daemon *d) __attribute__((noreturn));

static void child_run(struct daemon *d)
{
	struct errmsg em = {0};
	int r = 0;

	log_to_syslog(false);
	if (setsid() < 0 || chdir("/") < 0)
		r = errmsg_set(&em, -errno, "cannot become a daemon: %s", strerror(errno));
	if (!r)
		r = stdio_close();
	if (!r)
		r = daemon_run(d, &em);
	if (r < 0)
		log_error("%s", em.text);
	ready_tell(d, r, &em);
	_exit(r < 0);
}

static int run_background(struct daemon *d, struct errmsg *em)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return errmsg_set(em, -errno, "cannot make a pipe: %s", strerror(errno));
	fflush(NULL);
	const pid_t pid = fork();
	if (pid < 0) {
		const int r = errmsg_set(em, -errno, "cannot fork: %s", strerror(errno));
		close(fds[0]);
		close(fds[1]);
		return r;
	}
	if (pid == 0) {
		close(fds[0]);
		d->ready_fd = fds[1];
		child_run(d);
	}
	close(fds[1]);
	const int r = ready_wait(fds[0], d->dir, em);
	close(fds[0]);
	return r;
}

static int paths_resolve(struct daemon *d, struct errmsg *em)
{
	d->dir = realpath(d->opt->dir, NULL);
	if (!d->dir)
		return errmsg_set(
		        em, -errno, "cannot open datastore '%s': %s", d->opt->dir, strerror(errno));
	return mountpoint_prepare(d->opt->mountpoint, d->dir, &d->mountpoint, em);
}

int daemon_mount(const struct mount_options *opt, struct errmsg *em)
{
	struct daemon d = {.opt = opt, .ready_fd = -1, .signal_fd = -1, .done_fd = -1};
	int r = paths_resolve(&d, em);

	if (!r)
		r = opt->foreground ? daemon_run(&d, em) : run_background(&d, em);
	free(d.dir);
	free(d.mountpoint);
	return r;
}
