/*
 * type-report.c - the stage types that this program has, as JSON
 */
#include <errno.h>

#include "fs/filter/report.h"
#include "stage/stack.h"

static const char *const capability_names[] = {
        "transforms", "holds data", "chunks", "needs force", "single", "implicit", "sees reads"};
static const char *const op_names[REQUEST_OPS] = {
        "read", "write", "flush", "discard", "zero", "extents", "resize"};
static const char *const kind_names[] = {
        [SETTING_UINT] = "number",
        [SETTING_SIZE] = "size",
        [SETTING_DURATION] = "duration",
        [SETTING_PERCENT] = "percent",
        [SETTING_BOOL] = "bool",
        [SETTING_ENUM] = "choice",
        [SETTING_TEXT] = "text",
        [SETTING_TIME] = "time",
};

static json_t *names_of(unsigned bits, const char *const *names, unsigned n)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < n && list; i++)
		if (bits & BIT(i))
			json_array_append_new(list, json_string(names[i]));
	return list;
}

/* Ended by NULL; NULL is an empty list. */
static json_t *texts_json(const char *const *texts)
{
	json_t *list = json_array();

	for (; texts && *texts && list; texts++)
		json_array_append_new(list, json_string(*texts));
	return list;
}

static json_t *limit_json(const struct setting_def *def, uint64_t limit)
{
	const bool limited = def->kind == SETTING_UINT || def->kind == SETTING_SIZE ||
	                     def->kind == SETTING_DURATION;

	return limited && def->max ? json_integer((json_int_t)MIN(limit, (uint64_t)INT64_MAX))
	                           : json_null();
}

static json_t *setting_json(const struct setting_def *def)
{
	return json_pack("{s:s, s:s, s:s?, s:o, s:o, s:o, s:s, s:b}", "key", def->key, "kind",
	        kind_names[def->kind], "default", def->initial, "min", limit_json(def, def->min),
	        "max", limit_json(def, def->max), "choices",
	        texts_json(def->kind == SETTING_ENUM ? def->choices : NULL), "help",
	        def->help ? def->help : "", "fixed", def->fixed);
}

static json_t *settings_json(const struct setting_def *def)
{
	json_t *list = json_array();

	for (; def->key && list; def++)
		if (!def->managed)
			json_array_append_new(list, setting_json(def));
	return list;
}

static json_t *type_json(const struct stage_type *t)
{
	/* A transform that the host drives sees what data passes by. */
	const unsigned handles = t->encode ? OP(READ) | OP(WRITE) : t->handles;

	return json_pack("{s:s, s:I, s:s, s:s, s:o, s:o, s:o, s:o}", "name", t->name, "version",
	        (json_int_t)t->version, "class", stage_class_name(t->class), "summary", t->summary,
	        "capabilities",
	        names_of(t->capabilities, capability_names, ARRAY_SIZE(capability_names)),
	        "operations", names_of(handles, op_names, REQUEST_OPS), "settings",
	        settings_json(t->settings), "actions", texts_json(t->actions));
}

int filter_report_types(json_t **ret_json, struct errmsg *em)
{
	json_t *list = json_array();
	const struct stage_type *t;

	for (unsigned i = 0; list && (t = stage_type_at(i)); i++) {
		if (json_array_append_new(list, type_json(t)) < 0) {
			json_decref(list);
			list = NULL;
		}
	}
	*ret_json = json_pack("{s:o}", "types", list);
	return *ret_json ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
}
