/*
 * ranges.c - a list of byte ranges of an image, as a setting
 */
#include "stage/builtin/ranges.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define RANGE_OFF_MAX (1ull << 60)

/* "4K"; advances *at. */
static int size_parse(const char **at, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	char *end = NULL;

	if (!isdigit((unsigned char)**at))
		return -EINVAL;
	errno = 0;
	const unsigned long long n = strtoull(*at, &end, 10);
	if (errno)
		return -EINVAL;
	const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
	const unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
	if (n > RANGE_OFF_MAX >> shift)
		return -EINVAL;
	*at = unit ? end + 1 : end;
	*ret_bytes = n << shift;
	return 0;
}

static int range_parse(const char **at, uint64_t *ret_off, uint64_t *ret_end)
{
	uint64_t off, len;
	int r = size_parse(at, &off);

	if (r < 0)
		return r;
	*ret_off = off;
	*ret_end = UINT64_MAX;
	if (**at != '+')
		return 0;
	(*at)++;
	r = size_parse(at, &len);
	if (r < 0 || len == 0)
		return -EINVAL;
	*ret_end = off + len;
	return 0;
}

int ranges_parse(const char *key, const char *text, struct ranges *ret_ranges, struct errmsg *em)
{
	struct ranges rs = {0};

	for (const char *at = text; at && *at;) {
		if (rs.n == RANGES_MAX)
			return errmsg_set(em, -EINVAL, "too many ranges in '%s=%s': at most %u",
			        key, text, RANGES_MAX);
		const int r = range_parse(&at, &rs.at[rs.n].off, &rs.at[rs.n].end);
		if (r < 0 || (*at != '\0' && *at != ','))
			return errmsg_set(em, -EINVAL,
			        "bad range in '%s=%s': OFF+LEN[,OFF+LEN...] is wanted, as in "
			        "0+1M,16G+4K",
			        key, text);
		rs.n++;
		at += *at == ',';
	}
	*ret_ranges = rs;
	return 0;
}

bool ranges_touch(const struct ranges *rs, uint64_t off, uint64_t end)
{
	for (unsigned i = 0; i < rs->n; i++)
		if (off < rs->at[i].end && rs->at[i].off < end)
			return true;
	return false;
}
