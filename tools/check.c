/*
 * check.c - "weir check" and "fsck.weir": the command, and the order of work
 *
 * check.h says what the parts are.  The datastore is locked for as long as this runs (shared, or
 * alone with --repair), so no daemon changes it meanwhile.  Without --repair nothing is written.
 */
#include "tools/check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/lock.h"
#include "tools/print.h"
#include "tools/target.h"

#define CHECK_KEYS_MAX 16u

void check_release(struct check *c)
{
	ns_close(c->ns);
	meta_close(c->meta);
	io_free(c->io);
	if (c->file)
		free(c->file->buf);
	free(c->file);
	free(c->log_segments);
	free(c->nodes);
	keyring_free(c->keys);
	findings_release(&c->findings);
	check_table_release(&c->table);
	repair_list_release(&c->fix);
}

int check_open(struct check *c, struct errmsg *em)
{
	int r = io_posix_open(c->dir, &c->io, em);

	if (r == 0)
		r = meta_open(c->io, !c->repair, &c->meta, em);
	if (r == 0)
		r = ns_open(c->meta, &c->ns, em);
	if (r == 0) {
		r = c->meta->ops->state_get(c->meta, &c->state);
		if (r < 0)
			errmsg_set(em, r, "cannot read the state of datastore '%s': %s", c->dir,
			        strerror(-r));
	}
	if (r < 0)
		return r;
	c->fix.state = c->state;
	r = keyring_new(c->state.uuid, c->state.domain_key, &c->keys);
	if (r < 0)
		return errmsg_set(em, r, "out of memory");
	c->file = calloc(1, sizeof(*c->file));
	if (c->file)
		c->file->buf = malloc(SEGMENT_BYTES_MAX);
	if (!c->file || !c->file->buf)
		return errmsg_set(em, -ENOMEM, "out of memory");
	return 0;
}

/* One batch: load, walk the maps, report, repair.  whole: this is the first walk. */
static int batch_run(struct check *c, size_t first, size_t n, bool whole)
{
	int r = check_batch_load(c, first, n);

	if (r == 0)
		r = check_images(c, whole);
	if (r == 0) {
		check_batch_report(c, first, n);
		if (c->repair)
			r = repair_batch(c, first, n);
	}
	check_batch_release(c, first, n);
	return r;
}

int check_all(struct check *c)
{
	int r = check_namespace(c);

	if (r == 0)
		r = check_log(c);
	if (r == 0)
		r = check_parked(c);
	if (r == 0)
		r = check_index(c);
	if (r == 0)
		r = check_table_read(c);
	if (r == 0)
		r = check_nodes_read(c);
	size_t first = 0;
	do {
		const size_t n = MIN(c->table.n - first, BATCH_SEGMENTS_MAX);
		if (r == 0)
			r = batch_run(c, first, n, first == 0);
		first += n;
	} while (r == 0 && first < c->table.n);
	if (r < 0)
		return r;
	check_nodes_report(c);
	if (c->repair)
		r = repair_log(c);
	if (r == 0 && c->repair)
		r = repair_commit(c);
	return r;
}

int check_exit_code(const struct check *c)
{
	const uint64_t *counts = c->findings.counts;
	uint64_t errors_repaired = 0;

	for (size_t i = 0; i < c->findings.n; i++)
		errors_repaired += c->findings.list[i].repaired &&
		                   c->findings.list[i].severity == SEVERITY_ERROR;
	if (counts[SEVERITY_LOSS] || counts[SEVERITY_ERROR] > errors_repaired)
		return WEIR_EXIT_DAMAGED;
	return c->findings.repaired ? WEIR_EXIT_REPAIRED : WEIR_EXIT_OK;
}

static double dead_share(const struct check_summary *s)
{
	return s->slots > s->referenced_chunks
	               ? (double)(s->slots - s->referenced_chunks) / (double)s->slots
	               : 0;
}

static const char *verdict(int code)
{
	return code == WEIR_EXIT_OK ? "clean" : code == WEIR_EXIT_REPAIRED ? "repaired" : "damaged";
}

static void locked_print(const struct check_summary *s)
{
	char a[TEXT_LEN], b[TEXT_LEN], d[TEXT_LEN];

	if (s->parked_records)
		printf("%s: flushed before a crash, applied when the key comes\n",
		        text_count(a, s->parked_records, "log record"));
	if (s->locked_leaves || s->locked_frames || s->locked_records)
		printf("encrypted and not looked into: %s, %s, %s (--key FILE)\n",
		        text_count(a, s->locked_leaves, "map node"),
		        text_count(b, s->locked_frames, "frame"),
		        text_count(d, s->locked_records, "log record"));
}

static void check_print(const struct check *c, int code)
{
	const struct check_summary *s = &c->sum;
	char a[TEXT_LEN], b[TEXT_LEN], d[TEXT_LEN], e[TEXT_LEN];

	findings_print(&c->findings);
	printf("%s: %s, %s (%s), %s of the chunks dead\n", verdict(code),
	        text_count(a, s->images, "image"), text_count(b, s->segments, "segment"),
	        text_size(d, s->file_bytes), text_share(e, dead_share(s)));
	if (s->snapshots)
		printf("%s of images\n", text_count(a, s->snapshots, "snapshot"));
	if (s->log_bytes)
		printf("the intent log holds %s: the next mount replays it\n",
		        text_size(a, s->log_bytes));
	locked_print(s);
	if (code == WEIR_EXIT_DAMAGED)
		printf("%s, %s: %s\n", text_count(a, c->findings.counts[SEVERITY_ERROR], "error"),
		        text_count(b, c->findings.counts[SEVERITY_LOSS], "loss report"),
		        c->repair ? "what is lost reads as an I/O error until it is written again"
		                  : "see what can be repaired with --repair");
	else if (!c->data)
		printf("contents were not read: --data does that\n");
}

static json_t *summary_json(const struct check_summary *s)
{
	return json_pack(
	        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:I, "
	        "s:I, s:I, s:I, s:I}",
	        "inodes", (json_int_t)s->inodes, "images", (json_int_t)s->images, "snapshots",
	        (json_int_t)s->snapshots, "nodes", (json_int_t)s->nodes, "segments",
	        (json_int_t)s->segments, "file_bytes", (json_int_t)s->file_bytes, "slots",
	        (json_int_t)s->slots, "referenced_chunks", (json_int_t)s->referenced_chunks,
	        "dead_share", dead_share(s), "data_chunks", (json_int_t)s->data_chunks,
	        "zero_chunks", (json_int_t)s->zero_chunks, "frames_verified",
	        (json_int_t)s->frames_verified, "chunks_verified", (json_int_t)s->chunks_verified,
	        "log_records", (json_int_t)s->log_records, "log_bytes", (json_int_t)s->log_bytes,
	        "locked_leaves", (json_int_t)s->locked_leaves, "locked_frames",
	        (json_int_t)s->locked_frames, "locked_records", (json_int_t)s->locked_records,
	        "parked_records", (json_int_t)s->parked_records);
}

static int check_print_json(const struct check *c, int code)
{
	json_t *json = json_pack("{s:s, s:b, s:b, s:b, s:i, s:I, s:I, s:I, s:o, s:o, s:I}",
	        "datastore", c->dir, "data", (int)c->data, "repair", (int)c->repair, "clean",
	        (int)(code == WEIR_EXIT_OK), "exit_code", code, "notes",
	        (json_int_t)c->findings.counts[SEVERITY_NOTE], "errors",
	        (json_int_t)c->findings.counts[SEVERITY_ERROR], "losses",
	        (json_int_t)c->findings.counts[SEVERITY_LOSS], "summary", summary_json(&c->sum),
	        "findings", findings_json(&c->findings), "findings_dropped",
	        (json_int_t)c->findings.dropped);

	if (!json)
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	cmd_print_json(json);
	json_decref(json);
	return code;
}

/* meta.db cannot be opened: that is all there is to say. */
static int check_hopeless(struct check *c, int r, const struct errmsg *em)
{
	if (r == -ENOMEM || r == -EMEDIUMTYPE || r == -EPROTONOSUPPORT || r == -EACCES ||
	        r == -EROFS)
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em->text[0] ? em->text : strerror(-r));
	finding_add(&c->findings, FINDING_METADATA, SEVERITY_LOSS, "%s",
	        em->text[0] ? em->text : strerror(-r));
	return WEIR_EXIT_DAMAGED;
}

struct check_args {
	bool data, repair, json, no_change;
	const char *keys[CHECK_KEYS_MAX];
	unsigned n_keys;
};

static int check_dir(struct check *c, const struct check_args *a)
{
	struct errmsg em = {0};
	int code, r = check_open(c, &em);

	for (unsigned i = 0; r == 0 && i < a->n_keys; i++)
		if (check_key_add(c, a->keys[i], &em) < 0)
			return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text);
	if (r < 0) {
		code = check_hopeless(c, r, &em);
		if (code != WEIR_EXIT_DAMAGED)
			return code;
	} else {
		r = check_all(c);
		if (r < 0)
			return cmd_fail(WEIR_EXIT_FAILED, "cannot %s datastore '%s': %s",
			        c->repair ? "repair" : "check", c->dir, strerror(-r));
		code = check_exit_code(c);
	}
	if (a->json)
		return check_print_json(c, code);
	check_print(c, code);
	return code;
}

static int check_target(const struct check_args *a, const char *arg)
{
	struct target t = {0};
	struct errmsg em = {0};
	int fd = -1;
	int code = target_find(&t, arg);

	if (code == 0 && t.pid)
		code = cmd_fail(WEIR_EXIT_FAILED,
		        "cannot check datastore '%s': mounted by pid %ld (weir umount %s)", t.dir,
		        t.pid, t.dir);
	if (code == 0 && lock_take(t.dir, !a->repair, &fd, &em) < 0)
		code = cmd_fail(WEIR_EXIT_FAILED, "%s", em.text);
	if (code == 0) {
		struct check c = {.dir = t.dir, .data = a->data, .repair = a->repair};
		code = check_dir(&c, a);
		check_release(&c);
	}
	if (fd >= 0)
		close(fd);
	target_release(&t);
	return code;
}

enum { OPTION_DATA = 0x100, OPTION_REPAIR, OPTION_KEY };

static int check_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"TARGET"};
	struct check_args a = {0};
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0)
		switch (id) {
		case OPTION_DATA:
			a.data = true;
			break;
		case OPTION_REPAIR:
		case 'a':
		case 'p':
		case 'y':
			a.repair = true;
			break;
		case OPTION_KEY:
			if (a.n_keys == CHECK_KEYS_MAX)
				return cmd_misused(cmd, "too many --key options");
			a.keys[a.n_keys++] = optarg;
			break;
		case 'n':
			a.no_change = true;
			break;
		case 'j':
			a.json = true;
			break;
		case 'V':
			printf("%s (weir) %s\n", cmd->name, WEIR_VERSION);
			return WEIR_EXIT_OK;
		default: /* of fsck, without a meaning here */
			break;
		}
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 1, 1))
		return WEIR_EXIT_USAGE;
	if (a.no_change && a.repair)
		return cmd_misused(cmd, "-n forbids what -a, -p, -y and --repair ask for");
	return check_target(&a, argv[optind]);
}

#define CHECK_DETAILS                                                                              \
	"Reads every structure of a datastore that is not mounted, on its own, without the "       \
	"engine.\n"                                                                                \
	"Says exactly what is damaged: image, offset, length, segment.\n\n"                        \
	"Exit code: 0 clean, 1 all repaired, 4 damage left, 8 failed, 16 wrong usage."

static const struct cmd_option check_options[] = {
        {OPTION_DATA, "data", NULL, "read all content too: every checksum, every chunk's hash"},
        {OPTION_REPAIR, "repair", NULL, "repair what can be, and say what was lost"},
        {OPTION_KEY, "key", "FILE", "look into what a key file opens; may be repeated"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

const struct command cmd_check = {
        .name = "check",
        .synopsis = "TARGET [--data] [--repair] [--key FILE] [--json]",
        .summary = "Check a datastore that is not mounted, and repair it",
        .details = CHECK_DETAILS,
        .options = check_options,
        .run = check_run,
};

static const struct cmd_option fsck_options[] = {
        {'a', NULL, NULL, "repair what can be (also -p, -y)"},
        {'p', NULL, NULL, NULL},
        {'y', NULL, NULL, NULL},
        {'n', NULL, NULL, "change nothing (the default)"},
        {'f', NULL, NULL, "ignored: a check is always made"},
        {'V', NULL, NULL, "print the version"},
        {'C', NULL, "FD", "ignored: progress is shown on a terminal"},
        {OPTION_DATA, "data", NULL, "read all content too: every checksum, every chunk's hash"},
        {OPTION_REPAIR, "repair", NULL, "repair what can be, and say what was lost"},
        {OPTION_KEY, "key", "FILE", "look into what a key file opens; may be repeated"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

const struct command cmd_fsck = {
        .name = "fsck.weir",
        .synopsis = "[-apynfV] [-C FD] TARGET [--data] [--key FILE] [--json]",
        .summary = "Check a datastore that is not mounted, and repair it",
        .details = CHECK_DETAILS,
        .options = fsck_options,
        .run = check_run,
};
