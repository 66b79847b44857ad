/*
 * iosim-content.c - the bytes of a simulated file
 *
 * Content is an array of 4 KiB pages.  Pages are shared by reference between the cached and the
 * durable content of a file and between clones of a disk, and copied when one of them is written;
 * reference counts are atomic because clones may live in different threads.  A page written with
 * zeros is one static page for all: the intent log zero-fills its whole ring, and a disk must hold
 * many clones of it.  It counts as allocated, a hole does not.
 */
#include <string.h>

#include "sim/iosim-int.h"

static struct page zero_page; /* never freed, never written: its refs stay 0 */

void *xcalloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size);

	ASSERT(p);
	return p;
}

static bool is_zero(const uint8_t *p, size_t len)
{
	return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

static struct page *page_ref(struct page *p)
{
	if (p && p != &zero_page)
		atomic_fetch_add(&p->refs, 1);
	return p;
}

static void page_unref(struct page *p)
{
	if (p && p != &zero_page && atomic_fetch_sub(&p->refs, 1) == 1)
		free(p);
}

static void content_grow(struct content *c, size_t n_pages)
{
	if (n_pages <= c->n_pages)
		return;
	n_pages = MAX(n_pages, c->n_pages + c->n_pages / 2);
	c->pages = realloc(c->pages, n_pages * sizeof(*c->pages));
	ASSERT(c->pages);
	memset(c->pages + c->n_pages, 0, (n_pages - c->n_pages) * sizeof(*c->pages));
	c->n_pages = n_pages;
}

static void content_set_page(struct content *c, size_t i, struct page *p)
{
	c->allocated += (p != NULL) - (c->pages[i] != NULL);
	page_unref(c->pages[i]);
	c->pages[i] = p;
}

/* A page of our own to write into. */
static uint8_t *content_own_page(struct content *c, size_t i)
{
	struct page *old = c->pages[i];

	if (old && old != &zero_page && atomic_load(&old->refs) == 1)
		return old->data;
	struct page *p = xcalloc(1, sizeof(*p));
	atomic_init(&p->refs, 1);
	if (old)
		memcpy(p->data, old->data, SIM_PAGE);
	content_set_page(c, i, p);
	return p->data;
}

size_t content_read(const struct content *c, void *buf, size_t len, uint64_t off)
{
	if (off >= c->size)
		return 0;
	len = MIN(len, c->size - off);
	for (size_t done = 0; done < len;) {
		const size_t i = (off + done) / SIM_PAGE, at = (off + done) % SIM_PAGE;
		const size_t n = MIN(len - done, SIM_PAGE - at);

		if (i < c->n_pages && c->pages[i])
			memcpy((uint8_t *)buf + done, c->pages[i]->data + at, n);
		else
			memset((uint8_t *)buf + done, 0, n);
		done += n;
	}
	return len;
}

void content_write(struct content *c, const uint8_t *data, size_t len, uint64_t off)
{
	content_grow(c, DIV_UP(off + len, SIM_PAGE));
	for (size_t done = 0; done < len;) {
		const size_t i = (off + done) / SIM_PAGE, at = (off + done) % SIM_PAGE;
		const size_t n = MIN(len - done, SIM_PAGE - at);

		if (n == SIM_PAGE && (!data || is_zero(data + done, n)))
			content_set_page(c, i, &zero_page);
		else if (data)
			memcpy(content_own_page(c, i) + at, data + done, n);
		else
			memset(content_own_page(c, i) + at, 0, n);
		done += n;
	}
	c->size = MAX(c->size, off + len);
}

/* Zeros within the page that holds off, up to end. */
static void content_clear_part(struct content *c, uint64_t off, uint64_t end)
{
	const size_t i = off / SIM_PAGE;

	if (off < end && i < c->n_pages && c->pages[i] && c->pages[i] != &zero_page)
		memset(content_own_page(c, i) + off % SIM_PAGE, 0, end - off);
}

void content_punch(struct content *c, uint64_t off, uint64_t len)
{
	const uint64_t end = MIN(off + len, c->n_pages * (uint64_t)SIM_PAGE);

	while (off < end) {
		const uint64_t next = MIN(end, (off / SIM_PAGE + 1) * SIM_PAGE);

		if (next - off == SIM_PAGE)
			content_set_page(c, off / SIM_PAGE, NULL);
		else
			content_clear_part(c, off, next);
		off = next;
	}
}

void content_truncate(struct content *c, uint64_t size)
{
	/* What lay past the new end must not come back when the file grows again. */
	if (size < c->size)
		content_punch(c, size, ROUND_UP(c->size, SIM_PAGE) - size);
	c->size = size;
}

uint64_t content_holes(const struct content *c, size_t len, uint64_t off)
{
	uint64_t n = 0;

	for (size_t i = off / SIM_PAGE; i < DIV_UP(off + len, SIM_PAGE); i++)
		n += i >= c->n_pages || !c->pages[i];
	return n;
}

void content_copy(struct content *dst, const struct content *src)
{
	struct content c = *src;

	c.pages = xcalloc(src->n_pages, sizeof(*c.pages));
	for (size_t i = 0; i < src->n_pages; i++)
		c.pages[i] = page_ref(src->pages[i]);
	content_release(dst);
	*dst = c;
}

void content_release(struct content *c)
{
	for (size_t i = 0; i < c->n_pages; i++)
		page_unref(c->pages[i]);
	free(c->pages);
	*c = (struct content){0};
}

struct blob *blob_new(const uint8_t *data, size_t len)
{
	if (is_zero(data, len))
		return NULL;
	struct blob *b = xcalloc(1, sizeof(*b) + len);
	atomic_init(&b->refs, 1);
	b->len = len;
	memcpy(b->data, data, len);
	return b;
}

struct blob *blob_ref(struct blob *b)
{
	if (b)
		atomic_fetch_add(&b->refs, 1);
	return b;
}

void blob_unref(struct blob *b)
{
	if (b && atomic_fetch_sub(&b->refs, 1) == 1)
		free(b);
}

void change_apply(const struct change *ch, struct content *c)
{
	switch (ch->kind) {
	case CHANGE_WRITE:
		content_write(c, ch->blob ? ch->blob->data : NULL, ch->len, ch->off);
		break;
	case CHANGE_TRUNCATE:
		content_truncate(c, ch->len);
		break;
	case CHANGE_PUNCH:
		content_punch(c, ch->off, ch->len);
		break;
	}
}
