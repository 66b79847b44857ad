/*
 * keys-slots.c - secrets, and the slots that they open
 *
 * A slot is a row RECORD_KEYSLOT (owner: crypto domain, id: slot number) that holds the domain's
 * data key, wrapped (crypto/keyslot.h).  While a key rotates it has several domains, each with
 * slots of its own; the same number stands for the same secret in all of them.
 *
 * Which slot a secret is for is not recorded: all of its kind are tried.  A passphrase costs half a
 * second each, on purpose.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/control/base64.h"
#include "fs/filter/keys-private.h"

/* --- secrets --- */

static const char *const kind_names[] = {
        [KEYSLOT_PASSPHRASE] = "passphrase",
        [KEYSLOT_FILE] = "file",
        [KEYSLOT_RECOVERY] = "recovery",
};

const char *keyslot_kind_name(enum keyslot_kind kind)
{
	return kind > 0 && kind < ARRAY_SIZE(kind_names) ? kind_names[kind] : "damaged";
}

static int kind_parse(const char *name, enum keyslot_kind *ret_kind, struct errmsg *em)
{
	for (unsigned i = 1; i < ARRAY_SIZE(kind_names); i++) {
		if (name && !strcmp(kind_names[i], name)) {
			*ret_kind = (enum keyslot_kind)i;
			return 0;
		}
	}
	return errmsg_set(em, -EINVAL,
	        "'%.32s' is no kind of secret: use passphrase, file or recovery", name ? name : "");
}

void secret_release(struct secret *s)
{
	if (s->data)
		key_wipe(s->data, s->len);
	free(s->data);
	*s = (struct secret){0};
}

/* What was typed, with the check digits verified, becomes the key that it stands for. */
static int recovery_take(struct secret *s, struct errmsg *em)
{
	uint8_t key[SEAL_KEY_LEN];
	char text[2 * RECOVERY_TEXT_LEN];

	if (s->len >= sizeof(text) || memchr(s->data, 0, s->len))
		return errmsg_set(em, -EINVAL, "that is no recovery key: it is too long");
	memcpy(text, s->data, s->len);
	text[s->len] = '\0';
	int r = recovery_parse(text, key, em);
	key_wipe(text, sizeof(text));
	if (r == 0) {
		uint8_t *data = malloc(sizeof(key));
		r = data ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
		if (data) {
			memcpy(data, key, sizeof(key));
			secret_release(s);
			*s = (struct secret){KEYSLOT_RECOVERY, data, sizeof(key)};
		}
	}
	key_wipe(key, sizeof(key));
	return r;
}

int secret_parse(const char *kind, const char *base64, struct secret *ret_s, struct errmsg *em)
{
	struct secret s = {0};
	int r = kind_parse(kind, &s.kind, em);

	if (r < 0)
		return r;
	if (!base64)
		return errmsg_set(em, -EINVAL, "a secret is missing");
	r = base64_decode(base64, &s.data, &s.len);
	if (r < 0)
		return errmsg_set(em, r, "a secret must be sent as base64");
	if (s.len == 0 || s.len > KEYSLOT_SECRET_MAX)
		r = errmsg_set(
		        em, -EINVAL, "a %s must have 1 to %u bytes", kind, KEYSLOT_SECRET_MAX);
	if (r == 0 && s.kind == KEYSLOT_RECOVERY)
		r = recovery_take(&s, em);
	if (r < 0)
		secret_release(&s);
	else
		*ret_s = s;
	return r;
}

/* --- slots --- */

static int slot_take(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct key_slots *list = arg;
	enum keyslot_kind kind = 0;

	if (list->n == KEYS_SLOTS_MAX || id >= KEYS_SLOTS_MAX) {
		log_warn(
		        "crypto domain %llu has more slots than can be", (unsigned long long)owner);
		return 0;
	}
	if (keyslot_kind_of(value, len, &kind) < 0)
		log_warn("slot %llu of crypto domain %llu is damaged", (unsigned long long)id,
		        (unsigned long long)owner);
	list->slots[list->n++] = (struct key_slot){(unsigned)id, kind};
	return 0;
}

int slots_list(struct ns *ns, uint32_t domain, struct key_slots *ret_slots)
{
	struct key_slots list = {0};
	const int r = ns_record_each(ns, RECORD_KEYSLOT, domain, 0, slot_take, &list);

	if (r == 0)
		*ret_slots = list;
	return r;
}

uint32_t slots_domain(const struct key_domain *domain)
{
	return domain->origin ? domain->slots_domain : domain->id;
}

static int slot_try(struct ns *ns, const struct key_domain *domain, unsigned slot,
        const struct secret *s, uint8_t ret_data_key[SEAL_KEY_LEN])
{
	struct bytes_out value = {0};
	int r = ns_record_get(ns, RECORD_KEYSLOT, domain->id, slot, &value);

	if (r < 0)
		return r;
	r = keyslot_unwrap(
	        value.data, value.len, slots_domain(domain), slot, s->data, s->len, ret_data_key);
	bytes_release(&value);
	return r;
}

int slots_open(struct ns *ns, const struct key_domain *domain, const struct secret *s,
        unsigned *ret_slot, uint8_t ret_data_key[SEAL_KEY_LEN])
{
	struct key_slots list = {0};
	int worst = -EKEYREJECTED;
	int r = slots_list(ns, domain->id, &list);

	for (unsigned i = 0; r == 0 && i < list.n; i++) {
		if (list.slots[i].kind != s->kind)
			continue;
		const int tried = slot_try(ns, domain, list.slots[i].slot, s, ret_data_key);
		if (tried == 0) {
			*ret_slot = list.slots[i].slot;
			return 0;
		}
		if (tried != -EKEYREJECTED)
			worst = tried; /* a slot that could not be tried may have been the one */
	}
	return r < 0 ? r : worst;
}

int slots_free(struct ns *ns, const struct named_key *key, unsigned *ret_slot, struct errmsg *em)
{
	uint32_t used = 0;

	for (unsigned d = 0; d < key->n_domains; d++) {
		struct key_slots list = {0};
		const int r = slots_list(ns, key->domains[d].id, &list);
		if (r < 0)
			return errmsg_set(em, r, "cannot read the slots of key '%s': %s", key->name,
			        strerror(-r));
		for (unsigned i = 0; i < list.n; i++)
			used |= 1u << list.slots[i].slot;
	}
	for (unsigned slot = 0; slot < KEYS_SLOTS_MAX; slot++) {
		if (!(used & 1u << slot)) {
			*ret_slot = slot;
			return 0;
		}
	}
	return errmsg_set(em, -ENOSPC,
	        "key '%s' has %u slots, more cannot be (weir key remove takes one away)", key->name,
	        KEYS_SLOTS_MAX);
}
