/*
 * values.c - texts of settings to numbers and back
 *
 * Numbers with decimals are read as integers scaled by a power of ten, never through a double: what
 * a user types is what is kept.  All parsing stands on number_parse(), which fails on overflow.
 */
#include "stage/values.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/clock.h"

struct unit {
	const char *name;
	uint64_t factor;
};

/* In the order in which they are tried for showing: the largest that divides it. */
static const struct unit size_units[] = {
        {"E", 1ull << 60},
        {"P", 1ull << 50},
        {"T", 1ull << 40},
        {"G", 1ull << 30},
        {"M", 1ull << 20},
        {"K", 1ull << 10},
        {"", 1},
};
static const struct unit duration_units[] = {
        {"d", 86400 * NS_PER_SEC},
        {"h", 3600 * NS_PER_SEC},
        {"min", 60 * NS_PER_SEC},
        {"s", NS_PER_SEC},
        {"ms", NS_PER_MS},
        {"us", 1000},
        {"ns", 1},
        {"m", 60 * NS_PER_SEC},
};
#define PERCENT_FACTOR 10000u      /* millionths in one percent */
#define DECIMALS_MAX   1000000000u /* nine of them */

/* Reads "12.5" times factor, rounded down; *text then points behind it. */
static int number_parse(const char **text, uint64_t factor, uint64_t *ret)
{
	const char *t = *text;
	uint64_t n = 0;

	if (!isdigit((unsigned char)*t))
		return -EINVAL;
	for (; isdigit((unsigned char)*t); t++)
		if (__builtin_mul_overflow(n, 10u, &n) ||
		        __builtin_add_overflow(n, (unsigned)(*t - '0'), &n))
			return -EINVAL;
	if (__builtin_mul_overflow(n, factor, &n))
		return -EINVAL;
	if (*t == '.') {
		uint64_t part = 0, whole = 1;
		if (!isdigit((unsigned char)*++t))
			return -EINVAL;
		for (; isdigit((unsigned char)*t); t++, whole *= 10) {
			if (whole == DECIMALS_MAX)
				return -EINVAL;
			part = 10 * part + (unsigned)(*t - '0');
		}
		if (__builtin_add_overflow(
		            n, (uint64_t)((unsigned __int128)part * factor / whole), &n))
			return -EINVAL;
	}
	*text = t;
	*ret = n;
	return 0;
}

/* The unit behind the number decides the factor, so it is looked for first. */
static int scaled_parse(const char *text, const struct unit *units, size_t n_units, uint64_t *ret)
{
	const char *unit = text + strspn(text, "0123456789.");

	for (size_t i = 0; i < n_units; i++)
		if (strcasecmp(unit, units[i].name) == 0) {
			const int r = number_parse(&text, units[i].factor, ret);
			return r == 0 && text == unit ? 0 : -EINVAL;
		}
	return -EINVAL;
}

static int duration_parse(const char *text, uint64_t *ret)
{
	if (strcmp(text, "0") == 0) {
		*ret = 0;
		return 0;
	}
	return scaled_parse(text, duration_units, ARRAY_SIZE(duration_units), ret);
}

static int percent_parse(const char *text, uint64_t *ret)
{
	uint64_t n = 0;

	if (number_parse(&text, PERCENT_FACTOR, &n) < 0 || n > 100 * PERCENT_FACTOR)
		return -EINVAL;
	if (*text && strcmp(text, "%") != 0)
		return -EINVAL;
	*ret = n;
	return 0;
}

static int bool_parse(const char *text, uint64_t *ret)
{
	static const char *const words[] = {"off", "on", "no", "yes", "false", "true"};

	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(text, words[i]) == 0) {
			*ret = i & 1;
			return 0;
		}
	return -EINVAL;
}

static int enum_parse(const struct setting_def *def, const char *text, uint64_t *ret)
{
	for (unsigned i = 0; def->choices[i]; i++)
		if (strcmp(text, def->choices[i]) == 0) {
			*ret = i;
			return 0;
		}
	return -EINVAL;
}

/* What is kept as "key=value" lines must not break a line. */
static int text_parse(const char *text, uint64_t *ret)
{
	for (const char *t = text; *t; t++)
		if ((unsigned char)*t < ' ' || *t == 0x7f)
			return -EINVAL;
	*ret = strlen(text);
	return 0;
}

static int time_parse(const char *text, uint64_t *ret)
{
	static const char *const forms[] = {
	        "%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"};

	for (unsigned i = 0; i < ARRAY_SIZE(forms); i++) {
		struct tm tm = {0};
		const char *end = strptime(text, forms[i], &tm);
		if (!end || *end)
			continue;
		const struct tm asked = tm;
		const time_t t = timegm(&tm);
		/* timegm() moves 31 April to 1 May; that is not what was meant. */
		if (t < 0 || (uint64_t)t > UINT64_MAX / NS_PER_SEC || tm.tm_mday != asked.tm_mday)
			return -EINVAL;
		*ret = (uint64_t)t * NS_PER_SEC;
		return 0;
	}
	return -EINVAL;
}

static int uint_parse(const char *text, uint64_t *ret)
{
	const int r = number_parse(&text, 1, ret);

	return r == 0 && *text == '\0' ? 0 : -EINVAL;
}

static bool has_range(const struct setting_def *def)
{
	return def->kind == SETTING_UINT || def->kind == SETTING_SIZE ||
	       def->kind == SETTING_DURATION;
}

static int any_parse(const struct setting_def *def, const char *text, uint64_t *ret)
{
	switch (def->kind) {
	case SETTING_UINT:
		return uint_parse(text, ret);
	case SETTING_SIZE:
		return scaled_parse(text, size_units, ARRAY_SIZE(size_units), ret);
	case SETTING_DURATION:
		return duration_parse(text, ret);
	case SETTING_PERCENT:
		return percent_parse(text, ret);
	case SETTING_BOOL:
		return bool_parse(text, ret);
	case SETTING_ENUM:
		return enum_parse(def, text, ret);
	case SETTING_TEXT:
		return text_parse(text, ret);
	case SETTING_TIME:
		return time_parse(text, ret);
	}
	return -EINVAL;
}

int value_parse(const struct setting_def *def, const char *text, uint64_t *ret_number)
{
	uint64_t n = 0;

	if (strlen(text) > SETTING_TEXT_MAX || any_parse(def, text, &n) < 0)
		return -EINVAL;
	if (has_range(def) && (n < def->min || (def->max && n > def->max)))
		return -EINVAL;
	*ret_number = n;
	return 0;
}

/* --- back to text --- */

static void unit_format(const struct unit *units, uint64_t number, char *buf, size_t len)
{
	while (number % units->factor != 0 || (number == 0 && units->factor != 1))
		units++;
	snprintf(buf, len, "%" PRIu64 "%s", number / units->factor, units->name);
}

static void percent_format(uint64_t number, char *buf, size_t len)
{
	int n = snprintf(buf, len, "%" PRIu64 ".%04" PRIu64, number / PERCENT_FACTOR,
	        number % PERCENT_FACTOR);

	while (n > 0 && buf[n - 1] == '0')
		n--;
	if (n > 0 && buf[n - 1] == '.')
		n--;
	snprintf(buf + n, len - (size_t)n, "%%");
}

static void time_format(uint64_t number, char *buf, size_t len)
{
	const time_t t = (time_t)(number / NS_PER_SEC);
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(buf, len, "%Y-%m-%dT%H:%M:%S", &tm);
}

void value_format(const struct setting_def *def, uint64_t number, char *buf, size_t len)
{
	ASSERT(len >= 64);
	switch (def->kind) {
	case SETTING_SIZE:
		return unit_format(size_units, number, buf, len);
	case SETTING_DURATION:
		if (number == 0)
			break;
		return unit_format(duration_units, number, buf, len);
	case SETTING_PERCENT:
		return percent_format(number, buf, len);
	case SETTING_TIME:
		return time_format(number, buf, len);
	case SETTING_BOOL:
		snprintf(buf, len, "%s", number ? "on" : "off");
		return;
	case SETTING_ENUM:
		snprintf(buf, len, "%s", def->choices[number]);
		return;
	case SETTING_UINT:
	case SETTING_TEXT:
		break;
	}
	snprintf(buf, len, "%" PRIu64, number);
}

static void range_allowed(
        const struct setting_def *def, const char *what, const char *such, char *buf, size_t len)
{
	char min[64], max[64];

	value_format(def, def->min, min, sizeof(min));
	value_format(def, def->max, max, sizeof(max));
	if (def->max)
		snprintf(buf, len, "%s from %s to %s%s", what, min, max, such);
	else if (def->min)
		snprintf(buf, len, "%s from %s on%s", what, min, such);
	else
		snprintf(buf, len, "%s%s", what, such);
}

static void choices_allowed(const struct setting_def *def, char *buf, size_t len)
{
	size_t at = 0;

	buf[0] = '\0';
	for (unsigned i = 0; def->choices[i] && at < len; i++) {
		const int n = snprintf(buf + at, len - at, "%s%s",
		        i == 0                ? ""
		        : def->choices[i + 1] ? ", "
		                              : " or ",
		        def->choices[i]);
		at += (size_t)n;
	}
}

void value_allowed(const struct setting_def *def, char *buf, size_t len)
{
	switch (def->kind) {
	case SETTING_UINT:
		return range_allowed(def, "a number", "", buf, len);
	case SETTING_SIZE:
		return range_allowed(def, "a size", ", such as 64M", buf, len);
	case SETTING_DURATION:
		return range_allowed(def, "a duration", ", such as 250ms, 10s or 2h", buf, len);
	case SETTING_ENUM:
		return choices_allowed(def, buf, len);
	case SETTING_PERCENT:
		snprintf(buf, len, "a percentage from 0 to 100, such as 12.5");
		return;
	case SETTING_BOOL:
		snprintf(buf, len, "on or off");
		return;
	case SETTING_TEXT:
		snprintf(buf, len, "one line of at most %d bytes", SETTING_TEXT_MAX);
		return;
	case SETTING_TIME:
		snprintf(buf, len, "a time (UTC), such as 2027-01-31 or 2027-01-31T12:00:00");
		return;
	}
}
