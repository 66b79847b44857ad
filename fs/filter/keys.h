/*
 * keys.h - named keys: crypto domains, the slots that wrap them, unlocking and rotation
 *
 * A named key is a row RECORD_KEY {name, domain, rotating_from: [domain]}; the data key of each of
 * its domains is wrapped in rows RECORD_KEYSLOT (crypto/keyslot.h).  Unlocked ones are in the
 * datastore's keyring (store/keyring.h).  Attachments of `encrypt` name the key in their settings and
 * carry the domain in their row: the manifest alone says in which domain an image is stored
 * (manifest.h), the keys only say which one that is to be.
 *
 * What moves an image from one domain to another is a reseal job (job.h).  Rotation gives the key a
 * new domain, then calls change_domain() for each image in the old one (manager-private.h), which
 * changes the row and queues the job; the last job that leaves a domain calls keys_domain_left().
 *
 * Who writes what: this module is written against manager-private.h (the datastore, rows_begin and
 * rows_end, change_domain) and adds its requests to keys_ops, which the control server finds by
 * name; it needs nothing else of the manager.
 *
 * Opening an image.  Whoever opens one asks keys_check_domain while it holds the image's lock, and
 * shows the image as open before it lets go of it: locking a key takes the permission back first and
 * then looks, under that lock, for images that are open.
 *
 * Threads: any; keys_domain_for and keys_check_domain may be called with any lock held but a state
 * lock, the others with none; no function inside the gate.
 */
#pragma once

#include <jansson.h>

#include "base/errmsg.h"
#include "stream/raw.h"

struct filter_caller;
struct ns;
struct keys;
struct manager;

/* Reads the rows; nothing is unlocked.  Called by manager_new and manager_free. */
int keys_new(struct manager *m, struct keys **ret_keys, struct errmsg *em) MUST_CHECK;
void keys_free(struct keys *k); /* accepts NULL */

/*
 * The domain in which data under this key is stored from now on.  -ENOENT: no such key (em: how to
 * make one); -ENOKEY: it is locked (em: how to unlock it); -EINVAL: name is NULL or no name.
 */
int keys_domain_for(struct manager *m, const char *key_name, uint32_t *ret_domain,
        struct errmsg *em) MUST_CHECK;
/* Can data of this domain be read and written now?  0 for domain 0; -ENOKEY with em naming the key. */
int keys_check_domain(struct manager *m, uint32_t domain, struct errmsg *em) MUST_CHECK;
/*
 * A job has taken an image out of this domain, and what was left of it was wiped.  If no attachment
 * refers to the domain any more and its key rotates from it: slots and entry go.  On the thread of
 * the jobs, nothing held.
 */
void keys_domain_left(struct manager *m, uint32_t domain);

/*
 * For a mount option: unlocks with a key file, which is read here.  After manager_new; the images of
 * the key can be opened then.
 */
int keys_unlock_file(
        struct manager *m, const char *name, const char *path, struct errmsg *em) MUST_CHECK;
/*
 * The key of a crypto domain as it goes with a raw stream: its slots, as they are; nothing is opened.  uuid: of this
 * datastore.  -ENOKEY with em: there is none.  Without a daemon, too.
 */
int keys_export(struct ns *ns, const uint8_t uuid[16], uint32_t domain, struct raw_key *ret_key,
        struct errmsg *em) MUST_CHECK;
/* The domain of this datastore that has that data key: a key that is here already, or a new one, locked. */
int keys_import(struct manager *m, const struct filter_caller *who, const struct raw_key *key,
        uint32_t *ret_domain, struct errmsg *em) MUST_CHECK;
/* The name of the key that has this domain.  -ENOENT. */
int keys_name_of(struct manager *m, uint32_t domain, char ret_name[RAW_NAME_MAX + 1]) MUST_CHECK;
/* What the slots of this domain are bound to (crypto/keyslot.h): another number if they came from elsewhere. */
uint32_t keys_slots_domain(struct ns *ns, uint32_t domain);
/* What key-list answers, without a daemon: all keys are locked. */
int keys_report(struct ns *ns, json_t **ret_json) MUST_CHECK;
