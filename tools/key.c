/*
 * key.c - "weir key": the named keys of a datastore
 *
 * One table says what each action needs; all of them but "list" are requests to the daemon, which
 * does the work (fs/filter/keys-*.c).  Secrets are read here and go to it over the control socket.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/filter/keys.h"
#include "tools/print.h"
#include "tools/secret.h"
#include "tools/target.h"

enum {
	OPTION_KEY_FILE = 0x100,
	OPTION_PASSPHRASE_FILE,
	OPTION_RECOVERY,
	OPTION_NEW_KEY_FILE,
	OPTION_NEW_PASSPHRASE_FILE,
	OPTION_WAIT,
};

static const struct cmd_option key_options[] = {
        {OPTION_KEY_FILE, "key-file", "FILE", "the secret is what this file contains"},
        {OPTION_PASSPHRASE_FILE, "passphrase-file", "FILE",
                "the passphrase is the first line of this file (-: standard input)"},
        {OPTION_RECOVERY, "recovery", NULL, "give the recovery key instead of a passphrase"},
        {OPTION_NEW_KEY_FILE, "new-key-file", "FILE", "add: the secret that is added"},
        {OPTION_NEW_PASSPHRASE_FILE, "new-passphrase-file", "FILE",
                "add: the passphrase that is added"},
        {OPTION_WAIT, "wait", NULL,
                "rotate: until all images have moved; unlock: until all have opened"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

#define SECRETS_MAX 16 /* as many as a key has slots */

struct key_args {
	struct secret_source secrets[SECRETS_MAX]; /* [0]: asked for where none is given */
	unsigned n_secrets;
	bool recovery_next; /* the next one is a recovery key */
	bool too_many;
	struct secret_source new_secret;
	bool wait, json;
	const char *target, *name, *slot; /* slot NULL: not given */
};

typedef void key_print_fn(const struct key_args *a, const json_t *json);

struct key_action {
	const char *name;
	const char *op;
	int n_args;                       /* TARGET, NAME, SLOT */
	bool secret, new_secret, several; /* several: more secrets than one may be given */
	bool create;                      /* the secret is a new one: asked for twice */
	key_print_fn *print;
};

/* --- what is printed --- */

static void print_created(const struct key_args *a, const json_t *json)
{
	printf("created key '%s' (crypto domain %llu), and unlocked it\n", a->name,
	        (unsigned long long)json_u64(json, "domain"));
	printf("next: weir filter attach TARGET encrypt key=%s, and weir key recovery %s %s\n",
	        a->name, a->target, a->name);
}

static void print_unlocked(const struct key_args *a, const json_t *json)
{
	const uint64_t opening = json_u64(json, "opening");
	char images[TEXT_LEN];

	printf("unlocked key '%s': %s\n", a->name,
	        text_count(images, json_u64(json, "images"), "image"));
	if (opening && a->wait)
		printf("%s received sealed: open\n", text_count(images, opening, "image"));
	else if (opening)
		printf("%s received sealed: being opened in the background (weir status %s; or "
		       "--wait)\n",
		        text_count(images, opening, "image"), a->target);
}

static void print_locked(const struct key_args *a, const json_t *json)
{
	char images[TEXT_LEN];

	printf("locked key '%s': %s cannot be opened now\n", a->name,
	        text_count(images, json_u64(json, "images"), "image"));
}

static void print_added(const struct key_args *a, const json_t *json)
{
	printf("added slot %llu to key '%s'\n", (unsigned long long)json_u64(json, "slot"),
	        a->name);
}

static void print_removed(const struct key_args *a, const json_t *json)
{
	(void)json;
	printf("removed slot %s of key '%s'\n", a->slot, a->name);
}

static void print_deleted(const struct key_args *a, const json_t *json)
{
	(void)json;
	printf("deleted key '%s'\n", a->name);
}

/* The key alone on standard output, so that it can be put where it is to be kept. */
static void print_recovery(const struct key_args *a, const json_t *json)
{
	printf("%s\n", json_text(json, "recovery"));
	fprintf(stderr, "recovery key of '%s' (slot %llu): keep it safe, it is not shown again\n",
	        a->name, (unsigned long long)json_u64(json, "slot"));
}

static void print_rotated(const struct key_args *a, const json_t *json)
{
	const json_t *dropped = json_object_get(json, "dropped");
	char images[TEXT_LEN];

	printf("key '%s' has a new crypto domain, %llu; %s %s\n", a->name,
	        (unsigned long long)json_u64(json, "domain"),
	        text_count(images, json_u64(json, "images"), "image"),
	        a->wait ? "moved to it" : "to be moved to it (weir status shows how far)");
	for (size_t i = 0; i < json_array_size(dropped); i++) {
		const json_t *slot = json_array_get(dropped, i);
		const char *kind = json_text(slot, "kind");
		printf("slot %llu (%s) does not open it: %s (weir key %s %s %s)\n",
		        (unsigned long long)json_u64(slot, "slot"), kind,
		        strcmp(kind, "recovery") ? "add it again" : "make a new one",
		        strcmp(kind, "recovery") ? "add" : "recovery", a->target, a->name);
	}
}

static const struct key_action actions[] = {
        {"create", "key-create", 2, true, false, false, true, print_created},
        {"unlock", "key-unlock", 2, true, false, false, false, print_unlocked},
        {"lock", "key-lock", 2, false, false, false, false, print_locked},
        {"add", "key-add", 2, true, true, false, false, print_added},
        {"remove", "key-remove", 3, false, false, false, false, print_removed},
        {"rotate", "key-rotate", 2, true, false, true, false, print_rotated},
        {"recovery", "key-add", 2, true, false, false, false, print_recovery},
        {"delete", "key-delete", 2, false, false, false, false, print_deleted},
};

/* --- list --- */

static void slots_text(char *buf, size_t cap, const json_t *slots)
{
	size_t len = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < json_array_size(slots) && len < cap; i++) {
		const json_t *slot = json_array_get(slots, i);
		len += (size_t)snprintf(buf + len, cap - len, "%s%llu %s", i ? ", " : "",
		        (unsigned long long)json_u64(slot, "slot"), json_text(slot, "kind"));
	}
}

static void list_print(const struct target *t, const json_t *json)
{
	const json_t *keys = json_object_get(json, "keys");
	struct table table = {.align = "llrrl"};
	char number[TEXT_LEN], slots[512];

	if (json_array_size(keys) == 0) {
		printf("no keys (weir key create %s NAME)\n", t->dir);
		return;
	}
	table_add(&table, "NAME");
	table_add(&table, "STATE");
	table_add(&table, "DOMAIN");
	table_add(&table, "IMAGES");
	table_add(&table, "SLOTS");
	for (size_t i = 0; i < json_array_size(keys); i++) {
		const json_t *key = json_array_get(keys, i);
		table_add(&table, json_text(key, "name"));
		table_add(&table, json_text(key, "state"));
		snprintf(number, sizeof(number), "%llu",
		        (unsigned long long)json_u64(key, "domain"));
		table_add(&table, number);
		snprintf(number, sizeof(number), "%llu",
		        (unsigned long long)json_u64(key, "images"));
		table_add(&table, number);
		slots_text(slots, sizeof(slots), json_object_get(key, "slots"));
		table_add(&table, slots);
	}
	table_print(&table, stdout);
	table_release(&table);
}

static int list_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	(void)arg, (void)progress;
	const int r = keys_report(ds->ns, ret_json);

	return r < 0 ? errmsg_set(em, r, "cannot read the keys of '%s': %s", ds->dir, strerror(-r))
	             : 0;
}

static int list_run(const struct key_args *a)
{
	struct target_query q = {.request = json_pack("{s:s}", "op", "key-list"),
	        .doing = "reading",
	        .verb = "read",
	        .report = list_report,
	        .read_only = true};
	struct target t = {0};
	json_t *json = NULL;
	int code = target_find(&t, a->target);

	if (code == 0)
		code = target_ask(&t, &q, &json);
	if (code == 0)
		target_print(&t, json, a->json, list_print);
	json_decref(q.request);
	target_release(&t);
	return code;
}

/* --- the others --- */

/* To fields, or where these are lists, to their ends. */
static bool text_put(json_t *request, const char *field, const char *text)
{
	json_t *list = json_object_get(request, field);

	if (list)
		return json_array_append_new(list, json_string(text)) == 0;
	return json_object_set_new(request, field, json_string(text)) == 0;
}

static int secret_put(json_t *request, const char *kind_field, const char *field,
        const struct secret_source *from, const struct key_args *a, bool twice)
{
	struct secret_text s = {0};
	struct errmsg em = {""};
	char what[96];

	snprintf(what, sizeof(what), "key '%.80s'", a->name);
	if (secret_get(from, what, twice, &s, &em) < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text);
	const bool good =
	        text_put(request, kind_field, s.kind) && text_put(request, field, s.base64);
	secret_text_release(&s);
	return good ? 0 : cmd_fail(WEIR_EXIT_FAILED, "out of memory");
}

/* The first, and more in lists. */
static int secrets_put(json_t *request, const struct key_args *a, bool twice)
{
	int code = secret_put(request, "kind", "secret", &a->secrets[0], a, twice);

	if (a->n_secrets > 1 && (json_object_set_new(request, "kinds", json_array()) < 0 ||
	                                json_object_set_new(request, "secrets", json_array()) < 0))
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	for (unsigned i = 1; code == 0 && i < a->n_secrets; i++)
		code = secret_put(request, "kinds", "secrets", &a->secrets[i], a, false);
	return code;
}

/* 0, or an exit code, reported. */
static int request_fill(json_t *request, const struct key_action *action, const struct key_args *a)
{
	int code = 0;

	if (action->secret)
		code = secrets_put(request, a, action->create);
	if (code == 0 && action->new_secret)
		code = secret_put(request, "new_kind", "new_secret", &a->new_secret, a, true);
	if (code == 0 && action->print == print_recovery &&
	        json_object_set_new(request, "new_kind", json_string("recovery")) < 0)
		code = cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	if (code == 0 && a->slot &&
	        json_object_set_new(
	                request, "slot", json_integer((json_int_t)strtoul(a->slot, NULL, 10))) < 0)
		code = cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	return code;
}

static int request_send(const struct key_action *action, const struct key_args *a,
        const struct target *t, json_t *request)
{
	struct progress progress;
	struct errmsg em = {""};
	json_t *json = NULL;

	progress_begin(
	        &progress, action->print == print_unlocked ? "opening" : "moving", PROGRESS_BYTES);
	const int r = control_call(t->dir, request, progress_update, &progress, &json, &em);
	progress_end(&progress);
	if (r == -ENOTCONN)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "datastore '%s' is not mounted (weir mount %s MOUNTPOINT)", t->dir, t->dir);
	if (r < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text);
	if (a->json)
		cmd_print_json(json);
	else
		action->print(a, json);
	json_decref(json);
	return WEIR_EXIT_OK;
}

static int action_run(const struct key_action *action, const struct key_args *a)
{
	struct target t = {0};
	json_t *request =
	        json_pack("{s:s, s:s, s:b}", "op", action->op, "name", a->name, "wait", a->wait);
	int code = request ? target_find(&t, a->target)
	                   : cmd_fail(WEIR_EXIT_USAGE, "'%s' is no name of a key", a->name);

	if (code == 0)
		code = request_fill(request, action, a);
	if (code == 0)
		code = request_send(action, a, &t, request);
	json_decref(request);
	target_release(&t);
	return code;
}

/* --- the command line --- */

static void secret_add(struct key_args *a, struct secret_source s)
{
	if (a->n_secrets < SECRETS_MAX)
		a->secrets[a->n_secrets++] = s;
	else
		a->too_many = true;
}

static void option_take(struct key_args *a, int id)
{
	switch (id) {
	case OPTION_KEY_FILE:
		secret_add(a, (struct secret_source){.key_file = optarg});
		break;
	case OPTION_PASSPHRASE_FILE:
		secret_add(a, (struct secret_source){
		                      .passphrase_file = optarg, .recovery = a->recovery_next});
		a->recovery_next = false;
		break;
	case OPTION_RECOVERY:
		a->recovery_next = true;
		break;
	case OPTION_NEW_KEY_FILE:
		a->new_secret.key_file = optarg;
		break;
	case OPTION_NEW_PASSPHRASE_FILE:
		a->new_secret.passphrase_file = optarg;
		break;
	case OPTION_WAIT:
		a->wait = true;
		break;
	default:
		a->json = true;
		break;
	}
}

/* --recovery after the only file is of that one; with no file behind it, the key is asked for. */
static void secrets_settle(struct key_args *a)
{
	if (!a->recovery_next)
		return;
	if (a->n_secrets == 1 && a->secrets[0].passphrase_file)
		a->secrets[0].recovery = true;
	else
		secret_add(a, (struct secret_source){.recovery = true});
}

static const struct key_action *action_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(actions); i++)
		if (!strcmp(actions[i].name, name))
			return &actions[i];
	return NULL;
}

static int refuse_action(const struct command *cmd, const char *name)
{
	const char *names[ARRAY_SIZE(actions) + 2] = {"list"};

	for (size_t i = 0; i < ARRAY_SIZE(actions); i++)
		names[i + 1] = actions[i].name;
	const char *near = word_near(name, names);
	if (near)
		return cmd_misused(cmd, "unknown action '%s', did you mean '%s'?", name, near);
	return cmd_misused(cmd, "unknown action '%s'", name);
}

/* What an action does not take is refused, rather than left aside. */
static int args_refuse(
        const struct command *cmd, const struct key_action *action, const struct key_args *a)
{
	const struct secret_source *n = &a->new_secret;
	const char *name = action ? action->name : "list";

	if (a->n_secrets > 0 && !(action && action->secret))
		return cmd_misused(cmd, "%s takes no secret", name);
	if ((n->key_file || n->passphrase_file) && !(action && action->new_secret))
		return cmd_misused(cmd, "%s adds no secret", name);
	if ((a->n_secrets > 1 && !action->several) || (n->key_file && n->passphrase_file))
		return cmd_misused(cmd, "give one secret: a key file or a passphrase");
	if (a->too_many)
		return cmd_misused(cmd, "a key has at most %d secrets", SECRETS_MAX);
	if (action && action->create && a->secrets[0].recovery)
		return cmd_misused(cmd, "a key is not created with a recovery key");
	if (a->wait &&
	        !(action && (action->print == print_rotated || action->print == print_unlocked)))
		return cmd_misused(cmd, "%s has nothing to wait for", name);
	if (a->slot && (!*a->slot || strlen(a->slot) > 4 ||
	                       strspn(a->slot, "0123456789") != strlen(a->slot)))
		return cmd_misused(cmd, "'%s' is no number of a slot", a->slot);
	return 0;
}

static int key_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const names[] = {"ACTION", "TARGET", "NAME", "SLOT"};
	struct key_args a = {0};
	int id;

	secret_protect();
	while ((id = cmd_option_next(cmd, argc, argv)) > 0)
		option_take(&a, id);
	secrets_settle(&a);
	if (id < 0 || cmd_args_check(cmd, argc, argv, names, 1, -1))
		return WEIR_EXIT_USAGE;
	const char *word = argv[optind];
	const struct key_action *action = action_find(word);
	const bool list = !strcmp(word, "list");
	if (!action && !list)
		return refuse_action(cmd, word);
	const int n = 1 + (list ? 1 : action->n_args);
	if (cmd_args_check(cmd, argc, argv, names, n, n))
		return WEIR_EXIT_USAGE;
	a.target = argv[optind + 1];
	a.name = n > 2 ? argv[optind + 2] : NULL;
	a.slot = n > 3 ? argv[optind + 3] : NULL;
	if (args_refuse(cmd, action, &a))
		return WEIR_EXIT_USAGE;
	return list ? list_run(&a) : action_run(action, &a);
}

const struct command cmd_key = {
        .name = "key",
        .synopsis = "ACTION TARGET [NAME [SLOT]] [OPTIONS]",
        .summary = "Keys of encrypted images: create, unlock, lock, rotate",
        .details =
                "Actions:\n"
                "  create TARGET NAME       make a key; it is unlocked then\n"
                "  list TARGET              the keys, their state and their slots\n"
                "  unlock TARGET NAME       images of this key can be opened until it is locked\n"
                "  lock TARGET NAME         the key leaves the daemon's memory\n"
                "  add TARGET NAME          one more passphrase or key file that opens it\n"
                "  remove TARGET NAME SLOT  a passphrase or key file opens it no longer\n"
                "  recovery TARGET NAME     make a recovery key, and show it once\n"
                "  rotate TARGET NAME       a new data key; images are rewritten with it\n"
                "  delete TARGET NAME       forget a key that nothing uses\n"
                "Without an option a passphrase is asked for on the terminal.  rotate takes "
                "several "
                "secrets:\n"
                "each of them opens the key afterwards.",
        .options = key_options,
        .run = key_run,
};
