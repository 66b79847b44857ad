/*
 * scan-engine.h - what looks at bytes for the scan filter: libyara's rules, and ClamAV's clamd
 *
 * Neither knows of images or requests.  Errors: 0 or -errno; names of what was found are cut to
 * SCAN_NAME_LEN.
 */
#pragma once

#include "base/errmsg.h"

#define SCAN_NAME_LEN 128u

/* --- signatures through libyara --- */

struct yara;

/*
 * Compiles a rules file.  -EINVAL with em: what is wrong, and in which line; -EOPNOTSUPP: built
 * without libyara.  Any thread.
 */
int yara_open(const char *rules_path, struct yara **ret_yara, struct errmsg *em) MUST_CHECK;
void yara_close(struct yara *y); /* accepts NULL */
/*
 * Looks at data[0..len).  A rule counts when one of its strings lies at least partly within [from,
 * to), or when it matches without strings.  *ret_found: one did, and name says which.  One thread
 * at a time for each struct yara.  -ETIMEDOUT: longer than timeout_s seconds.
 */
int yara_scan(struct yara *y, const void *data, size_t len, size_t from, size_t to,
        unsigned timeout_s, bool *ret_found, char name[SCAN_NAME_LEN]) MUST_CHECK;
/* Number of rules. */
unsigned yara_rules(const struct yara *y);

/* --- clamd --- */

/*
 * Sends a piece to clamd's Unix socket (INSTREAM, clamd(8)).  Waits at most a minute for it.
 * -ECONNREFUSED, -ENOENT, ...: it is not there; -EPROTO: it did not answer as clamd does, em
 * says how.
 */
int clamd_scan(const char *socket_path, const void *data, size_t len, bool *ret_found,
        char name[SCAN_NAME_LEN], struct errmsg *em) MUST_CHECK;
/* Is it there, and does it answer? */
int clamd_ping(const char *socket_path, struct errmsg *em) MUST_CHECK;
/*
 * What clamd says of a stream ("stream: OK", "stream: NAME FOUND", "... ERROR"), len bytes without
 * terminator.  -EPROTO with em: neither.
 */
int clamd_reply_parse(const char *reply, size_t len, bool *ret_found, char name[SCAN_NAME_LEN],
        struct errmsg *em) MUST_CHECK;
