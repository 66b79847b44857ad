/*
 * quarantine.c - an administrator lets an image be written again
 */
#include <errno.h>
#include <string.h>

#include "fs/filter/manager-private.h"

int manager_quarantine_lift(
        struct manager *m, const struct filter_caller *who, const char *target, struct errmsg *em)
{
	char why[NOTICE_TEXT];
	struct target t;
	int r = filter_target(m->ds->ns, target, &t, em);

	if (r < 0)
		return r;
	if (t.dir)
		return errmsg_set(em, -EISDIR, "only an image can be in quarantine: name one");
	if (notices_quarantine_why(m->notices, t.ino, why) < 0)
		return errmsg_set(em, -ENOENT, "'%s' is not in quarantine", target);
	r = rows_begin(m, em);
	if (r < 0)
		return r;
	notices_lifting(m->notices, t.ino, true);
	r = ns_record_del(m->ds->ns, RECORD_FLAG, t.ino, QUARANTINE_FLAG);
	if (!r)
		r = audit_note(m, who, "quarantine lift", t.ino, t.path, NULL, why, NULL);
	rows_end(m);
	if (!r)
		r = rows_flush(m);
	if (r < 0) {
		notices_lifting(m->notices, t.ino, false);
		return errmsg_set(em, r, "cannot record it: %s", strerror(-r));
	}
	notices_lifted(m->notices, t.ino);
	return 0;
}
