/*
 * scan-yara.c - signatures, by libyara (https://yara.readthedocs.io/en/stable/capi.html)
 *
 * libyara is initialized once and never finalized: it counts its users without a lock.  A compiled
 * rule set is constant; the scanner on it is used by one thread at a time, which the caller sees to.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "stage/builtin/scan-engine.h"

#ifdef WEIR_YARA

#include <yara.h>

struct yara {
	YR_RULES *rules;
	YR_SCANNER *scanner;
	/* of the scan under way */
	size_t from, to;
	bool found;
	char name[SCAN_NAME_LEN];
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int once_result;

static void initialize(void)
{
	once_result = yr_initialize();
}

static int error_of(int yara_error)
{
	switch (yara_error) {
	case ERROR_SUCCESS:
		return 0;
	case ERROR_SCAN_TIMEOUT:
		return -ETIMEDOUT;
	case ERROR_INSUFFICIENT_MEMORY:
		return -ENOMEM;
	default:
		return -EIO;
	}
}

/* The first error of a compilation is the one that helps. */
struct compile_errors {
	struct errmsg *em;
	const char *path;
	bool any;
};

static void on_compile_message(
        int level, const char *file, int line, const YR_RULE *rule, const char *message, void *arg)
{
	struct compile_errors *e = arg;

	if (level != YARA_ERROR_LEVEL_ERROR || e->any)
		return;
	e->any = true;
	errmsg_set(e->em, -EINVAL, "cannot use rules '%s': line %d: %s", e->path, line, message);
}

static int rules_compile(const char *path, YR_RULES **ret_rules, struct errmsg *em)
{
	struct compile_errors errors = {em, path, false};
	YR_COMPILER *compiler;
	FILE *f = fopen(path, "re");
	int r = 0;

	if (!f)
		return errmsg_set(em, -errno, "cannot open rules '%s': %s", path, strerror(errno));
	if (yr_compiler_create(&compiler) != ERROR_SUCCESS) {
		fclose(f);
		return errmsg_set(em, -ENOMEM, "out of memory");
	}
	yr_compiler_set_callback(compiler, on_compile_message, &errors);
	if (yr_compiler_add_file(compiler, f, NULL, path) > 0 || errors.any)
		r = errors.any ? -EINVAL : errmsg_set(em, -EINVAL, "cannot use rules '%s'", path);
	else if (yr_compiler_get_rules(compiler, ret_rules) != ERROR_SUCCESS)
		r = errmsg_set(em, -ENOMEM, "out of memory");
	yr_compiler_destroy(compiler);
	fclose(f);
	return r;
}

int yara_open(const char *rules_path, struct yara **ret_yara, struct errmsg *em)
{
	pthread_once(&once, initialize);
	if (once_result != ERROR_SUCCESS)
		return errmsg_set(em, -EIO, "libyara does not start: error %d", once_result);
	struct yara *y = calloc(1, sizeof(*y));
	if (!y)
		return errmsg_set(em, -ENOMEM, "out of memory");
	int r = rules_compile(rules_path, &y->rules, em);
	if (!r && yr_scanner_create(y->rules, &y->scanner) != ERROR_SUCCESS)
		r = errmsg_set(em, -ENOMEM, "out of memory");
	if (r < 0) {
		yara_close(y);
		return r;
	}
	*ret_yara = y;
	return 0;
}

void yara_close(struct yara *y)
{
	if (!y)
		return;
	if (y->scanner)
		yr_scanner_destroy(y->scanner);
	if (y->rules)
		yr_rules_destroy(y->rules);
	free(y);
}

/* Does the rule have to do with the bytes in question? */
static bool rule_concerns(const struct yara *y, YR_SCAN_CONTEXT *context, YR_RULE *rule)
{
	YR_STRING *string;
	YR_MATCH *match;
	bool any = false;

	yr_rule_strings_foreach(rule, string)
	{
		yr_string_matches_foreach(context, string, match)
		{
			const size_t at = (size_t)(match->base + match->offset);
			any = true;
			if (at < y->to && at + (size_t)match->match_length > y->from)
				return true;
		}
	}
	return !any;
}

static int on_scan_message(YR_SCAN_CONTEXT *context, int message, void *data, void *arg)
{
	struct yara *y = arg;
	YR_RULE *rule = data;

	if (message != CALLBACK_MSG_RULE_MATCHING || !rule_concerns(y, context, rule))
		return CALLBACK_CONTINUE;
	y->found = true;
	snprintf(y->name, sizeof(y->name), "%s", rule->identifier);
	return CALLBACK_ABORT;
}

int yara_scan(struct yara *y, const void *data, size_t len, size_t from, size_t to,
        unsigned timeout_s, bool *ret_found, char name[SCAN_NAME_LEN])
{
	y->from = from;
	y->to = to;
	y->found = false;
	yr_scanner_set_callback(y->scanner, on_scan_message, y);
	yr_scanner_set_timeout(y->scanner, (int)timeout_s);
	yr_scanner_set_flags(y->scanner, SCAN_FLAGS_REPORT_RULES_MATCHING);
	const int r = error_of(yr_scanner_scan_mem(y->scanner, data, len));
	if (r < 0 && !y->found)
		return r;
	*ret_found = y->found;
	if (y->found)
		memcpy(name, y->name, SCAN_NAME_LEN);
	return 0;
}

unsigned yara_rules(const struct yara *y)
{
	return y->rules->num_rules;
}

#else

int yara_open(const char *rules_path, struct yara **ret_yara, struct errmsg *em)
{
	return errmsg_set(em, -EOPNOTSUPP,
	        "cannot use rules '%s': this weir was built without libyara", rules_path);
}

void yara_close(struct yara *y)
{
}

int yara_scan(struct yara *y, const void *data, size_t len, size_t from, size_t to,
        unsigned timeout_s, bool *ret_found, char name[SCAN_NAME_LEN])
{
	return -EOPNOTSUPP;
}

unsigned yara_rules(const struct yara *y)
{
	return 0;
}

#endif
