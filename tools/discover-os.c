/*
 * discover-os.c - which system a filesystem holds, from its texts
 *
 * os-release(5), dpkg's status file, apk's list of what is installed.  rpm's database would need
 * librpm, a parser of its own that trusts what it reads; that it is there is said, and no more.
 */
#include "tools/discover-worker.h"

#include <string.h>

#define PACKAGES_MAX 5000u /* listed; more are counted */

/* The line's text without its end; *next: where the following one begins. */
static char *line_take(char **next)
{
	char *line = *next;

	if (!line || !*line)
		return NULL;
	char *end = strchr(line, '\n');
	*next = end ? end + 1 : NULL;
	if (end)
		*end = '\0';
	return line;
}

/* What follows prefix in line, or NULL. */
static char *after(char *line, const char *prefix)
{
	const size_t n = strlen(prefix);

	return strncmp(line, prefix, n) ? NULL : line + n;
}

/* Quotes of a shell assignment, as os-release has them. */
static char *unquote(char *text)
{
	const size_t n = strlen(text);

	if (n >= 2 && (text[0] == '"' || text[0] == '\'') && text[n - 1] == text[0]) {
		text[n - 1] = '\0';
		text++;
	}
	char *to = text;
	for (const char *from = text; *from; from++) {
		if (*from == '\\' && from[1])
			from++;
		*to++ = *from;
	}
	*to = '\0';
	return text;
}

static void parse_os_release(char *text, json_t *system)
{
	static const char *const keys[][2] = {{"NAME=", "name"}, {"ID=", "id"},
	        {"VERSION_ID=", "version"}, {"PRETTY_NAME=", "pretty_name"},
	        {"VARIANT=", "variant"}};

	for (char *line; (line = line_take(&text));)
		for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
			char *value = after(line, keys[i][0]);
			if (value)
				discover_set(system, keys[i][1], unquote(value));
		}
}

struct packages {
	json_t *list;
	size_t count;
};

static void package_add(struct packages *p, const char *name, const char *version)
{
	if (p->count++ >= PACKAGES_MAX)
		return;
	json_t *entry = json_object();
	discover_set(entry, "name", name);
	discover_set(entry, "version", version);
	json_array_append_new(p->list, entry);
}

static void parse_dpkg(char *text, struct packages *p)
{
	const char *name = NULL, *version = "";
	bool installed = false;

	for (char *line, *value; (line = line_take(&text)) || name;) {
		if (!line || !*line) {
			if (name && installed)
				package_add(p, name, version);
			name = NULL;
			version = "";
			installed = false;
		} else if ((value = after(line, "Package: "))) {
			name = value;
		} else if ((value = after(line, "Version: "))) {
			version = value;
		} else if ((value = after(line, "Status: "))) {
			const size_t n = strlen(value);
			installed = n >= 10 && !strcmp(value + n - 10, " installed");
		}
	}
}

static void parse_apk(char *text, struct packages *p)
{
	const char *name = NULL, *version = "";

	for (char *line, *value; (line = line_take(&text)) || name;) {
		if (!line || !*line) {
			if (name)
				package_add(p, name, version);
			name = NULL;
			version = "";
		} else if ((value = after(line, "P:"))) {
			name = value;
		} else if ((value = after(line, "V:"))) {
			version = value;
		}
	}
}

static void add_packages(const struct discover_texts *t, json_t *system)
{
	struct packages p = {.list = json_array()};
	const char *manager = t->dpkg ? "dpkg" : t->apk ? "apk" : t->has_rpm ? "rpm" : "pacman";

	if (t->dpkg)
		parse_dpkg(t->dpkg, &p);
	else if (t->apk)
		parse_apk(t->apk, &p);
	else if (!t->has_rpm && !t->has_pacman) {
		json_decref(p.list);
		return;
	}
	if (!t->dpkg && !t->apk) {
		json_decref(p.list);
		json_object_set_new(system, "packages",
		        json_pack("{s:s, s:b, s:s}", "manager", manager, "readable", false, "why",
		                "this kind of package database is not read"));
		return;
	}
	json_object_set_new(system, "packages",
	        json_pack("{s:s, s:b, s:I, s:b, s:o}", "manager", manager, "readable", true,
	                "count", (json_int_t)p.count, "complete", p.count <= PACKAGES_MAX, "list",
	                p.list));
}

json_t *discover_system(const struct discover_texts *t)
{
	if (!t->os_release && !t->dpkg && !t->apk && !t->has_rpm && !t->has_pacman)
		return NULL;
	json_t *system = json_object();
	if (t->os_release)
		parse_os_release(t->os_release, system);
	if (t->hostname) {
		char *next = t->hostname;
		discover_set(system, "hostname", line_take(&next));
	}
	add_packages(t, system);
	return system;
}
