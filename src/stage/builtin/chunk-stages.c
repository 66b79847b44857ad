/*
 * chunk-stages.c - the stages that work when chunks are committed: settings that become policy
 *
 * They see no requests; the engine does their work (src/store), as struct image_policy tells it.
 * All but encrypt are in every image's stack, with defaults that make a policy of all zeros.
 */
#include <errno.h>

#include "base/policy.h"
#include "stage/builtin/builtin.h"

/* --- dedupe --- */

static const char *const dedupe_modes[] = {"on", "off", "verify", NULL};
static const struct setting_def dedupe_settings[] = {
        {.key = "mode",
                .kind = SETTING_ENUM,
                .initial = "on",
                .choices = dedupe_modes,
                .help = "whether equal chunks are shared; verify: compared with what is on disk"},
        {0},
};

static void dedupe_policy(const struct settings *s, struct image_policy *policy)
{
	static const enum policy_dedupe modes[] = {
	        POLICY_DEDUPE_ON, POLICY_DEDUPE_OFF, POLICY_DEDUPE_VERIFY};

	policy->dedupe = modes[settings_number(s, "mode")];
}

const struct stage_type stage_dedupe = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "dedupe",
        .version = 1,
        .summary = "stores equal chunks once",
        .class = STAGE_DEDUPE,
        .capabilities = STAGE_CHUNKS | STAGE_SINGLE | STAGE_IMPLICIT,
        .settings = dedupe_settings,
        .policy = dedupe_policy,
};

/* --- compress --- */

static const char *const compress_methods[] = {"lz4", "off", "lz4hc", "auto", NULL};
static const struct setting_def compress_settings[] = {
        {.key = "method",
                .kind = SETTING_ENUM,
                .initial = "lz4",
                .choices = compress_methods,
                .help = "how new frames are compressed"},
        {.key = "level",
                .kind = SETTING_UINT,
                .initial = "9",
                .min = 3,
                .max = 12,
                .help = "of lz4hc: how hard it tries"},
        {0},
};

static int compress_check(const struct settings *s, struct errmsg *em)
{
	const uint64_t method = settings_number(s, "method");

	if (settings_get(s, "level")->given && method != 2)
		return errmsg_set(em, -EINVAL,
		        "setting 'level' is for method=lz4hc, not for method=%s",
		        compress_methods[method]);
	return 0;
}

static void compress_policy(const struct settings *s, struct image_policy *policy)
{
	static const enum policy_compress methods[] = {
	        POLICY_LZ4, POLICY_COMPRESS_OFF, POLICY_LZ4HC, POLICY_COMPRESS_AUTO};

	policy->compress = methods[settings_number(s, "method")];
	policy->level = policy->compress == POLICY_LZ4HC ? (uint8_t)settings_number(s, "level") : 0;
}

const struct stage_type stage_compress = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "compress",
        .version = 1,
        .summary = "compresses frames of new chunks",
        .class = STAGE_COMPRESS,
        .capabilities = STAGE_CHUNKS | STAGE_SINGLE | STAGE_IMPLICIT,
        .settings = compress_settings,
        .check = compress_check,
        .policy = compress_policy,
};

/* --- encrypt --- */

static const struct setting_def encrypt_settings[] = {
        {.key = "key", .kind = SETTING_TEXT, .help = "name of the key (weir key)", .fixed = true},
        {.key = "domain",
                .kind = SETTING_UINT,
                .max = UINT32_MAX,
                .help = "the key's crypto domain that new data belongs to",
                .managed = true},
        {0},
};

static int encrypt_check(const struct settings *s, struct errmsg *em)
{
	const struct setting *key = settings_get(s, "key");

	if (!key->set || key->number == 0)
		return errmsg_set(
		        em, -EINVAL, "filter 'encrypt' needs key=NAME (weir key create makes one)");
	return 0;
}

static void encrypt_policy(const struct settings *s, struct image_policy *policy)
{
	policy->domain = (uint32_t)settings_number(s, "domain");
}

const struct stage_type stage_encrypt = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "encrypt",
        .version = 1,
        .summary = "encrypts and authenticates what is stored (AES-256-GCM)",
        .class = STAGE_ENCRYPT,
        .capabilities = STAGE_CHUNKS | STAGE_SINGLE | STAGE_TRANSFORMS,
        .settings = encrypt_settings,
        .check = encrypt_check,
        .policy = encrypt_policy,
};

/* --- what cannot be changed --- */

static const char *const checksums[] = {"xxh3-64", NULL};
static const struct setting_def integrity_settings[] = {
        {.key = "checksum",
                .kind = SETTING_ENUM,
                .initial = "xxh3-64",
                .choices = checksums,
                .help = "of every frame, checked whenever it is read",
                .fixed = true},
        {0},
};

const struct stage_type stage_integrity = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "integrity",
        .version = 1,
        .summary = "checks every frame that is read",
        .class = STAGE_INTEGRITY,
        .capabilities = STAGE_CHUNKS | STAGE_SINGLE | STAGE_IMPLICIT,
        .settings = integrity_settings,
};

static const struct setting_def tier_settings[] = {{0}};

const struct stage_type stage_tier = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "tier",
        .version = 1,
        .summary = "places segments on tiers",
        .class = STAGE_TIER,
        .capabilities = STAGE_CHUNKS | STAGE_SINGLE | STAGE_IMPLICIT,
        .settings = tier_settings,
};
