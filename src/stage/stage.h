/*
 * stage.h - the interface between the host and a filter stage
 *
 * A *stage type* (a filter) is one constant struct stage_type; an image's stack holds *stages*,
 * instances of types with settings of their own.  All that a stage needs of the host comes through
 * struct stage_host, never through a global symbol: so a type may live in another process or a
 * loaded object later.  Both tables begin with ABI number and size; what does not match is refused.
 *
 * Request stages see requests (request.h).  The host drives them iteratively, top to bottom by
 * class, then in the order of their ids:
 *
 *	pre()   -> PASS       go on below; not interested in the way back
 *	           PASS_POST  go on below, and call post() on the way back
 *	           COMPLETE   answered here (req->result = 0, out/done/found set): nothing below sees it
 *	           FAIL       req->result = -errno
 *	           PEND       kept; host->resume(req, verdict) goes on later, from any thread, with any
 *	                      verdict but PEND
 *	post()  runs bottom-up for every stage that asked, also when something failed; may change
 *	        req->result and replace req->out (releasing what was there).  It cannot pend.
 * A stage that returned COMPLETE or FAIL gets no post() for that request.
 *
 * `handles`: operations for which pre() is called.  `understands`: operations that may pass by it
 * or through it without harm.  A stage with STAGE_TRANSFORMS makes every operation that it does not
 * understand fail with -EOPNOTSUPP; handles is a subset of understands.
 *
 * Chunk stages (STAGE_CHUNKS) have no pre/post: their settings become the image's policy at commit
 * time (base/policy.h), which the type's policy() fills in.
 *
 * Threads: pre() and post() on any thread, several at a time; a stage locks its own state, never
 * across a call of the host that may call back.  create, destroy, prepare, commit, abort, set,
 * report on a control thread, one at a time for one stage; create, set's commit and destroy with
 * the pipeline drained (no request in any stage of the image).  pre() and post() must not wait
 * longer than a short computation; a wait is a PEND.
 */
#pragma once

#include "base/errmsg.h"
#include "stage/request.h"

#define STAGE_ABI 1u

/* In the order of the stack, from the guest down. */
enum stage_class {
	STAGE_INSPECT,
	STAGE_LIMIT,
	STAGE_PROTECT,
	STAGE_REPLICATE,
	STAGE_CACHE,
	STAGE_TRANSFORM, /* the last one that sees requests */
	STAGE_DEDUPE,
	STAGE_COMPRESS,
	STAGE_ENCRYPT,
	STAGE_INTEGRITY,
	STAGE_TIER,
	STAGE_CLASSES,
};

enum stage_capability {
	STAGE_TRANSFORMS =
	        BIT(0), /* stored data differs from the guest's: it cannot be read without */
	STAGE_HOLDS_DATA = BIT(1), /* acknowledged data may be in it alone */
	STAGE_CHUNKS = BIT(2),     /* works at commit time, by policy */
	STAGE_NEEDS_FORCE =
	        BIT(3),        /* for tests and rehearsals: may harm; attaches with --force only */
	STAGE_SINGLE = BIT(4), /* at most one in a stack */
	STAGE_IMPLICIT = BIT(5), /* every image has it, with defaults, also when not attached */
	/*
	 * Must see every byte that is read: what the kernel has cached of the file is dropped when it
	 * is attached or reconfigured, for that would be read past it.
	 */
	STAGE_SEES_READS = BIT(6),
};

enum stage_verdict { STAGE_PASS, STAGE_PASS_POST, STAGE_COMPLETE, STAGE_FAIL, STAGE_PEND };

/* --- settings --- */

enum setting_kind {
	SETTING_UINT,     /* decimal, min..max */
	SETTING_SIZE,     /* bytes, "64M"; min..max */
	SETTING_DURATION, /* nanoseconds; "10s", "250ms", "2h"; min..max */
	SETTING_PERCENT,  /* 0..100, a number with decimals; kept as millionths: 100 % is 1000000 */
	SETTING_BOOL,     /* on, off, yes, no, true, false */
	SETTING_ENUM,     /* one of choices; the value is its index */
	SETTING_TEXT,     /* any, at most SETTING_TEXT_MAX bytes */
	SETTING_TIME,     /* wall clock, ns; "2027-01-31", "2027-01-31T12:00:00" (UTC) */
};
#define SETTING_TEXT_MAX 1024
#define SETTINGS_MAX     24

struct setting_def {
	const char *key; /* NULL ends a list */
	enum setting_kind kind;
	const char *initial;        /* as text; NULL: none, the setting is unset until given */
	uint64_t min, max;          /* UINT, SIZE, DURATION; max 0: no limit */
	const char *const *choices; /* ENUM: ended by NULL */
	const char *help;           /* one line */
	bool fixed;                 /* cannot be changed once attached */
	bool managed; /* given by the host itself; users may neither give nor see it */
};

/* Checked values of one stage, in the order of its type's definitions. */
struct setting {
	bool set;   /* has a value: given, or initial */
	bool given; /* by the user */
	uint64_t number;
	const char *text; /* as given or as initial; never NULL when set; owned by the host */
};
struct settings {
	const struct setting_def *defs;
	struct setting values[SETTINGS_MAX];
};
/* The value of a key that the type defines (asserted). */
const struct setting *settings_get(const struct settings *s, const char *key);
static inline uint64_t settings_number(const struct settings *s, const char *key)
{
	return settings_get(s, key)->number;
}

/* --- what a stage reports --- */

/* Numbers for people and programs; called in report().  Names are stable, lower_case. */
struct stage_report {
	void *arg;
	void (*number)(void *arg, const char *name, uint64_t value);
	void (*real)(void *arg, const char *name, double value);
	void (*text)(void *arg, const char *name, const char *value);
	/* A list of rows or a nested object: a whole JSON text (checked by the host). */
	void (*json)(void *arg, const char *name, const char *json);
};

/*
 * What a type's private state (state_put) is about.  Of the content: how it is stored, what was found in
 * it.  That goes with the content into snapshots, clones and back with a rollback; the stage reads it
 * anew when ROLLBACK is committed.  Of the use of this image: that stays with the image whatever its
 * content becomes, and a clone begins with none.
 */
enum stage_state_of { STAGE_STATE_OF_CONTENT, STAGE_STATE_OF_USE };

/* --- events --- */

enum stage_event_kind {
	STAGE_EVENT_OPEN,  /* the image is opened by the first user, or the stage is attached */
	STAGE_EVENT_CLOSE, /* the last user is gone, or the stage is being detached */
	/* Let go of every kept request, keep none longer than it takes your own requests to answer
	 * it, start no background requests. */
	STAGE_EVENT_QUIESCE,
	STAGE_EVENT_THAW, /* go on */
	STAGE_EVENT_SNAPSHOT,
	STAGE_EVENT_CLONE,
	STAGE_EVENT_ROLLBACK, /* content below changed as a whole, and the state that is of it */
	STAGE_EVENT_RESIZE,   /* size: the new one; not of a guest's RESIZE, which is a request */
	STAGE_EVENT_DELETE,   /* the image is about to lose its last name */
	STAGE_EVENT_RECONFIGURE, /* settings: the new ones; commit makes them effective */
	STAGE_EVENTS,
};
struct stage_event {
	enum stage_event_kind kind;
	uint64_t size;                   /* RESIZE */
	const struct settings *settings; /* RECONFIGURE; valid until commit or abort returned */
};

/* --- the host's table --- */

struct stage_link; /* the host's side of one stage; opaque */

enum stage_severity { STAGE_SEVERITY_NOTE, STAGE_SEVERITY_WARNING, STAGE_SEVERITY_ALERT };

struct stage_image {
	uint64_t id;     /* inode number */
	uint64_t size;   /* bytes, now */
	char path[1024]; /* in the mount, without leading slash; "" when unknown */
};

struct stage_host {
	uint32_t abi, size; /* STAGE_ABI, sizeof(struct stage_host) */

	uint64_t (*now_ns)(void); /* monotonic */
	uint64_t (*wall_ns)(void);

	/* Goes on with a request that pre() kept.  Any thread; not while holding a lock that pre()
	 * or post() takes. */
	void (*resume)(struct stage_link *self, struct request *req, enum stage_verdict verdict);
	/*
	 * A request of the stage's own, which begins below it; complete() is called on any thread,
	 * usually a host's.  data stays valid until then.  While the image is quiesced it waits.
	 * At once, on this thread: -ECANCELED, the stage is being destroyed; -EAGAIN, from create(),
	 * there is nothing below yet.
	 */
	void (*submit_below)(struct stage_link *self, struct request *req);
	/* The same from a thread that may wait (work(), a control thread); returns req->result. */
	int (*call_below)(struct stage_link *self, struct request *req);
	/* Brings a range into the content cache, in the background; a hint. */
	void (*prefetch)(struct stage_link *self, uint64_t off, uint64_t len);

	/*
	 * Calls type->timer(stage) once, at or after this monotonic time; a later call replaces an
	 * earlier one.  0: not at all.  Never before create or after destroy.
	 */
	void (*timer_set)(struct stage_link *self, uint64_t at_ns);
	/*
	 * Runs fn(stage) once on a host's thread that may wait; false: one of this stage is under
	 * way or queued.  destroy waits for it; fn asks cancelled() now and then.
	 */
	bool (*work)(struct stage_link *self, void (*fn)(void *stage));
	bool (*cancelled)(struct stage_link *self);

	/*
	 * Private state, by name: kept with the image, in the same transaction as its content (a
	 * crash finds both of one instant), and followed by type->state_of.  get: -ENOENT; *ret_len
	 * the whole length, of which at most cap bytes are copied.  put copies; NULL deletes.  At
	 * most STAGE_STATE_MAX bytes a value.
	 */
	int (*state_get)(
	        struct stage_link *self, const char *name, void *buf, size_t cap, size_t *ret_len);
	int (*state_put)(struct stage_link *self, const char *name, const void *data, size_t len);

	void (*image)(struct stage_link *self, struct stage_image *ret_image);
	/* To the log, the status of the datastore (warning, alert) and the audit trail (alert). */
	void (*say)(struct stage_link *self, enum stage_severity severity, const char *fmt, ...)
	        PRINTF(3, 4);
	/*
	 * The image refuses changes from now on (-EROFS), also after a restart, until an
	 * administrator lifts it; audited.  Any thread, not inside applied(), and without a lock:
	 * it returns when that is durable, so that whoever is refused because of it is refused for
	 * good.  What cannot be recorded now holds all the same, and is tried again.
	 */
	void (*quarantine)(struct stage_link *self, const char *why);
	/* Memory that counts against the image's share; NULL when out of it. */
	void *(*alloc)(size_t len);
	void (*free)(void *p);
	/*
	 * Bytes of the content cache's memory set aside for this stage's pins; replaces what it had.
	 * -ENOSPC with em: more than is left of it.
	 */
	int (*reserve)(struct stage_link *self, uint64_t bytes, struct errmsg *em);
};
#define STAGE_STATE_MAX (1u << 20)

/* --- a stage type --- */

struct image_policy; /* base/policy.h */

struct stage_type {
	uint32_t abi, size; /* STAGE_ABI, sizeof(struct stage_type) */
	const char *name;
	uint32_t
	        version; /* of how data is transformed or state is kept: another one does not open it */
	const char *summary; /* one line */
	enum stage_class class;
	unsigned capabilities;
	unsigned handles, understands; /* OP() bits */
	const struct setting_def *settings;
	size_t context_size; /* zeroed memory a request, handed to pre and post; at most 256 */

	/* settings stay valid until destroy or a RECONFIGURE is committed. */
	int (*create)(const struct stage_host *host, struct stage_link *self,
	        const struct settings *settings, void **ret_stage, struct errmsg *em);
	void (*destroy)(void *stage); /* accepts NULL */
	/* Settings that do not fit each other; also without a stage.  May be NULL. */
	int (*check)(const struct settings *settings, struct errmsg *em);
	/*
	 * May that happen to an image with these settings?  Asked without a stage, whether the
	 * image is open or not: of DELETE before the image loses its last name, of RECONFIGURE before its
	 * stages are asked to prepare.  May be NULL: it may.
	 */
	int (*allows)(const struct settings *settings, const struct stage_event *event,
	        uint64_t wall_ns, struct errmsg *em);

	enum stage_verdict (*pre)(void *stage, struct request *req, void *context);
	void (*post)(void *stage, struct request *req, void *context);

	/* All may be NULL: nothing to do.  prepare may refuse; then abort is not called for it. */
	int (*prepare)(void *stage, const struct stage_event *event, struct errmsg *em);
	void (*commit)(void *stage, const struct stage_event *event);
	void (*abort)(void *stage, const struct stage_event *event);

	void (*timer)(void *stage);
	void (*report)(void *stage, const struct stage_report *report);
	/*
	 * Something a user asked for by name ("weir filter run TARGET TYPE ACTION [ARG...]");
	 * *ret_json: a JSON text, malloc'ed, or NULL.  -EOPNOTSUPP: no such action.
	 */
	int (*action)(void *stage, const char *action, const char *const *args, unsigned n_args,
	        char **ret_json, struct errmsg *em);
	const char *const *actions; /* their names, ended by NULL; may be NULL */
	/* Those of them that only ask, and change nothing: they are not audited.  May be NULL. */
	const char *const *queries;

	/* STAGE_CHUNKS: puts its settings into the policy. */
	void (*policy)(const struct settings *settings, struct image_policy *policy);

	/*
	 * A request transform that works on bytes in place, whatever the range: encode on the way
	 * down, decode on the way up; encode(0) = 0 at every offset, so that holes stay holes.  The
	 * host drives it (transform.c): such a type has no pre and post and understands everything,
	 * and can be attached to and detached from data that is there: a job converts it, and the
	 * host knows how far it came.  A transform without these attaches to empty images only, and
	 * leaves them when they are empty again.
	 */
	void (*encode)(void *stage, uint64_t off, void *data, size_t len);
	void (*decode)(void *stage, uint64_t off, void *data, size_t len);

	enum stage_state_of state_of;
};

/* Types that are built in, ended by NULL (builtin/builtin.c). */
extern const struct stage_type *const stage_builtin[];
