/*
 * keys-list.c - the keys of a datastore as a list, with or without a daemon
 *
 * Reads rows; a daemon adds which of them are unlocked.
 */
#include <errno.h>

#include "fs/filter/keys-private.h"

static json_t *slots_json(const struct key_slots *list)
{
	json_t *json = json_array();

	for (unsigned i = 0; i < list->n; i++)
		json_array_append_new(
		        json, json_pack("{s:i, s:s}", "slot", (int)list->slots[i].slot, "kind",
		                      keyslot_kind_name(list->slots[i].kind)));
	return json;
}

static json_t *from_json(const struct named_key *key)
{
	json_t *json = json_array();

	for (unsigned d = 1; d < key->n_domains; d++)
		json_array_append_new(json, json_integer(key->domains[d].id));
	return json;
}

struct listing {
	struct ns *ns;
	struct keys *k; /* or NULL */
	json_t *list;
};

static int count_images(struct listing *l, const struct named_key *key, unsigned *ret_images)
{
	struct keys bare = {.env = {.ns = l->ns}}; /* what keys_uses looks at */
	unsigned images = 0;

	for (unsigned d = 0; d < key->n_domains; d++) {
		struct key_uses u = {0};
		const int r = keys_uses(&bare, key, key->domains[d].id, &u);
		if (r < 0)
			return r;
		images += u.images;
	}
	*ret_images = images;
	return 0;
}

static int list_one(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct listing *l = arg;
	struct named_key key = {.number = id}, known;
	struct key_slots slots = {0};
	unsigned images = 0;

	(void)owner;
	if (key_decode(value, len, &key) < 0)
		return 0; /* said when the keys were read */
	if (l->k && keys_find_domain(l->k, key.domains[0].id, &known) == 0)
		key = known;
	int r = slots_list(l->ns, key.domains[0].id, &slots);
	if (r == 0)
		r = count_images(l, &key, &images);
	if (r < 0)
		return r;
	const bool unlocked = key.domains[0].unlocked;
	const char *state = !unlocked ? "locked" : key.n_domains > 1 ? "rotating" : "unlocked";
	json_t *json = json_pack("{s:s, s:I, s:b, s:s, s:i, s:o, s:o, s:I}", "name", key.name,
	        "domain", (json_int_t)key.domains[0].id, "unlocked", unlocked, "state", state,
	        "images", (int)images, "slots", slots_json(&slots), "rotating_from",
	        from_json(&key), "created_ns", (json_int_t)key.created_ns);
	return json_array_append_new(l->list, json) < 0 ? -ENOMEM : 0;
}

int keys_json(struct ns *ns, struct keys *k, json_t **ret_json)
{
	struct listing l = {ns, k, json_array()};
	const int r = ns_record_each(ns, RECORD_KEY, 0, 0, list_one, &l);

	if (r < 0) {
		json_decref(l.list);
		return r;
	}
	*ret_json = json_pack("{s:o}", "keys", l.list);
	return *ret_json ? 0 : -ENOMEM;
}

int keys_report(struct ns *ns, json_t **ret_json)
{
	return keys_json(ns, NULL, ret_json);
}
