/*
 * raw-receive.c - a raw stream into a holder, without its key
 *
 * The records that come are checked as far as that goes without the key (stream/raw.h), and are written down
 * by the encoder as they were: the holder's content is streams, one behind the other.
 *
 *	step                                  a crash there
 *	records up to the key, in memory      nothing is there
 *	the key's slots become a key          a key that nothing uses (weir key delete)
 *	inode, name, flag: one group          a holder without content
 *	content, in order                     some of it behind the last part: holder_tail() finds what
 *	                                      is whole, and the stream goes on behind that
 *	flush, then the part in the flag      the same; or all of it is there
 *	the job that waits for the key        put in the same rows as the first whole part
 *
 * What is below the last part never changes.  Content that a crash or a stream that begins anew leaves behind it
 * is overwritten or punched.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/control/text.h"
#include "fs/snapshot/private.h"
#include "fs/stream/raw-private.h"
#include "fs/vfs/restore.h"

#define PUT_BYTES  (1u << 20)  /* gathered before it is written */
#define HEAD_BYTES (16u << 20) /* in memory, before content: META, rows, the key */

struct raw_receiver {
	struct manager *m;
	const struct filter_caller *who;
	const struct raw_receive_request *rq;
	snapshot_invalidate_fn *invalidate;
	void *invalidate_arg;
	gc_progress_fn *progress;
	void *progress_arg;
	struct errmsg *em;

	struct stream_out *out; /* owned */
	struct bytes_out buf;   /* to be written at off */
	struct raw_progress at; /* of the stream so far, earlier parts too */
	struct raw_from cut;    /* where it was cut before */
	bool was_cut, has_key, ended;
	struct job job;          /* to be begun at the end; ino 0: none */
	struct sealed_part part; /* that is coming */

	/* The holder; ino 0: not there yet. */
	struct holder h;
	uint32_t domain;
	bool entered;        /* a lookup is counted, and it is in manager.receiving */
	uint64_t begin, off; /* in its content: of this part; of what comes next */
	uint64_t dir;
	char name[NS_NAME_MAX + 1]; /* in dir */
	char path[FILTER_PATH_MAX];
	struct ns_inode like;             /* of META */
	char was_called[NS_NAME_MAX + 1]; /* likewise; "" */
	uint64_t received;
};

int raw_claim(struct manager *m, uint64_t ino)
{
	int r = -EAGAIN;

	pthread_mutex_lock(&m->receive_lock);
	for (unsigned i = 0; i < RECEIVES_MAX && r != -EBUSY; i++)
		if (m->receiving[i] == ino)
			r = -EBUSY;
	for (unsigned i = 0; i < RECEIVES_MAX && r == -EAGAIN; i++) {
		if (m->receiving[i] == 0) {
			m->receiving[i] = ino;
			r = 0;
		}
	}
	pthread_mutex_unlock(&m->receive_lock);
	return r;
}

/* Nobody else fills it or opens it, and its inode is held. */
static int enter(struct raw_receiver *rr)
{
	struct vfs_entry entry;
	int r = raw_claim(rr->m, rr->h.ino);

	if (r == -EBUSY)
		return errmsg_set(rr->em, r, "it is being received, or opened, now (weir status)");
	if (r < 0)
		return errmsg_set(rr->em, r, "too many streams are being received already");
	r = vfs_entry_get(rr->m->vfs, rr->h.ino, &entry);
	if (r < 0) {
		raw_unclaim(rr->m, rr->h.ino);
		return r;
	}
	rr->entered = true;
	return 0;
}

void raw_unclaim(struct manager *m, uint64_t ino)
{
	pthread_mutex_lock(&m->receive_lock);
	for (unsigned i = 0; i < RECEIVES_MAX; i++)
		if (m->receiving[i] == ino)
			m->receiving[i] = 0;
	pthread_mutex_unlock(&m->receive_lock);
}

/* --- content --- */

static int put(struct raw_receiver *rr)
{
	struct store *s = rr->m->ds->store;
	const size_t len = rr->buf.len;
	int r = len ? store_throttle(s, len) : 0;

	if (r < 0 || len == 0)
		return r;
	if (rr->off + len > IMAGE_SIZE_MAX)
		return errmsg_set(rr->em, -EFBIG, "it is larger than a file can be");
	store_enter(s);
	r = store_write(rr->h.img, rr->off, rr->buf.data, len);
	if (r == 0)
		r = vfs_size_put(rr->m->vfs, rr->h.ino, rr->off + len);
	store_leave(s);
	rr->off += len;
	rr->buf.len = 0;
	return r;
}

/* The record as it came, behind what is there. */
static int keep(struct raw_receiver *rr, struct stream_record *rec)
{
	struct iovec iov[STREAM_OUT_IOV];
	int n = 0;
	int r = stream_out_record(rr->out, rec, iov, &n);

	for (int i = 0; r == 0 && i < n; i++)
		if (!bytes_append(&rr->buf, iov[i].iov_base, iov[i].iov_len))
			r = -ENOMEM;
	if (r == 0 && !rr->at.begun && rr->buf.len > HEAD_BYTES)
		return errmsg_set(rr->em, -EFBIG, "what it says before its content is too large");
	return r == 0 && rr->at.begun && rr->buf.len >= PUT_BYTES ? put(rr) : r;
}

/* Nothing of what is behind the last part counts. */
static int tail_punch(struct raw_receiver *rr)
{
	struct store *s = rr->m->ds->store;
	int r = store_throttle(s, CHUNK_SIZE);

	if (r < 0)
		return r;
	store_enter(s);
	r = store_punch(rr->h.img, rr->off, IMAGE_SIZE_MAX - rr->off, false);
	if (r == 0)
		r = vfs_size_put(rr->m->vfs, rr->h.ino, rr->off);
	store_leave(s);
	return r;
}

/* --- the holder: found --- */

/* A directory means the name that the image had in it. */
static int split(struct raw_receiver *rr)
{
	struct ns *ns = rr->m->ds->ns;
	CLEANUP(free_ptr) char *dir = strdup(rr->rq->target);
	uint64_t ino = NS_ROOT_INO;
	struct ns_inode inode;

	if (!dir)
		return -ENOMEM;
	int r = *dir ? ns_lookup_path(ns, dir, &ino) : 0;
	if (r == 0)
		r = ns_inode_get(ns, ino, &inode);
	const bool is_dir = r == 0 && S_ISDIR(inode.mode);
	char *slash = strrchr(dir, '/');
	snprintf(rr->name, sizeof(rr->name), "%s",
	        is_dir  ? rr->was_called
	        : slash ? slash + 1
	                : dir);
	if (!is_dir) {
		*(slash ? slash : dir) = 0;
		ino = NS_ROOT_INO;
		r = *dir ? ns_lookup_path(ns, dir, &ino) : 0;
	}
	if (r < 0)
		return errmsg_set(rr->em, r, "cannot find directory '%s': %s", dir, strerror(-r));
	if (!*rr->name || strchr(rr->name, '/') || !strcmp(rr->name, ".") ||
	        !strcmp(rr->name, "..") || !strcmp(rr->name, ".weir"))
		return errmsg_set(rr->em, -EINVAL, "'%s' is no name of an image", rr->name);
	rr->dir = ino;
	snprintf(rr->path, sizeof(rr->path), "%s%s%s", dir, *dir ? "/" : "", rr->name);
	return 0;
}

static int parts_full(struct raw_receiver *rr)
{
	return errmsg_set(rr->em, -E2BIG,
	        "it has too many updates, or was cut too often: remove it and send it whole");
}

/* What a crash left behind the last part becomes a part, in memory: the flag is put with the next. */
static int tail_take(struct raw_receiver *rr)
{
	struct sealed_flag *f = &rr->h.flag;
	struct vfs_attr attr;
	struct sealed_part tail;
	int r = vfs_getattr(rr->m->vfs, rr->h.ino, &attr);

	if (r == 0)
		r = holder_tail(&rr->h, attr.inode.size, &tail);
	if (r < 0 || tail.len == 0)
		return r;
	if (f->n == SEALED_PARTS_MAX)
		return parts_full(rr);
	struct sealed_part *parts = reallocarray(f->parts, f->n + 1, sizeof(*parts));
	if (!parts)
		return -ENOMEM;
	f->parts = parts;
	parts[f->n++] = tail;
	return 0;
}

/* The first part of the stream that was cut; n: none was. */
static size_t cut_first(const struct sealed_flag *f)
{
	size_t i = f->n;

	while (i > 0 && !f->parts[i - 1].whole)
		i--;
	return i;
}

static bool same_stream(const struct sealed_part *p, const struct stream_begin *b)
{
	return !memcmp(p->guid, b->guid, sizeof(p->guid)) &&
	       !memcmp(p->guid_from, b->guid_from, sizeof(p->guid_from));
}

static int base_check(struct raw_receiver *rr, const struct sealed_part *last)
{
	const struct stream_begin *b = rr->rq->begin;

	if (!(b->flags & STREAM_INCREMENTAL))
		return errmsg_set(rr->em, -EEXIST,
		        "'%s' exists, and the stream is a whole image (remove it, or receive to "
		        "another name)",
		        rr->path);
	if (!last || memcmp(last->guid, b->guid_from, sizeof(last->guid)) != 0)
		return errmsg_set(rr->em, -EINVAL,
		        "the last snapshot of '%s' is not the one that the stream builds on%s%s%s",
		        rr->path, last ? ": it is '" : "", last ? last->snapshot : "",
		        last ? "'" : "");
	return 0;
}

/* A stream that was cut goes on, or a new one builds on what is there. */
static int found_check(struct raw_receiver *rr)
{
	struct sealed_flag *f = &rr->h.flag;
	int r = tail_take(rr);

	if (r < 0)
		return r;
	if (f->n >= SEALED_PARTS_MAX) /* or nothing could be noted at the end */
		return parts_full(rr);
	const size_t first = cut_first(f);
	if (f->n > first && !same_stream(&f->parts[first], rr->rq->begin))
		return errmsg_set(rr->em, -EEXIST,
		        "another stream to '%s' was cut off: snapshot '%s' (weir receive --list)",
		        rr->path, f->parts[first].snapshot);
	if (f->n > first) {
		rr->was_cut = true;
		r = holder_progress(&rr->h, first, &rr->at, &rr->cut);
		if (r < 0)
			return errmsg_set(rr->em, r, "what is there of it is damaged");
	} else {
		for (size_t i = 0; i < f->n; i++)
			if (!memcmp(f->parts[i].guid, rr->rq->begin->guid, STREAM_GUID_LEN))
				return errmsg_set(rr->em, -EEXIST,
				        "'%s' has it already: snapshot '%s'", rr->path,
				        f->parts[i].snapshot);
		r = base_check(rr, f->n ? &f->parts[f->n - 1] : NULL);
	}
	rr->domain = f->domain;
	rr->begin = rr->off = sealed_flag_bytes(f);
	return r < 0 ? r : tail_punch(rr);
}

static int holder_find(struct raw_receiver *rr)
{
	uint64_t ino;
	uint32_t mode;
	int r = split(rr);

	if (r < 0)
		return r;
	r = ns_name_get(rr->m->ds->ns, rr->dir, rr->name, &ino, &mode);
	if (r == -ENOENT && rr->rq->begin->flags & STREAM_INCREMENTAL)
		return errmsg_set(
		        rr->em, r, "there is no '%s', which the stream is an update of", rr->path);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		r = holder_open(rr->m->ds, ino, &rr->h);
	if (r == -ENOENT)
		return errmsg_set(rr->em, -EEXIST,
		        "'%s' was not received sealed, or has been opened since: a sealed stream "
		        "cannot be put on it (send without --raw, or receive to another name)",
		        rr->path);
	if (r == 0)
		r = enter(rr);
	return r < 0 ? r : found_check(rr);
}

/* --- the holder: made --- */

/* Gate closed. */
static int making_records(void *arg, struct ns_inode *ret_inode)
{
	struct raw_receiver *rr = arg;
	const struct sealed_flag flag = {.domain = rr->domain};
	int r = sealed_flag_put(rr->m->ds->ns, ret_inode->ino, &flag);

	if (r == 0)
		r = audit_note(rr->m, rr->who, "receive sealed", ret_inode->ino, rr->path, "", NULL,
		        rr->part.snapshot);
	ret_inode->mode = S_IFREG | (rr->like.mode & 0777u);
	ret_inode->uid = ret_inode->gid = rr->who ? rr->who->uid : 0;
	ret_inode->mtime = rr->like.mtime;
	ret_inode->size = 0;
	return r;
}

/* No content yet: rows alone, in a commit. */
static int making_content(void *arg, uint64_t ino, int (*rows)(void *rows_arg), void *rows_arg)
{
	struct raw_receiver *rr = arg;
	struct manager *m = rr->m;

	(void)ino;
	pthread_mutex_lock(&m->record_lock);
	const int r = snapshot_commit_wait(
	        m->ds->store, store_clone(m->ds->store, NULL, 0, rows, rows_arg));
	pthread_mutex_unlock(&m->record_lock);
	return r;
}

static int holder_make(struct raw_receiver *rr)
{
	const struct vfs_clone vc = {
	        .dir = rr->dir,
	        .name = rr->name,
	        .content = making_content,
	        .records = making_records,
	        .arg = rr,
	};
	uint64_t ino = 0;

	audit_prepare(rr->who ? rr->who->uid : 0);
	pthread_mutex_lock(&rr->m->lock);
	int r = vfs_clone_make(rr->m->vfs, &vc, &ino);
	pthread_mutex_unlock(&rr->m->lock);
	if (r < 0)
		return r;
	if (rr->invalidate)
		rr->invalidate(rr->invalidate_arg, rr->dir, rr->name);
	r = holder_open(rr->m->ds, ino, &rr->h);
	return r < 0 ? r : enter(rr);
}

/* --- records --- */

static int meta_take(struct raw_receiver *rr, const struct stream_bytes *meta)
{
	json_t *json =
	        json_loadb((const char *)meta->data, meta->len, JSON_REJECT_DUPLICATES, NULL);
	const char *name = json_string_value(json_object_get(json, "snapshot"));
	const json_int_t mtime = json_integer_value(json_object_get(json, "mtime_ns"));
	const char *path = json_string_value(json_object_get(json, "path"));
	const char *slash = path ? strrchr(path, '/') : NULL;
	const bool good =
	        name && snapshot_name_good(name) && strlen(name) < sizeof(rr->part.snapshot);

	if (path && strlen(slash ? slash + 1 : path) <= NS_NAME_MAX)
		strcpy(rr->was_called, slash ? slash + 1 : path);

	if (good)
		strcpy(rr->part.snapshot, name);
	rr->like.mode = (uint32_t)json_integer_value(json_object_get(json, "mode"));
	if (mtime > 0) {
		rr->like.mtime.tv_sec = (time_t)((uint64_t)mtime / NS_PER_SEC);
		rr->like.mtime.tv_nsec = (long)((uint64_t)mtime % NS_PER_SEC);
	}
	json_decref(json);
	if (!good)
		return errmsg_set(
		        rr->em, -EUCLEAN, "the stream is damaged: its description makes no sense");
	const int r = holder_find(rr);
	return r == 0 && rr->rq->hello ? rr->rq->hello(rr->rq->arg, rr->em) : r;
}

static int flag_save(struct raw_receiver *rr)
{
	struct manager *m = rr->m;
	struct errmsg em;
	int r = rows_begin_anyway(m, &em);

	if (r < 0)
		return r;
	r = sealed_flag_put(m->ds->ns, rr->h.ino, &rr->h.flag);
	rows_end(m);
	return r == 0 ? rows_flush(m) : r;
}

/*
 * The same stream from its beginning, although part of it is there: that goes.  First from the flag: what is put
 * over it is not what a part says.
 */
static int begin_anew(struct raw_receiver *rr)
{
	struct sealed_flag *f = &rr->h.flag;

	f->n = cut_first(f);
	const int r = flag_save(rr);
	if (r < 0)
		return r;
	rr->begin = rr->off = sealed_flag_bytes(f);
	rr->was_cut = false;
	const struct raw_key key = rr->at.key;
	rr->at = (struct raw_progress){.has_key = true, .key = key};
	return tail_punch(rr);
}

static int key_take(struct raw_receiver *rr)
{
	uint32_t domain = 0;
	int r = keys_import(rr->m, rr->who, &rr->at.key, &domain, rr->em);

	if (r == 0 && rr->h.ino && domain != rr->domain)
		return errmsg_set(
		        rr->em, -EINVAL, "it is sealed with another key than '%s' is", rr->path);
	rr->domain = domain;
	rr->has_key = r == 0;
	return r == 0 && !rr->h.ino ? holder_make(rr) : r;
}

static int opaque_take(struct raw_receiver *rr, struct stream_record *rec)
{
	int r;

	if (rr->was_cut && rr->has_key && !rr->at.begun &&
	        rec->type != (enum stream_type)RAW_FROM) {
		r = begin_anew(rr);
		if (r < 0)
			return r;
	}
	r = raw_progress_take(&rr->at, rec->type, rec->opaque.data, rec->opaque.len);
	if (r == 0 && rec->type == (enum stream_type)RAW_KEY)
		r = key_take(rr);
	return r == -EUCLEAN && !rr->em->text[0]
	               ? errmsg_set(rr->em, r,
	                         "the stream is damaged, or does not go on where the last one was "
	                         "cut")
	               : r;
}

static int end_take(struct raw_receiver *rr)
{
	const int r = raw_progress_end(&rr->at);

	rr->ended = r == 0;
	return r < 0 ? errmsg_set(rr->em, r, "the stream is damaged: it is not complete") : 0;
}

static int record_take(struct raw_receiver *rr, struct stream_record *rec)
{
	int r = 0;

	if (rec->type == STREAM_ABORT)
		return errmsg_set(rr->em, -ECONNABORTED, "the sender gave up: %.*s",
		        (int)MIN(rec->text.len, 256), (const char *)rec->text.data);
	if (rec->type == STREAM_META)
		r = meta_take(rr, &rec->meta);
	else if (rec->type == STREAM_END)
		r = end_take(rr);
	else if (rec->type >= STREAM_OPAQUE_FIRST && rec->type <= STREAM_OPAQUE_LAST)
		r = opaque_take(rr, rec);
	else if (rec->type != STREAM_ROW && rec->type != STREAM_START && rec->type != STREAM_POS)
		r = errmsg_set(rr->em, -EUCLEAN,
		        "the stream is damaged: it has content that is not sealed");
	return r < 0 ? r : keep(rr, rec);
}

static int records_take(struct raw_receiver *rr)
{
	struct stream_record rec = {.type = STREAM_BEGIN, .begin = *rr->rq->begin};

	rec.begin.flags &= ~(uint32_t)STREAM_TALK; /* as it is kept */
	int r = keep(rr, &rec);

	while (r == 0 && !rr->ended) {
		r = record_read(rr->rq->in, &rec, rr->em);
		if (r < 0 && !rr->em->text[0])
			return errmsg_set(rr->em, r,
			        r == -ECANCELED ? "it was given up" : "cannot read the stream");
		if (r == 0)
			r = record_take(rr, &rec);
		if (rr->progress)
			rr->progress(rr->progress_arg, rr->off - rr->begin,
			        MAX(rr->rq->begin->estimate, rr->off - rr->begin));
	}
	return r < 0 ? r : put(rr);
}

/* --- the part is noted --- */

static int job_put(struct raw_receiver *rr, struct job *job)
{
	*job = (struct job){.ino = rr->h.ino,
	        .link = ns_number_alloc(rr->m->ds->ns),
	        .what = JOB_UNSEAL,
	        .type = "encrypt"};
	CLEANUP(free_ptr) char *text = job_encode(job);

	return text ? ns_record_put(
	                      rr->m->ds->ns, RECORD_JOB, job->ino, job->link, text, strlen(text))
	            : -ENOMEM;
}

static int has_job(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	return 1;
}

/* Content first, then what says that it counts. */
static int part_note(struct raw_receiver *rr)
{
	struct sealed_flag *f = &rr->h.flag;
	struct manager *m = rr->m;
	struct errmsg em;
	int r = store_flush(m->ds->store, rr->h.img);

	rr->part.len = rr->off - rr->begin;
	rr->part.whole = rr->ended;
	if (r < 0 || f->n == SEALED_PARTS_MAX)
		return r < 0 ? r : -E2BIG;
	struct sealed_part *parts = reallocarray(f->parts, f->n + 1, sizeof(*parts));
	if (!parts)
		return -ENOMEM;
	f->parts = parts;
	parts[f->n++] = rr->part;
	const int there = ns_record_each(m->ds->ns, RECORD_JOB, rr->h.ino, 0, has_job, NULL);
	r = there < 0 ? there : rows_begin_anyway(m, &em);
	if (r < 0)
		return r;
	r = sealed_flag_put(m->ds->ns, rr->h.ino, f);
	if (r == 0 && rr->ended && !there)
		r = job_put(rr, &rr->job);
	rows_end(m);
	return r == 0 ? rows_flush(m) : r;
}

/* What came of a stream that was cut is kept, and how to go on is said. */
static int failed(struct raw_receiver *rr, int r)
{
	const struct errmsg why = *rr->em;
	char text[RAW_TOKEN_TEXT];
	struct raw_token token;

	rr->em->text[0] = 0;
	if (!rr->has_key || !rr->entered || put(rr) < 0 || part_note(rr) < 0)
		return errmsg_set(rr->em, r, "cannot receive '%.80s': %.380s", rr->path,
		        why.text[0] ? why.text : strerror(-r));
	memcpy(token.guid, rr->part.guid, sizeof(token.guid));
	memcpy(token.guid_from, rr->part.guid_from, sizeof(token.guid_from));
	token.from = raw_progress_cut(&rr->at);
	raw_token_text(&token, text);
	return errmsg_set(rr->em, r,
	        "cannot receive '%.80s': %.250s; what came is kept: send its rest with weir send "
	        "--raw --resume %s",
	        rr->path, why.text[0] ? why.text : strerror(-r), text);
}

/* --- the whole --- */

static int receive(struct raw_receiver *rr)
{
	const struct stream_begin *b = rr->rq->begin;
	int r = stream_out_new(STREAM_FORWARD, &rr->out);

	memcpy(rr->part.guid, b->guid, sizeof(rr->part.guid));
	memcpy(rr->part.guid_from, b->guid_from, sizeof(rr->part.guid_from));
	return r < 0 ? r : records_take(rr);
}

static int result_make(struct raw_receiver *rr, json_t **ret_json)
{
	char key[RAW_NAME_MAX + 1] = "";

	if (keys_name_of(rr->m, rr->domain, key) < 0)
		log_warn("crypto domain %u has no key", rr->domain);
	*ret_json = json_pack("{s:o, s:s, s:b, s:s, s:I, s:I}", "target", text_json(rr->path),
	        "snapshot", rr->part.snapshot, "sealed", 1, "key", key, "size_bytes",
	        (json_int_t)rr->rq->begin->size, "received_bytes",
	        (json_int_t)stream_out_bytes(rr->out));
	return *ret_json ? 0 : -ENOMEM;
}

/* Its row is there: if it does not begin now, it does at the next mount. */
static void job_begin(struct raw_receiver *rr)
{
	if (rr->job.ino && jobs_add(rr->m->jobs, &rr->job) < 0)
		log_error("'%s' is opened after the next mount only: out of memory", rr->path);
	jobs_kick(rr->m->jobs); /* it may have found it being received */
}

static void receiver_end(struct raw_receiver *rr)
{
	if (rr->entered) {
		raw_unclaim(rr->m, rr->h.ino);
		vfs_forget(rr->m->vfs, rr->h.ino, 1);
		job_begin(rr);
	}
	holder_close(&rr->h);
	stream_out_free(rr->out);
	bytes_release(&rr->buf);
	free(rr);
}

int raw_receive(struct manager *m, const struct filter_caller *who,
        const struct raw_receive_request *rq, snapshot_invalidate_fn *invalidate,
        void *invalidate_arg, gc_progress_fn *progress, void *progress_arg, json_t **ret_json,
        struct errmsg *em)
{
	struct raw_receiver *rr = calloc(1, sizeof(*rr));

	if (!rr)
		return errmsg_set(em, -ENOMEM, "out of memory");
	*rr = (struct raw_receiver){
	        .m = m,
	        .who = who,
	        .rq = rq,
	        .invalidate = invalidate,
	        .invalidate_arg = invalidate_arg,
	        .progress = progress,
	        .progress_arg = progress_arg,
	        .em = em,
	};
	int r = receive(rr);
	if (r < 0) {
		r = failed(rr, r);
	} else {
		r = part_note(rr);
		if (r == 0)
			r = result_make(rr, ret_json);
		if (r < 0)
			errmsg_set(em, r, "cannot make '%s' durable: %s", rr->path, strerror(-r));
	}
	receiver_end(rr);
	return r;
}
