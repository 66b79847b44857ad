/*
 * busy.c - who keeps a mount point busy
 *
 * Reads the links in /proc only: it never touches the mount itself, which may hang.
 */
#include "tools/busy.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/print.h"

#define BUSY_SHOWN_MAX 4u

static bool link_is_below(const char *link, const char *top, size_t top_len)
{
	char target[PATH_MAX];
	const ssize_t n = readlink(link, target, sizeof(target) - 1);

	if (n < (ssize_t)top_len)
		return false;
	target[n] = '\0';
	return !strncmp(target, top, top_len) && (target[top_len] == '/' || !target[top_len]);
}

static bool process_uses(const char *pid, const char *top, size_t top_len)
{
	static const char *const links[] = {"cwd", "root", "exe"};
	char path[64 + NAME_MAX];
	bool found = false;

	for (size_t i = 0; i < ARRAY_SIZE(links) && !found; i++) {
		snprintf(path, sizeof(path), "/proc/%.20s/%s", pid, links[i]);
		found = link_is_below(path, top, top_len);
	}
	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	DIR *d = opendir(path);
	const struct dirent *de;
	while (d && !found && (de = readdir(d)) != NULL) {
		snprintf(path, sizeof(path), "/proc/%.20s/fd/%s", pid, de->d_name);
		found = link_is_below(path, top, top_len);
	}
	if (d)
		closedir(d);
	return found;
}

static void process_name(const char *pid, char *buf, size_t len)
{
	char path[64], line[64] = "";

	snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
	FILE *f = fopen(path, "re");
	if (f && fgets(line, sizeof(line), f))
		line[strcspn(line, "\n")] = '\0';
	if (f)
		fclose(f);
	text_name(buf, len, line[0] ? line : "a process");
}

unsigned busy_describe(const char *mountpoint, char *text, size_t len)
{
	const size_t top_len = strlen(mountpoint);
	char self[24];
	DIR *proc = opendir("/proc");
	const struct dirent *de;
	char name[64];
	unsigned n = 0;
	size_t at = 0;

	text[0] = '\0';
	snprintf(self, sizeof(self), "%ld", (long)getpid());
	while (proc && (de = readdir(proc)) != NULL) {
		if (de->d_name[strspn(de->d_name, "0123456789")] || !strcmp(de->d_name, self) ||
		        !process_uses(de->d_name, mountpoint, top_len))
			continue;
		process_name(de->d_name, name, sizeof(name));
		if (n < BUSY_SHOWN_MAX && at < len)
			at += (size_t)snprintf(text + at, len - at, "%s%s (pid %.20s)",
			        n ? ", " : "", name, de->d_name);
		n++;
	}
	if (proc)
		closedir(proc);
	if (n > BUSY_SHOWN_MAX && at < len)
		snprintf(text + at, len - at, " and %u more", n - BUSY_SHOWN_MAX);
	return n;
}
