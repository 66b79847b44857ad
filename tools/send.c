/*
 * send.c - "weir send": a snapshot of an image as a stream
 *
 * The daemon of a mount does it, writing into a pipe that comes with the request; of a datastore that is
 * not mounted this process reads it itself.  Either way the stream ends when this process does.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/control/text.h"
#include "fs/stream/send.h"
#include "tools/image-name.h"
#include "tools/print.h"
#include "tools/stream-pipe.h"
#include "tools/target.h"

static const struct cmd_option send_options[] = {
        {'f', "from", "NAME", "only what changed since this snapshot of the image"},
        {'t', "to", "COMMAND", "run a receiver, and send what it lacks"},
        {'r', "resume", "TOKEN", "go on where a receiver was cut off, as it printed"},
        {'w', "raw", NULL, "encrypted, as it is stored, without its key"},
        {'n', "dry-run", NULL, "send nothing: tell how much it would be"},
        {'i', "image", "PATH", "the image, when the datastore is not mounted"},
        {'j', "json", NULL, "print JSON; to stderr if the stream goes to stdout"},
        {0},
};

struct send {
	struct image_name source; /* owned */
	const char *from, *to, *resume, *image;
	bool raw, dry_run, as_json;
	const char *path; /* in the datastore; of the target */
	struct control_fds fds;
};

static int options_read(const struct command *cmd, int argc, char **argv, struct send *s)
{
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0) {
		switch (id) {
		case 'f':
			s->from = optarg;
			break;
		case 't':
			s->to = optarg;
			break;
		case 'r':
			s->resume = optarg;
			break;
		case 'i':
			s->image = optarg;
			break;
		case 'w':
			s->raw = true;
			break;
		case 'n':
			s->dry_run = true;
			break;
		default:
			s->as_json = true;
		}
	}
	return id < 0 ? WEIR_EXIT_USAGE : 0;
}

static int options_check(const struct command *cmd, const struct send *s)
{
	if (s->dry_run && (s->to || s->resume))
		return cmd_misused(cmd, "--dry-run sends nothing: not with --to or --resume");
	if (s->to && s->resume)
		return cmd_misused(cmd, "with --to the receiver itself says where to go on: no "
		                        "--resume");
	if (!s->dry_run && !s->to && isatty(STDOUT_FILENO))
		return cmd_misused(cmd,
		        "a stream is not for a terminal: write it to a file (> FILE), "
		        "or use --to");
	return 0;
}

/* --- asking --- */

static int send_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	const struct send *s = arg;
	const struct send_request rq = {
	        .target = s->path,
	        .name = s->source.name,
	        .from = s->from,
	        .resume = s->resume,
	        .raw = s->raw,
	        .dry_run = s->dry_run,
	};
	const struct send_io io = {
	        .out_fd = s->fds.n > 0 ? s->fds.fds[0] : -1,
	        .in_fd = s->fds.n > 1 ? s->fds.fds[1] : -1,
	        .cancel_fd = -1,
	};

	return stream_send(ds, &rq, &io, progress_update, progress, ret_json, em);
}

static json_t *request_make(const struct send *s)
{
	json_t *json =
	        json_pack("{s:s, s:o, s:o, s:b, s:b}", "op", "send", "target", text_json(s->path),
	                "name", text_json(s->source.name), "dry_run", s->dry_run, "raw", s->raw);

	if (json && s->from)
		json_object_set_new(json, "from", text_json(s->from));
	if (json && s->resume)
		json_object_set_new(json, "token", text_json(s->resume));
	return json;
}

/* 0 and the answer; or reported, but that *ret_gone: nobody reads any more. */
static int send_ask(struct send *s, struct target *t, json_t **ret_json, bool *ret_gone)
{
	struct target_query q = {
	        .request = request_make(s),
	        .doing = s->dry_run ? "comparing" : "sending",
	        .verb = "send from",
	        .report = send_report,
	        .arg = s,
	        .read_only = true,
	        .fds = s->fds.n ? &s->fds : NULL,
	        .in_bytes = true,
	        .silent = -EPIPE,
	        .ret_silent = ret_gone,
	};

	return target_ask(t, &q, ret_json);
}

static int pipe_open(struct send *s, struct stream_pipe *p)
{
	struct errmsg em = {0};
	const int r = s->to ? stream_pipe_command(p, s->to, &em) : stream_pipe_stdout(p, &em);

	if (r < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text);
	s->fds.fds[0] = p->write_fd;
	s->fds.fds[1] = p->read_fd;
	s->fds.n = s->to ? 2 : 1;
	return 0;
}

/* What was wrong is said once: by who read, if it knew more than that nobody reads. */
static int send_through(struct send *s, struct target *t, json_t **ret_json)
{
	struct stream_pipe p;
	struct errmsg em = {0};
	bool gone = false;
	int code = pipe_open(s, &p);

	if (code)
		return code;
	code = send_ask(s, t, ret_json, &gone);
	if (stream_pipe_finish(&p, &em) == 0 && !gone)
		return code;
	if (code == 0 || gone)
		code = cmd_fail(WEIR_EXIT_FAILED, "%s",
		        em.text[0] ? em.text : "the receiving command ended before it had all");
	json_decref(*ret_json);
	*ret_json = NULL;
	return code;
}

/* --- printing --- */

static void dry_print(const struct send *s, const json_t *json)
{
	char data[TEXT_LEN], estimate[TEXT_LEN];

	printf("%s@%s: %s of content, about %s as a stream\n", s->source.path,
	        json_text(json, "snapshot"), text_size(data, json_u64(json, "data_bytes")),
	        text_size(estimate, json_u64(json, "estimate_bytes")));
}

static void sent_print(const struct send *s, const json_t *json)
{
	char sent[TEXT_LEN], data[TEXT_LEN], had[TEXT_LEN];
	const uint64_t had_bytes = json_u64(json, "had_bytes");

	fprintf(stderr, "%s@%s: sent %s of content in %s", s->source.path,
	        json_text(json, "snapshot"), text_size(data, json_u64(json, "data_bytes")),
	        text_size(sent, json_u64(json, "stream_bytes")));
	if (had_bytes)
		fprintf(stderr, "; the receiver had %s", text_size(had, had_bytes));
	fputc('\n', stderr);
}

static void send_print(const struct send *s, const json_t *json)
{
	if (s->as_json && (s->dry_run || s->to)) {
		cmd_print_json(json);
	} else if (s->as_json) {
		json_dumpf(json, stderr, JSON_INDENT(2));
		fputc('\n', stderr);
	} else if (s->dry_run) {
		dry_print(s, json);
	} else if (isatty(STDERR_FILENO)) {
		sent_print(s, json);
	}
}

/* --- the command --- */

static int path_find(struct send *s, const struct target *t)
{
	s->path = t->sub + strspn(t->sub, "/");
	if (s->image && t->mountpoint && *s->path)
		return cmd_fail(
		        WEIR_EXIT_USAGE, "--image is for a datastore, '%s' is in one", t->sub);
	if (s->image)
		s->path = s->image;
	if (!*s->path)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot send '%s': name one image (IMAGE@NAME; of a datastore that is not "
		        "mounted: DATASTORE@NAME --image PATH)",
		        s->source.path);
	return 0;
}

static int send_named(struct send *s)
{
	struct target t = {0};
	json_t *json = NULL;
	bool gone; /* nobody reads a dry run */
	int code = target_find(&t, s->source.path);

	if (code == 0)
		code = path_find(s, &t);
	if (code == 0)
		code = s->dry_run ? send_ask(s, &t, &json, &gone) : send_through(s, &t, &json);
	if (code == 0)
		send_print(s, json);
	json_decref(json);
	target_release(&t);
	return code ? code : cmd_finish(WEIR_EXIT_OK);
}

static int send_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"IMAGE@NAME"};
	struct send s = {0};
	int code = options_read(cmd, argc, argv, &s);

	if (code == 0)
		code = cmd_args_check(cmd, argc, argv, args, 1, 1);
	if (code == 0)
		code = options_check(cmd, &s);
	if (code)
		return code;
	if (image_name_parse(argv[optind], &s.source) < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	signal(SIGPIPE, SIG_IGN); /* who reads may go: that is a message, not a death */
	if (s.source.name)
		code = send_named(&s);
	else
		code = cmd_fail(WEIR_EXIT_FAILED,
		        "cannot send '%s': name a snapshot of it (IMAGE@NAME; weir snapshot "
		        "create)",
		        s.source.path);
	image_name_release(&s.source);
	return code;
}

const struct command cmd_send = {
        .name = "send",
        .synopsis = "IMAGE@NAME [--from NAME] [--to COMMAND | > FILE]",
        .summary = "Write a snapshot of an image, or what changed, as a stream",
        .details =
                "weir receive makes a snapshot of an image from it again, in any datastore.  With "
                "--to the\n"
                "receiver is run and asked, so that content that it has is not sent: weir send "
                "vm/a.raw@s2\n"
                "--from s1 --to 'ssh backup weir receive /mnt/copies/a.raw'.  What is "
                "encrypted is decrypted\n"
                "for it: its key must be unlocked.",
        .options = send_options,
        .run = send_run,
};
