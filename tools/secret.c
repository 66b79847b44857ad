/*
 * secret.c - see secret.h
 *
 * A passphrase is asked for on the terminal itself, not on standard input, with echo off.  A signal
 * that would end the command ends the question first, so that the terminal is left as it was; then
 * the signal is taken.
 */
#include "tools/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <termios.h>
#include <unistd.h>

#include "crypto/keyslot.h"
#include "fs/control/base64.h"
#include "fs/control/wipe.h"

#define LINE_MAX_BYTES 1024u /* of a passphrase that is typed */

void secret_protect(void)
{
	const struct rlimit none = {0, 0};

	wipe_json();
	/* What cannot be had is done without: the secret was in the user's hands before. */
	if (prctl(PR_SET_DUMPABLE, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
		errno = 0;
}

void secret_text_release(struct secret_text *s)
{
	wipe_text(s->base64);
	*s = (struct secret_text){0};
}

/* A buffer that stays out of swap, if the limits allow. */
struct buffer {
	uint8_t *data;
	size_t cap, len;
};

static int buffer_new(struct buffer *b, size_t cap, struct errmsg *em)
{
	void *p = mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return errmsg_set(em, -ENOMEM, "out of memory");
	if (mlock(p, cap) < 0)
		errno = 0;
	*b = (struct buffer){p, cap, 0};
	return 0;
}

static void buffer_free(struct buffer *b)
{
	explicit_bzero(b->data, b->cap);
	munmap(b->data, b->cap);
}

/* --- from a file --- */

static int read_all(int fd, struct buffer *b)
{
	ssize_t n = 1;

	while (n > 0 && b->len < b->cap) {
		n = read(fd, b->data + b->len, b->cap - b->len);
		if (n < 0 && errno != EINTR)
			return -errno;
		b->len += n > 0 ? (size_t)n : 0;
		n = n < 0 ? 1 : n;
	}
	return 0;
}

static int file_read(const char *path, struct buffer *b, struct errmsg *em)
{
	const bool input = !strcmp(path, "-");
	const int fd = input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	const int r = fd < 0 ? -errno : read_all(fd, b);

	if (fd >= 0 && !input)
		close(fd);
	if (r < 0)
		return errmsg_set(em, r, "cannot read '%s': %s", path, strerror(-r));
	if (b->len == 0)
		return errmsg_set(em, -EINVAL, "'%s' is empty", path);
	if (b->len > KEYSLOT_SECRET_MAX)
		return errmsg_set(em, -EINVAL, "'%s' is too long for a secret (at most %u bytes)",
		        path, KEYSLOT_SECRET_MAX);
	return 0;
}

/* The first line, as a passphrase: without its end. */
static int line_cut(struct buffer *b, const char *from, struct errmsg *em)
{
	const uint8_t *end = memchr(b->data, '\n', b->len);

	if (end)
		b->len = (size_t)(end - b->data);
	return b->len ? 0 : errmsg_set(em, -EINVAL, "the passphrase in '%s' is empty", from);
}

/* --- from the terminal --- */

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
	caught = number;
}

static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP};

struct signals_before {
	struct sigaction actions[ARRAY_SIZE(signals)];
	sigset_t mask;
};

/* They are let through only where the answer is waited for, so that none comes unseen before. */
static void signals_catch(struct signals_before *before)
{
	const struct sigaction action = {.sa_handler = on_signal};
	sigset_t set;

	caught = 0;
	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		sigaddset(&set, signals[i]);
		sigaction(signals[i], &action, &before->actions[i]);
	}
	sigprocmask(SIG_BLOCK, &set, &before->mask);
}

static void signals_restore(const struct signals_before *before)
{
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &before->actions[i], NULL);
	sigprocmask(SIG_SETMASK, &before->mask, NULL);
	if (caught)
		raise(caught);
}

static int byte_read(int tty, const sigset_t *mask, uint8_t *ret_byte)
{
	struct pollfd p = {.fd = tty, .events = POLLIN};

	if (ppoll(&p, 1, NULL, mask) < 0)
		return caught ? -EINTR : -errno;
	const ssize_t n = read(tty, ret_byte, 1);
	return n < 0 ? -errno : n == 0 ? -ENODATA : 0;
}

/* One line; what does not fit is read and makes it too long. */
static int line_read(int tty, const sigset_t *mask, struct buffer *b)
{
	uint8_t byte = 0;
	int r = 0;

	b->len = 0;
	while (r == 0 && byte != '\n') {
		r = byte_read(tty, mask, &byte);
		if (r < 0 || byte == '\n')
			break;
		if (b->len < b->cap)
			b->data[b->len] = byte;
		b->len++;
	}
	if (r < 0 && r != -ENODATA)
		return r;
	return b->len > b->cap ? -EMSGSIZE : 0;
}

static int ask(int tty, const char *prompt, struct buffer *b)
{
	struct termios was, silent;
	struct signals_before before;

	if (tcgetattr(tty, &was) < 0)
		return -errno;
	silent = was;
	silent.c_lflag &= ~(tcflag_t)(ECHO | ECHONL);
	signals_catch(&before);
	int r = tcsetattr(tty, TCSAFLUSH, &silent) < 0 ? -errno : 0;
	if (r == 0 && dprintf(tty, "%s: ", prompt) < 0)
		r = -errno;
	if (r == 0)
		r = line_read(tty, &before.mask, b);
	if (tcsetattr(tty, TCSAFLUSH, &was) < 0 || dprintf(tty, "\n") < 0)
		r = r < 0 ? r : -EIO;
	signals_restore(&before);
	return r;
}

static int ask_twice(int tty, const char *prompt, struct buffer *b, struct errmsg *em)
{
	struct buffer again;
	char text[160];
	int r = buffer_new(&again, b->cap, em);

	if (r < 0)
		return r;
	snprintf(text, sizeof(text), "%s, again", prompt);
	r = ask(tty, text, &again);
	const bool same = r == 0 && again.len == b->len && !memcmp(again.data, b->data, b->len);
	buffer_free(&again);
	if (r < 0)
		return errmsg_set(em, r, "cannot read from the terminal: %s", strerror(-r));
	return same ? 0 : errmsg_set(em, -EINVAL, "the two passphrases are not the same");
}

static int terminal_read(
        const char *word, const char *what, bool twice, struct buffer *b, struct errmsg *em)
{
	char prompt[128];
	const int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);

	if (tty < 0)
		return errmsg_set(em, -ENXIO,
		        "there is no terminal to ask for a passphrase on: use --key-file or "
		        "--passphrase-file");
	snprintf(prompt, sizeof(prompt), "%s%s of %s", twice ? "new " : "", word, what);
	int r = ask(tty, prompt, b);
	if (r < 0)
		errmsg_set(em, r, "cannot read from the terminal: %s", strerror(-r));
	else if (b->len == 0)
		r = errmsg_set(em, -EINVAL, "the %s is empty", word);
	else if (twice)
		r = ask_twice(tty, prompt, b, em);
	close(tty);
	return r;
}

/* --- all of them --- */

static int get(const struct secret_source *from, const char *what, bool twice, struct buffer *b,
        const char **ret_kind, struct errmsg *em)
{
	int r;

	if (from->key_file) {
		*ret_kind = "file";
		return file_read(from->key_file, b, em);
	}
	*ret_kind = from->recovery ? "recovery" : "passphrase";
	if (from->passphrase_file) {
		r = file_read(from->passphrase_file, b, em);
		return r < 0 ? r : line_cut(b, from->passphrase_file, em);
	}
	b->cap = MIN(b->cap, (size_t)LINE_MAX_BYTES);
	return terminal_read(from->recovery ? "recovery key" : "passphrase", what, twice, b, em);
}

int secret_get(const struct secret_source *from, const char *what, bool twice,
        struct secret_text *ret_s, struct errmsg *em)
{
	struct secret_text s = {0};
	struct buffer b;
	int r = buffer_new(&b, KEYSLOT_SECRET_MAX + 1, em);

	if (r < 0)
		return r;
	r = get(from, what, twice, &b, &s.kind, em);
	if (r == 0) {
		s.base64 = base64_encode(b.data, b.len);
		r = s.base64 ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
	}
	b.cap = KEYSLOT_SECRET_MAX + 1;
	buffer_free(&b);
	if (r == 0)
		*ret_s = s;
	return r;
}
