/*
 * check-findings.c - the list of what is wrong
 *
 * Ranges of one image with the same damage are joined while they are added (the map is walked in
 * order), so a lost segment gives a few lines, not thousands.  The list is bounded; what goes over
 * is counted by severity, so that the exit code never depends on the bound.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/check.h"
#include "tools/print.h"

static const char *const kind_names[] = {
        [FINDING_METADATA] = "metadata",
        [FINDING_NAMESPACE] = "namespace",
        [FINDING_STATE] = "state",
        [FINDING_IMAGE] = "image",
        [FINDING_NODE] = "node",
        [FINDING_TREE] = "tree",
        [FINDING_COUNTERS] = "counters",
        [FINDING_PAST_END] = "past-end",
        [FINDING_MAP] = "map",
        [FINDING_SEGMENT_ROW] = "segment-row",
        [FINDING_SEGMENT_FILE] = "segment-file",
        [FINDING_FOOTER] = "footer",
        [FINDING_FRAME] = "frame",
        [FINDING_CHUNK] = "chunk",
        [FINDING_ORPHAN_SEGMENT] = "orphan-segment",
        [FINDING_ORPHAN_NODE] = "orphan-node",
        [FINDING_LOG] = "log",
        [FINDING_INDEX] = "index",
};
static const char *const severity_names[] = {"note", "error", "loss"};

int array_reserve(void *array_ptr, size_t n, size_t *cap, size_t element_size)
{
	void **array = array_ptr;

	if (n < *cap)
		return 0;
	const size_t want = MAX(*cap * 2, 64);
	void *p = reallocarray(*array, want, element_size);
	if (!p)
		return -ENOMEM;
	*array = p;
	*cap = want;
	return 0;
}

/* A place for one more, cleared; NULL when it is only to be counted. */
static struct finding *finding_new(struct findings *f)
{
	if (f->n >= FINDINGS_MAX || array_reserve(&f->list, f->n, &f->cap, sizeof(*f->list)) < 0) {
		f->dropped++;
		return NULL;
	}
	return &f->list[f->n++];
}

struct finding *finding_add(struct findings *f, enum finding_kind kind,
        enum finding_severity severity, const char *fmt, ...)
{
	static struct finding scratch;
	struct finding *fi = finding_new(f);
	char text[ERRMSG_LEN];
	va_list ap;

	f->counts[severity]++;
	if (!fi)
		fi = &scratch;
	*fi = (struct finding){
	        .kind = kind,
	        .severity = severity,
	        .image = FINDING_NONE,
	        .offset = FINDING_NONE,
	        .segment = FINDING_NONE,
	        .slot = FINDING_NONE,
	};
	if (fi == &scratch)
		return fi;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fi->text = strdup(text);
	return fi;
}

void finding_add_range(struct findings *f, const struct finding *range, const char *path)
{
	struct finding *last = f->n ? &f->list[f->n - 1] : NULL;

	if (last && last->kind == range->kind && last->image == range->image &&
	        last->segment == range->segment && last->severity == range->severity &&
	        last->offset != FINDING_NONE && last->offset + last->length == range->offset) {
		last->length += range->length;
		return;
	}
	struct finding *fi = finding_add(f, range->kind, range->severity, "%s", range->text);
	fi->image = range->image;
	fi->offset = range->offset;
	fi->length = range->length;
	fi->segment = range->segment;
	fi->slot = range->slot;
	if (fi->text)
		fi->path = strdup(path);
}

void finding_mark_repaired(struct findings *f, struct finding *finding)
{
	if (!finding->repaired)
		f->repaired++;
	finding->repaired = true;
}

static void mark_if(struct findings *f, struct finding *fi, bool wanted)
{
	if (wanted && fi->severity == SEVERITY_ERROR)
		finding_mark_repaired(f, fi);
}

void findings_mark_segment(struct findings *f, uint64_t segment)
{
	for (size_t i = 0; i < f->n; i++)
		mark_if(f, &f->list[i], f->list[i].segment == segment);
}

void findings_mark_kind(struct findings *f, enum finding_kind kind)
{
	for (size_t i = 0; i < f->n; i++)
		mark_if(f, &f->list[i], f->list[i].kind == kind);
}

static void finding_print(const struct finding *fi)
{
	char name[512], text[ERRMSG_LEN], size[TEXT_LEN];

	printf("%s: ", severity_names[fi->severity]);
	if (fi->path && *fi->path)
		printf("'%s': ", text_name(name, sizeof(name), fi->path));
	else if (fi->image != FINDING_NONE)
		printf("image %llu: ", (unsigned long long)fi->image);
	if (fi->offset != FINDING_NONE)
		printf("%s at offset %llu: ", text_size(size, fi->length),
		        (unsigned long long)fi->offset);
	else if (fi->image == FINDING_NONE && fi->segment != FINDING_NONE)
		printf("segment %llu: ", (unsigned long long)fi->segment);
	printf("%s%s\n", text_name(text, sizeof(text), fi->text ? fi->text : "out of memory"),
	        fi->repaired ? " (repaired)" : "");
}

void findings_print(const struct findings *f)
{
	for (size_t i = 0; i < f->n; i++)
		finding_print(&f->list[i]);
	if (f->dropped)
		printf("and %llu more\n", (unsigned long long)f->dropped);
}

static json_t *number_json(uint64_t number)
{
	return number == FINDING_NONE ? json_null() : json_integer((json_int_t)number);
}

/* A path is bytes; JSON is UTF-8: what is not is escaped as on a terminal. */
static json_t *text_json(const char *text)
{
	char safe[1024];

	if (!text)
		return json_null();
	json_t *json = json_string(text);
	return json ? json : json_string(text_name(safe, sizeof(safe), text));
}

static json_t *finding_json(const struct finding *fi)
{
	return json_pack("{s:s, s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "kind",
	        kind_names[fi->kind], "severity", severity_names[fi->severity], "repaired",
	        (int)fi->repaired, "image", number_json(fi->image), "path", text_json(fi->path),
	        "offset", number_json(fi->offset), "length",
	        number_json(fi->offset == FINDING_NONE ? FINDING_NONE : fi->length), "segment",
	        number_json(fi->segment), "slot", number_json(fi->slot), "text",
	        text_json(fi->text));
}

json_t *findings_json(const struct findings *f)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < f->n; i++)
		if (json_array_append_new(list, finding_json(&f->list[i])) < 0) {
			json_decref(list);
			list = NULL;
		}
	return list;
}

void findings_release(struct findings *f)
{
	for (size_t i = 0; i < f->n; i++) {
		free(f->list[i].path);
		free(f->list[i].text);
	}
	free(f->list);
	*f = (struct findings){0};
}
