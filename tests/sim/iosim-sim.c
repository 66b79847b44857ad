/*
 * iosim-sim.c - making, cloning and steering a simulated disk: steps, faults, limits
 */
#include <errno.h>
#include <string.h>

#include "sim/iosim-int.h"

static struct iosim *sim_new(uint64_t seed)
{
	struct iosim *s = xcalloc(1, sizeof(*s));

	s->base.ops = &iosim_ops;
	pthread_mutex_init(&s->lock, NULL);
	s->rng = rng_fork(seed, 0);
	return s;
}

void iosim_create(uint64_t seed, struct iosim **ret_sim)
{
	struct iosim *s = sim_new(seed);

	s->root = node_new(true);
	*ret_sim = s;
}

void iosim_free(struct iosim *s)
{
	if (!s)
		return;
	ASSERT(s->n_open == 0);
	for (size_t i = 0; i < s->n_dir_ops; i++)
		dir_op_release(&s->dir_ops[i]);
	free(s->dir_ops);
	node_unref(s->root);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void iosim_freep(struct iosim **sim)
{
	iosim_free(*sim);
}

struct io *iosim_io(struct iosim *s)
{
	return &s->base;
}

/* --- cloning --- */

static struct node *twin_of(const struct node *n)
{
	return n ? node_ref(n->twin) : NULL;
}

static void table_clone(struct table *dst, const struct table *src)
{
	for (size_t i = 0; i < src->n; i++)
		table_set(dst, src->entries[i].name, src->entries[i].node->twin);
}

static void node_clone(const struct node *n)
{
	struct node *t = n->twin;

	content_copy(&t->cached, &n->cached);
	content_copy(&t->durable, &n->durable);
	for (size_t i = 0; i < n->n_changes; i++) {
		blob_ref(n->changes[i].blob);
		node_change_add(t, &n->changes[i]);
	}
	table_clone(&t->names, &n->names);
	table_clone(&t->durable_names, &n->durable_names);
}

static void dir_op_clone(struct dir_op *dst, const struct dir_op *src)
{
	*dst = (struct dir_op){
	        .dir = twin_of(src->dir),
	        .name = strdup(src->name),
	        .node = twin_of(src->node),
	        .from_dir = twin_of(src->from_dir),
	        .from = src->from ? strdup(src->from) : NULL,
	};
	ASSERT(dst->name && (!src->from || dst->from));
}

static void steering_clone(struct iosim *c, const struct iosim *s)
{
	c->rng = s->rng;
	c->is_off = s->is_off;
	c->step = s->step;
	c->crash_step = s->crash_step;
	memcpy(c->rules, s->rules, sizeof(c->rules));
	for (unsigned i = 0; i < s->n_rules; i++)
		c->rules[i].f.prefix = c->rules[i].prefix;
	c->n_rules = s->n_rules;
	c->faults_fired = s->faults_fired;
	c->capacity_bytes = s->capacity_bytes;
	c->short_permille = s->short_permille;
}

void iosim_clone(struct iosim *s, struct iosim **ret_sim)
{
	struct iosim *c = sim_new(0);
	struct node_list l = {0};

	pthread_mutex_lock(&s->lock);
	sim_nodes(s, &l);
	for (size_t i = 0; i < l.n; i++)
		l.nodes[i]->twin = node_new(l.nodes[i]->is_dir);
	for (size_t i = 0; i < l.n; i++)
		node_clone(l.nodes[i]);
	c->root = twin_of(s->root);
	c->dir_ops = xcalloc(s->n_dir_ops, sizeof(*c->dir_ops));
	c->n_dir_ops = c->cap_dir_ops = s->n_dir_ops;
	for (size_t i = 0; i < s->n_dir_ops; i++)
		dir_op_clone(&c->dir_ops[i], &s->dir_ops[i]);
	steering_clone(c, s);
	for (size_t i = 0; i < l.n; i++) {
		node_unref(l.nodes[i]->twin);
		l.nodes[i]->twin = NULL;
	}
	sim_nodes_release(&l);
	pthread_mutex_unlock(&s->lock);
	sim_recount(c);
	*ret_sim = c;
}

void iosim_reseed(struct iosim *s, uint64_t seed)
{
	pthread_mutex_lock(&s->lock);
	s->rng = rng_fork(seed, 0);
	pthread_mutex_unlock(&s->lock);
}

/* --- steps and faults --- */

static bool has_prefix(const char *name, const char *prefix)
{
	return name && !strncmp(name, prefix, strlen(prefix));
}

static bool rule_matches(const struct iosim *s, const struct fault_rule *r, enum iosim_op op,
        const char *name, const char *name2)
{
	if (!((r->f.ops ? r->f.ops : IOSIM_MUTATING) & op))
		return false;
	if (s->step < r->f.step || (r->f.step_end && s->step >= r->f.step_end))
		return false;
	return has_prefix(name, r->prefix) || has_prefix(name2, r->prefix);
}

static bool rule_fires(struct iosim *s, struct fault_rule *r)
{
	if (r->seen++ < r->f.skip || (r->f.count && r->fired >= r->f.count))
		return false;
	if (r->f.permille && !rng_chance(&s->rng, r->f.permille))
		return false;
	r->fired++;
	s->faults_fired++;
	return true;
}

int sim_fate(struct iosim *s, enum iosim_op op, const char *name, const char *name2, uint64_t off,
        uint64_t len, bool *ret_died)
{
	if (op != IOSIM_READ) {
		s->step++;
		if (s->trace)
			s->trace(s->trace_arg, s->step, op, name, off, len);
		if (s->crash_step && s->step >= s->crash_step) {
			s->is_off = true;
			*ret_died = true;
			return -EIO;
		}
	}
	for (unsigned i = 0; i < s->n_rules; i++)
		if (rule_matches(s, &s->rules[i], op, name, name2) && rule_fires(s, &s->rules[i]))
			return s->rules[i].f.err;
	return 0;
}

void iosim_fault(struct iosim *s, const struct iosim_fault *fault)
{
	ASSERT(fault->err < 0);
	ASSERT(!fault->prefix || strlen(fault->prefix) < SIM_NAME_MAX);
	pthread_mutex_lock(&s->lock);
	ASSERT(s->n_rules < IOSIM_FAULTS_MAX);
	struct fault_rule *r = &s->rules[s->n_rules++];
	*r = (struct fault_rule){.f = *fault};
	strcpy(r->prefix, fault->prefix ? fault->prefix : "");
	r->f.prefix = r->prefix;
	pthread_mutex_unlock(&s->lock);
}

void iosim_faults_clear(struct iosim *s)
{
	pthread_mutex_lock(&s->lock);
	s->n_rules = 0;
	pthread_mutex_unlock(&s->lock);
}

void iosim_fail_at(struct iosim *s, uint64_t step, uint64_t count, int err)
{
	iosim_fault(s, &(struct iosim_fault){.step = step, .step_end = step + count, .err = err});
}

void iosim_fail_rate(struct iosim *s, const char *prefix, unsigned permille, int err)
{
	iosim_fault(s, &(struct iosim_fault){.prefix = prefix, .permille = permille, .err = err});
}

void iosim_fail_sync(struct iosim *s, const char *prefix, uint64_t skip, uint64_t count)
{
	iosim_fault(s, &(struct iosim_fault){
	                       .prefix = prefix,
	                       .ops = IOSIM_SYNC,
	                       .skip = skip,
	                       .count = count,
	                       .err = -EIO,
	               });
}

void iosim_fail_read(struct iosim *s, const char *prefix, unsigned permille)
{
	iosim_fault(s, &(struct iosim_fault){
	                       .prefix = prefix,
	                       .ops = IOSIM_READ,
	                       .permille = permille,
	                       .err = -EIO,
	               });
}

/* --- switches and counters --- */

static uint64_t locked_get(struct iosim *s, const uint64_t *p)
{
	pthread_mutex_lock(&s->lock);
	const uint64_t v = *p;
	pthread_mutex_unlock(&s->lock);
	return v;
}

static void locked_set(struct iosim *s, uint64_t *p, uint64_t v)
{
	pthread_mutex_lock(&s->lock);
	*p = v;
	pthread_mutex_unlock(&s->lock);
}

uint64_t iosim_faults_fired(struct iosim *s)
{
	return locked_get(s, &s->faults_fired);
}

uint64_t iosim_steps(struct iosim *s)
{
	return locked_get(s, &s->step);
}

void iosim_crash_at(struct iosim *s, uint64_t step)
{
	locked_set(s, &s->crash_step, step);
}

void iosim_set_capacity(struct iosim *s, uint64_t bytes)
{
	locked_set(s, &s->capacity_bytes, bytes);
}

uint64_t iosim_used(struct iosim *s)
{
	return locked_get(s, &s->used_pages) * SIM_PAGE;
}

unsigned iosim_open_files(struct iosim *s)
{
	pthread_mutex_lock(&s->lock);
	const unsigned n = s->n_open;
	pthread_mutex_unlock(&s->lock);
	return n;
}

void iosim_power_off(struct iosim *s)
{
	pthread_mutex_lock(&s->lock);
	s->is_off = true;
	pthread_mutex_unlock(&s->lock);
}

bool iosim_is_off(struct iosim *s)
{
	pthread_mutex_lock(&s->lock);
	const bool off = s->is_off;
	pthread_mutex_unlock(&s->lock);
	return off;
}

void iosim_set_short(struct iosim *s, unsigned permille)
{
	pthread_mutex_lock(&s->lock);
	s->short_permille = permille;
	pthread_mutex_unlock(&s->lock);
}

void iosim_set_trace(struct iosim *s, iosim_trace_fn *fn, void *arg)
{
	pthread_mutex_lock(&s->lock);
	s->trace = fn;
	s->trace_arg = arg;
	pthread_mutex_unlock(&s->lock);
}

const char *iosim_op_name(enum iosim_op op)
{
	static const char *const names[] = {"write", "sync", "truncate", "punch", "create",
	        "unlink", "rename", "mkdir", "sync_dir", "read"};
	const int i = __builtin_ffs((int)op) - 1;

	return i >= 0 && i < (int)ARRAY_SIZE(names) ? names[i] : "?";
}
