/*
 * check-namespace.c - meta.db itself, its state row, and the names
 *
 * What a row means to other rows of the namespace is meta_check's business; here is what lies
 * between parts: the state row against the ids in use.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/check.h"

static void complaint(void *arg, const char *text)
{
	struct check *c = arg;
	finding_add(&c->findings, FINDING_NAMESPACE, SEVERITY_ERROR, "%s", text);
}

int check_namespace(struct check *c)
{
	uint64_t size_bytes = 0;
	int r = meta_check(c->meta, complaint, c);

	if (r == -ENOMEM)
		return r;
	if (r < 0)
		finding_add(&c->findings, FINDING_METADATA, SEVERITY_LOSS,
		        "meta.db cannot be checked: %s", strerror(-r));
	r = ns_totals(c->ns, &c->sum.inodes, &size_bytes);
	if (r < 0)
		finding_add(&c->findings, FINDING_METADATA, SEVERITY_LOSS,
		        "the inodes in meta.db cannot be read: %s", strerror(-r));
	return r == -ENOMEM ? r : 0;
}

/* Findings of complaints that have been repeated, by text. */
static void repeated(void *arg, const char *text)
{
	struct findings *f = arg;

	for (size_t i = 0; i < f->n; i++)
		if (f->list[i].kind == FINDING_NAMESPACE && f->list[i].text &&
		        !strcmp(f->list[i].text, text))
			f->list[i].repeated = true;
}

int check_namespace_again(struct check *c)
{
	struct findings *f = &c->findings;
	const int r = meta_check(c->meta, repeated, f);

	for (size_t i = 0; i < f->n && r == 0; i++)
		if (f->list[i].kind == FINDING_NAMESPACE && !f->list[i].repeated)
			finding_mark_repaired(f, &f->list[i]);
	return r;
}

void check_path(struct check *c, uint64_t image, char *buf, size_t len)
{
	if (ns_path_of(c->ns, image, buf, len) < 0)
		buf[0] = '\0';
}
