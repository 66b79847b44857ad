/*
 * umount.c - "weir umount": commit, unmount, and wait until the daemon has gone
 *
 * Done means that the lock is free: the daemon has committed, closed its files and exited, so the
 * next command finds the datastore at rest.  A mount whose daemon was killed is cleared away.
 */
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tools/busy.h"
#include "tools/cmd.h"
#include "tools/target.h"

#define POLL_NS  (20 * NS_PER_MS)
#define GRACE_NS (10 * NS_PER_SEC) /* for a daemon that has closed its socket already */

extern char **environ;

static const struct cmd_option umount_options[] = {{0}};

/*
 * Waits until pid holds the lock no more; a later holder is another mount.  t->pid is who holds it
 * now.  Gives up after limit_ns (0: never): the same pid is there still.
 */
static int wait_released(struct target *t, uint64_t limit_ns)
{
	const uint64_t start_ns = clock_now_ns();
	const struct timespec pause = {.tv_nsec = (long)POLL_NS};
	const long pid = t->pid;
	struct progress progress;
	struct errmsg em = {0};
	int r;

	progress_begin(&progress, "committing", PROGRESS_PARTS);
	while ((r = datastore_holder(t->dir, &t->pid, &em)) == 0 && t->pid == pid) {
		if (limit_ns && clock_now_ns() - start_ns > limit_ns)
			break;
		progress_update(&progress, 0, 0);
		nanosleep(&pause, NULL);
	}
	progress_end(&progress);
	return r < 0 ? cmd_fail(WEIR_EXIT_FAILED, "%s", em.text) : 0;
}

static int report_busy(const struct target *t)
{
	char who[256];

	if (busy_describe(t->mountpoint, who, sizeof(who)))
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot unmount '%s': in use by %s (end these, then try again)",
		        t->mountpoint, who);
	return cmd_fail(WEIR_EXIT_FAILED,
	        "cannot unmount '%s': it is in use (see 'fuser -vm %s', end what uses it, then try "
	        "again)",
	        t->mountpoint, t->mountpoint);
}

static int run_fusermount(const char *mountpoint, bool lazy)
{
	const char *const argv[] = {"fusermount3", lazy ? "-uz" : "-u", "--", mountpoint, NULL};
	pid_t pid = 0;
	int status = 0;
	const int r = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)argv, environ);

	if (r != 0)
		return -r;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

static int detach(const char *mountpoint, bool lazy)
{
	if (geteuid() != 0)
		return run_fusermount(mountpoint, lazy);
	return umount2(mountpoint, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) < 0 ? -errno : 0;
}

/*
 * Nobody holds the lock and nobody answers.  Either the daemon was killed, and its mount answers
 * ENOTCONN; or it is a reader on a medium where it could make no socket, with nothing to commit.
 */
static int umount_unheld(const struct target *t)
{
	struct stat st;
	const bool dead = stat(t->mountpoint, &st) < 0 && errno == ENOTCONN;
	const int r = detach(t->mountpoint, dead);

	if (r == -EBUSY)
		return report_busy(t);
	if (r < 0)
		return cmd_fail(
		        WEIR_EXIT_FAILED, "cannot unmount '%s': %s", t->mountpoint, strerror(-r));
	if (dead)
		fprintf(stderr,
		        "weir: the daemon of '%s' was gone already; what was flushed is safe, and "
		        "the next mount recovers it\n",
		        t->dir);
	return 0;
}

/* The daemon has closed its socket: it is on its way out, or something is wrong with it. */
static int umount_ending(struct target *t)
{
	const long pid = t->pid;
	const int code = wait_released(t, GRACE_NS);

	if (code != 0 || t->pid != pid)
		return code;
	return cmd_fail(WEIR_EXIT_FAILED,
	        "cannot unmount '%s': pid %ld holds it but does not answer (try again, or end it "
	        "with 'kill %ld': that commits too)",
	        t->dir, pid, pid);
}

static int umount_live(struct target *t)
{
	struct progress progress;
	struct errmsg em = {0};
	json_t *request = json_pack("{s:s}", "op", "umount"), *result = NULL;

	if (!request)
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	progress_begin(&progress, "committing", PROGRESS_BYTES);
	const int r = control_call(t->dir, request, progress_update, &progress, &result, &em);
	progress_end(&progress);
	json_decref(request);
	json_decref(result);
	if (r == -EBUSY && t->mountpoint)
		return report_busy(t);
	if (r == -ENOTCONN)
		return t->pid ? umount_ending(t) : umount_unheld(t);
	if (r < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text[0] ? em.text : strerror(-r));
	return t->pid ? wait_released(t, 0) : 0;
}

static int umount_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"TARGET"};
	struct target t = {0};

	if (cmd_option_next(cmd, argc, argv) < 0 || cmd_args_check(cmd, argc, argv, args, 1, 1))
		return WEIR_EXIT_USAGE;
	int code = target_find(&t, argv[optind]);
	if (code == 0 && (t.pid || t.mountpoint))
		code = umount_live(&t);
	else if (code == 0)
		code = cmd_fail(WEIR_EXIT_FAILED, "cannot unmount '%s': not mounted", t.dir);
	target_release(&t);
	return code;
}

const struct command cmd_umount = {
        .name = "umount",
        .synopsis = "TARGET",
        .summary = "Commit, unmount, and wait until the daemon has ended",
        .details = "umount(8), fusermount3 -u and SIGTERM to the daemon lose nothing either; this "
                   "one waits.",
        .options = umount_options,
        .run = umount_run,
};
