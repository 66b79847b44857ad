/*
 * secret.h - secrets that a user gives to a command: a key file, a passphrase, a recovery key
 *
 * They are kept as the control socket takes them (fs/control/PROTOCOL.md), and wiped.
 */
#pragma once

#include "base/errmsg.h"

struct secret_source { /* what the options say; all NULL or false: ask on the terminal */
	const char *key_file, *passphrase_file; /* "-": standard input */
	bool recovery;                          /* ask for a recovery key */
};

struct secret_text {
	const char *kind; /* "file", "passphrase", "recovery" */
	char *base64;     /* owned */
};

/* No core dump, no tracing: before the first secret. */
void secret_protect(void);
/*
 * what: for the prompt, "key 'vms'"; twice: a new passphrase, asked for again.  -EINVAL, -EIO,
 * -ENXIO (no terminal to ask on) with em.
 */
int secret_get(const struct secret_source *from, const char *what, bool twice,
        struct secret_text *ret_s, struct errmsg *em) MUST_CHECK;
void secret_text_release(struct secret_text *s);
