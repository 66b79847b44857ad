/*
 * server.c - the daemon's end of the control socket
 *
 * One thread accepts; each client gets a thread of its own, so a collection that takes minutes
 * keeps nobody else waiting.  At most CLIENTS_MAX at a time (others wait to be accepted); a client
 * that says nothing for CLIENT_IDLE_SECONDS is dropped, so that it does not hold its place.
 *
 * Ending has two steps (control.h).  A client that asked for the umount is answered after the
 * second, when the result of the last commit is known; its thread waits for that without touching
 * the datastore.  Clients that only sit there are woken by shutting their sockets down for reading;
 * requests under way are waited for.
 *
 * Locks: srv.lock guards clients, ending, closed, result.
 */
#include "fs/control/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/control/socket.h"
#include "fs/control/text.h"
#include "fs/control/wipe.h"

#define CLIENTS_MAX         16u
#define CLIENT_IDLE_SECONDS 300
#define SEND_SECONDS        30 /* a client that does not read */
#define PROGRESS_NS         (100 * NS_PER_MS)

struct client {
	struct control_server *srv;
	pthread_t thread;
	int fd;    /* -1: the place is free */
	bool done; /* the thread has nothing more to do but end */
	bool waits_for_umount;
	bool deaf; /* sending failed: it is gone */
	struct filter_caller who;
	uint64_t progress_at_ns;
};

struct control_server {
	struct control_host host;
	int dir_fd, listen_fd, wake_fd;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond; /* closed, or a client's done changed */
	struct client clients[CLIENTS_MAX];
	bool ending, closed;
	int result;
};

/* --- replies --- */

/* Takes json; NULL is an allocation that failed. */
static void reply(struct client *cl, json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	if (!text || cl->deaf || socket_send(cl->fd, text, strlen(text)) < 0 ||
	        socket_send(cl->fd, "\n", 1) < 0)
		cl->deaf = true;
	wipe_text(text); /* may be a recovery key */
}

/* Takes result; NULL for none. */
static void reply_result(struct client *cl, json_t *result)
{
	reply(cl, json_pack("{s:b, s:o}", "ok", 1, "result", result ? result : json_object()));
}

static void reply_error(struct client *cl, int r, const struct errmsg *em)
{
	const char *text = em->text[0] ? em->text : strerror(-r);

	reply(cl, json_pack("{s:b, s:i, s:o}", "ok", 0, "errno", -r, "error", text_json(text)));
}

static void client_progress(void *arg, uint64_t done, uint64_t total)
{
	struct client *cl = arg;
	const uint64_t now_ns = clock_now_ns();

	if (cl->deaf || now_ns - cl->progress_at_ns < PROGRESS_NS)
		return;
	cl->progress_at_ns = now_ns;
	reply(cl, json_pack("{s:{s:I, s:I}}", "progress", "done", (json_int_t)done, "total",
	                  (json_int_t)total));
}

/* --- operations --- */

/* The datastore is not touched after the umount: it is being closed. */
static int client_umount(void *arg, bool lazy, struct errmsg *em)
{
	struct client *cl = arg;
	struct control_server *srv = cl->srv;

	pthread_mutex_lock(&srv->lock);
	cl->waits_for_umount = true; /* before: quiesce must not wait for this thread */
	pthread_mutex_unlock(&srv->lock);
	int r = srv->host.umount(srv->host.arg, lazy, em);
	pthread_mutex_lock(&srv->lock);
	if (r < 0) {
		cl->waits_for_umount = false;
	} else {
		while (!srv->closed)
			pthread_cond_wait(&srv->cond, &srv->lock);
		r = srv->result;
		if (r < 0)
			errmsg_set(em, r,
			        "unmounted, but the last commit failed: %s (see the daemon's log; "
			        "what was flushed is in the intent log)",
			        strerror(-r));
	}
	pthread_mutex_unlock(&srv->lock);
	return r;
}

static void client_invalidate(void *arg, uint64_t ino, const char *name)
{
	const struct client *cl = arg;
	const struct control_host *host = &cl->srv->host;

	if (host->invalidate)
		host->invalidate(host->arg, ino, name);
}

static void client_answer(struct client *cl, struct line_reader *lr, char *line, size_t len)
{
	struct control_server *srv = cl->srv;
	struct control_context ctx = {
	        .ds = srv->host.ds,
	        .manager = srv->host.manager,
	        .mountpoint = srv->host.mountpoint,
	        .who = cl->who,
	        .progress = client_progress,
	        .arg = cl,
	        .umount = client_umount,
	        .fds = lr->fds,
	        .n_fds = lr->n_fds,
	        .cancel_fd = cl->fd,
	        .invalidate = client_invalidate,
	};
	struct control_request req;
	struct errmsg em = {0};
	json_t *result = NULL;
	int r = control_request_parse(line, len, &req, &em);

	explicit_bzero(line, len); /* may hold a secret */
	if (!r) {
		audit_prepare(cl->who.uid); /* not in the gate, where it would stop all writes */
		r = req.op->run(&ctx, &req, &result, &em);
		control_request_release(&req);
	}
	line_reader_drop_fds(lr); /* before the answer: then they are closed */
	if (r < 0)
		reply_error(cl, r, &em);
	else
		reply_result(cl, result);
}

/* --- clients --- */

static bool is_ending(struct control_server *srv)
{
	pthread_mutex_lock(&srv->lock);
	const bool ending = srv->ending;
	pthread_mutex_unlock(&srv->lock);
	return ending;
}

static void *client_main(void *arg)
{
	struct client *cl = arg;
	struct control_server *srv = cl->srv;
	struct line_reader lr = {.fd = cl->fd, .max = CONTROL_LINE_MAX, .fds_max = CONTROL_FDS_MAX};
	char *line;
	size_t len;

	while (!cl->deaf && !is_ending(srv)) {
		const int r = line_next(&lr, &line, &len);
		if (r == -EMSGSIZE)
			reply_error(cl, r, &(struct errmsg){"request is too long"});
		if (r < 0)
			break;
		client_answer(cl, &lr, line, len);
	}
	line_reader_release(&lr);
	pthread_mutex_lock(&srv->lock);
	cl->done = true;
	pthread_cond_broadcast(&srv->cond);
	pthread_mutex_unlock(&srv->lock);
	return NULL;
}

/* Joins threads that are done.  Called by the accepting thread, and at the end. */
static void clients_reap(struct control_server *srv)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		struct client *cl = &srv->clients[i];
		pthread_mutex_lock(&srv->lock);
		const bool done = cl->fd >= 0 && cl->done;
		pthread_mutex_unlock(&srv->lock);
		if (!done)
			continue;
		pthread_join(cl->thread, NULL);
		close(cl->fd);
		pthread_mutex_lock(&srv->lock);
		cl->fd = -1;
		pthread_mutex_unlock(&srv->lock);
	}
}

static struct client *client_place(struct control_server *srv)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (srv->clients[i].fd < 0)
			return &srv->clients[i];
	return NULL;
}

static bool peer_allowed(int fd, struct filter_caller *ret_who)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return false;
	*ret_who = (struct filter_caller){.uid = cred.uid, .pid = cred.pid};
	return cred.uid == 0 || cred.uid == geteuid();
}

static void client_start(
        struct control_server *srv, struct client *cl, int fd, const struct filter_caller *who)
{
	const struct timeval idle = {.tv_sec = CLIENT_IDLE_SECONDS};
	const struct timeval patience = {.tv_sec = SEND_SECONDS};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &idle, sizeof(idle));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	pthread_mutex_lock(&srv->lock);
	*cl = (struct client){.srv = srv, .fd = fd, .who = *who};
	const int r = srv->ending ? ECANCELED : pthread_create(&cl->thread, NULL, client_main, cl);
	if (r)
		cl->fd = -1;
	pthread_mutex_unlock(&srv->lock);
	if (r)
		close(fd);
}

static void client_accept(struct control_server *srv, struct client *cl)
{
	const int fd = accept4(srv->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct filter_caller who;

	if (fd < 0)
		return;
	if (peer_allowed(fd, &who))
		client_start(srv, cl, fd, &who);
	else
		close(fd);
}

/* While all places are taken, looks for a free one now and then instead of accepting. */
static void *server_main(void *arg)
{
	struct control_server *srv = arg;

	while (!is_ending(srv)) {
		clients_reap(srv);
		struct client *cl = client_place(srv);
		struct pollfd fds[] = {
		        {.fd = srv->wake_fd, .events = POLLIN},
		        {.fd = cl ? srv->listen_fd : -1, .events = POLLIN},
		};
		if (poll(fds, ARRAY_SIZE(fds), cl ? -1 : 200) > 0 && fds[1].revents)
			client_accept(srv, cl);
	}
	return NULL;
}

/* --- start and end --- */

/* The lock is ours, so a socket that is there belongs to nobody, unless both only read. */
static int listen_on(struct control_server *srv, const struct sockaddr_un *addr)
{
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	srv->listen_fd = fd;
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0)
		return -EADDRINUSE;
	if (unlinkat(srv->dir_fd, CONTROL_NAME, 0) < 0 && errno != ENOENT)
		return -errno;
	if (fchmod(fd, 0600) < 0) /* the name gets this mode: there is no moment when others may */
		return -errno;
	if (bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
		return -errno;
	return listen(fd, CLIENTS_MAX) < 0 ? -errno : 0;
}

static void server_free(struct control_server *srv)
{
	const int fds[] = {srv->dir_fd, srv->listen_fd, srv->wake_fd};

	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	pthread_cond_destroy(&srv->cond);
	pthread_mutex_destroy(&srv->lock);
	free(srv);
}

static int server_begin(struct control_server *srv)
{
	struct sockaddr_un addr;
	int r = socket_address(srv->host.ds->dir, &addr, &srv->dir_fd);

	if (!r)
		r = listen_on(srv, &addr);
	if (r < 0)
		return r;
	srv->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (srv->wake_fd < 0)
		return -errno;
	return -pthread_create(&srv->thread, NULL, server_main, srv);
}

int control_server_start(
        const struct control_host *host, struct control_server **ret_srv, struct errmsg *em)
{
	struct control_server *srv = calloc(1, sizeof(*srv));

	if (!srv)
		return errmsg_set(em, -ENOMEM, "out of memory");
	wipe_json(); /* requests may carry secrets */
	srv->host = *host;
	srv->dir_fd = srv->listen_fd = srv->wake_fd = -1;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		srv->clients[i].fd = -1;
	pthread_mutex_init(&srv->lock, NULL);
	pthread_cond_init(&srv->cond, NULL);
	const int r = server_begin(srv);
	if (r < 0) {
		server_free(srv);
		return errmsg_set(em, r, "cannot listen on '%s/%s': %s", host->ds->dir,
		        CONTROL_NAME, strerror(-r));
	}
	*ret_srv = srv;
	return 0;
}

/* Somebody works on a request that uses the datastore.  With srv->lock held. */
static bool clients_busy(const struct control_server *srv)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		const struct client *cl = &srv->clients[i];
		if (cl->fd >= 0 && !cl->done && !cl->waits_for_umount)
			return true;
	}
	return false;
}

void control_server_quiesce(struct control_server *srv)
{
	const uint64_t one = 1;

	if (!srv)
		return;
	unlinkat(srv->dir_fd, CONTROL_NAME, 0);
	pthread_mutex_lock(&srv->lock);
	srv->ending = true;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (srv->clients[i].fd >= 0)
			shutdown(srv->clients[i].fd, SHUT_RD);
	pthread_mutex_unlock(&srv->lock);
	if (write(srv->wake_fd, &one, sizeof(one)) < 0)
		log_warn("control: cannot wake the accepting thread: %s", strerror(errno));
	pthread_join(srv->thread, NULL);
	pthread_mutex_lock(&srv->lock);
	while (clients_busy(srv))
		pthread_cond_wait(&srv->cond, &srv->lock);
	pthread_mutex_unlock(&srv->lock);
}

static bool clients_left(struct control_server *srv)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (srv->clients[i].fd >= 0 && !srv->clients[i].done)
			return true;
	return false;
}

void control_server_stop(struct control_server *srv, int result)
{
	if (!srv)
		return;
	pthread_mutex_lock(&srv->lock);
	srv->result = result;
	srv->closed = true;
	pthread_cond_broadcast(&srv->cond);
	while (clients_left(srv))
		pthread_cond_wait(&srv->cond, &srv->lock);
	pthread_mutex_unlock(&srv->lock);
	clients_reap(srv);
	server_free(srv);
}
