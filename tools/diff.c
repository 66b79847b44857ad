/*
 * diff.c - "weir diff": where two states of an image differ
 *
 * An answer holds a limited number of extents; more are asked for from where it ended.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/control/text.h"
#include "tools/image-name.h"
#include "tools/print.h"
#include "tools/target.h"

static const struct cmd_option diff_options[] = {
        {'j', "json", NULL, "print JSON, as qemu-img map --output=json does"},
        {0},
};

struct extent {
	uint64_t start, len;
	const char *state; /* "data", "zero", "hole" */
};

struct diff {
	bool as_json;
	uint64_t n, bytes;  /* printed */
	struct extent last; /* an answer may have ended within an extent */
	bool pending;
};

/* An image is raw: what is there is at its own offset. */
static void extent_print_json(const struct extent *e, const char *before)
{
	const bool data = !strcmp(e->state, "data"), hole = !strcmp(e->state, "hole");
	const unsigned long long start = e->start, len = e->len;

	printf("%s{ \"start\": %llu, \"length\": %llu, \"depth\": 0, \"present\": %s, "
	       "\"zero\": %s, \"data\": %s",
	        before, start, len, hole ? "false" : "true", data ? "false" : "true",
	        data ? "true" : "false");
	if (hole)
		putchar('}');
	else
		printf(", \"offset\": %llu}", start);
}

static void extent_print(struct diff *d)
{
	const struct extent *e = &d->last;

	if (!d->pending)
		return;
	if (d->as_json)
		extent_print_json(e, d->n ? ",\n" : "[");
	else
		printf("%16llu %16llu  %s\n", (unsigned long long)e->start,
		        (unsigned long long)e->len, e->state);
	d->n++;
	d->bytes += e->len;
	d->pending = false;
}

static const char *state_of(const json_t *extent)
{
	static const char *const states[] = {"data", "zero", "hole"};
	const char *text = json_string_value(json_array_get(extent, 2));

	for (unsigned i = 0; text && i < ARRAY_SIZE(states); i++)
		if (!strcmp(text, states[i]))
			return states[i];
	return "data";
}

static void extents_take(struct diff *d, const json_t *list)
{
	const json_t *extent;
	size_t i;

	json_array_foreach(list, i, extent)
	{
		const struct extent e = {
		        (uint64_t)json_integer_value(json_array_get(extent, 0)),
		        (uint64_t)json_integer_value(json_array_get(extent, 1)),
		        state_of(extent),
		};
		if (d->pending && d->last.state == e.state &&
		        d->last.start + d->last.len == e.start) {
			d->last.len += e.len;
			continue;
		}
		extent_print(d);
		d->last = e;
		d->pending = true;
	}
}

static json_t *request_make(const struct target *a, const struct image_name *a_name,
        const struct target *b, const struct image_name *b_name, uint64_t from)
{
	json_t *json = json_pack("{s:s, s:o, s:o, s:I}", "op", "diff", "target",
	        text_json(a->sub + strspn(a->sub, "/")), "other",
	        text_json(b->sub + strspn(b->sub, "/")), "offset", (json_int_t)from);

	if (a_name->name)
		json_object_set_new(json, "name", text_json(a_name->name));
	if (b_name->name)
		json_object_set_new(json, "other_name", text_json(b_name->name));
	return json;
}

static int diff_ask(struct target *a, const struct image_name *a_name, const struct target *b,
        const struct image_name *b_name, struct diff *d)
{
	uint64_t from = 0;
	bool more = true;
	int code = 0;

	while (code == 0 && more) {
		struct target_query q = {.doing = "comparing", .verb = "compare images of"};
		json_t *json;
		q.request = request_make(a, a_name, b, b_name, from);
		code = target_ask(a, &q, &json);
		if (code)
			break;
		const json_t *next = json_object_get(json, "next");
		extents_take(d, json_object_get(json, "extents"));
		more = json_is_integer(next);
		from = more ? (uint64_t)json_integer_value(next) : 0;
		json_decref(json);
	}
	return code;
}

static int diff_print(struct target *a, const struct image_name *a_name, const struct target *b,
        const struct image_name *b_name, bool as_json)
{
	struct diff d = {.as_json = as_json};
	char size[TEXT_LEN], count[TEXT_LEN];

	if (!a->mountpoint || !b->mountpoint || strcmp(a->dir, b->dir))
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot compare '%s' and '%s': both must be in the mount of one datastore",
		        a_name->path, b_name->path);
	const int code = diff_ask(a, a_name, b, b_name, &d);
	if (code)
		return code;
	extent_print(&d);
	if (as_json)
		puts(d.n ? "]" : "[]");
	else
		printf("%s, %s\n", text_count(count, d.n, "extent"), text_size(size, d.bytes));
	return cmd_finish(WEIR_EXIT_OK);
}

static int diff_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"A", "B"};
	struct image_name names[2] = {0};
	struct target targets[2] = {0};
	bool as_json = false;
	int id, code = 0;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0)
		as_json = true;
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 2, 2))
		return WEIR_EXIT_USAGE;
	for (int i = 0; i < 2 && code == 0; i++) {
		if (image_name_parse(argv[optind + i], &names[i]) < 0)
			code = cmd_fail(WEIR_EXIT_FAILED, "out of memory");
		else
			code = target_find(&targets[i], names[i].path);
	}
	if (code == 0)
		code = diff_print(&targets[0], &names[0], &targets[1], &names[1], as_json);
	for (int i = 0; i < 2; i++) {
		target_release(&targets[i]);
		image_name_release(&names[i]);
	}
	return code;
}

const struct command cmd_diff = {
        .name = "diff",
        .synopsis = "A B [--json]",
        .summary = "Print the extents in which B differs from A",
        .details =
                "A and B: IMAGE@NAME, a snapshot, or IMAGE, as it is now.  What is printed is "
                "what is in B:\n"
                "data, zero (allocated zeros) or hole.  As long as content was not written anew, "
                "it is not\n"
                "looked at: it takes as long as there are differences.",
        .options = diff_options,
        .run = diff_run,
};
