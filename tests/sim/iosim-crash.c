/*
 * iosim-crash.c - power loss: what becomes of what was pending
 *
 * A disk and a kernel between them may write back pending pages in any order, or not, and a write
 * that is under way when the power goes may leave any of its sectors.  The dice are loaded so that
 * the outcomes that matter come up often even with many pending writes: all kept but one, none
 * kept but one, all, none.  One file's dice do not depend on another's.
 *
 * Names are kinder, as on journaling filesystems: no operation overtakes an earlier one on the same
 * name, and a rename happens as a whole.
 */
#include <errno.h>
#include <string.h>

#include "sim/iosim-int.h"

static void nodes_add(struct node_list *l, struct node *n)
{
	if (!n || n->seen)
		return;
	n->seen = true;
	if (l->n == l->cap) {
		l->cap = MAX(l->cap * 2, (size_t)64);
		l->nodes = realloc(l->nodes, l->cap * sizeof(struct node *));
		ASSERT(l->nodes);
	}
	l->nodes[l->n++] = node_ref(n);
}

void sim_nodes(struct iosim *s, struct node_list *ret_list)
{
	struct node_list l = {0};

	nodes_add(&l, s->root);
	for (size_t i = 0; i < s->n_dir_ops; i++) {
		nodes_add(&l, s->dir_ops[i].dir);
		nodes_add(&l, s->dir_ops[i].node);
		nodes_add(&l, s->dir_ops[i].from_dir);
	}
	for (size_t i = 0; i < l.n; i++) {
		const struct table *t = &l.nodes[i]->names, *d = &l.nodes[i]->durable_names;
		for (size_t j = 0; j < t->n; j++)
			nodes_add(&l, t->entries[j].node);
		for (size_t j = 0; j < d->n; j++)
			nodes_add(&l, d->entries[j].node);
	}
	for (size_t i = 0; i < l.n; i++)
		l.nodes[i]->seen = false;
	*ret_list = l;
}

void sim_nodes_release(struct node_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		node_unref(l->nodes[i]);
	free(l->nodes);
	*l = (struct node_list){0};
}

void sim_recount(struct iosim *s)
{
	struct node_list l = {0};

	sim_nodes(s, &l);
	s->used_pages = 0;
	for (size_t i = 0; i < l.n; i++)
		l.nodes[i]->links = 0;
	for (size_t i = 0; i < l.n; i++)
		for (size_t j = 0; j < l.nodes[i]->names.n; j++)
			l.nodes[i]->names.entries[j].node->links++;
	for (size_t i = 0; i < l.n; i++)
		if (l.nodes[i]->links > 0)
			s->used_pages += l.nodes[i]->cached.allocated;
	sim_nodes_release(&l);
}

size_t sim_partial(struct iosim *s, size_t len)
{
	switch (rng_below(&s->rng, 3)) {
	case 0:
		return 0;
	case 1:
		return len;
	default:
		return rng_below(&s->rng, len);
	}
}

/* --- torn writes --- */

static void write_part(const struct change *ch, uint64_t from, uint64_t to, struct content *c)
{
	if (from < to)
		content_write(
		        c, ch->blob ? ch->blob->data + (from - ch->off) : NULL, to - from, from);
}

static void write_sectors(struct rng *rng, const struct change *ch, struct content *c)
{
	const uint64_t end = ch->off + ch->len;
	const unsigned permille = (unsigned[]){50, 500, 950}[rng_below(rng, 3)];

	for (uint64_t at = ch->off, next; at < end; at = next) {
		next = MIN(end, (at / SIM_SECTOR + 1) * SIM_SECTOR);
		if (rng_chance(rng, permille))
			write_part(ch, at, next, c);
	}
}

/* Puts some of a write on the disk. */
static void write_tear(struct rng *rng, const struct change *ch, struct content *c)
{
	const uint64_t end = ch->off + ch->len;
	const uint64_t cut = ch->off + rng_below(rng, ch->len);

	switch (rng_below(rng, 8)) {
	case 0:
	case 1:
	case 2:
		write_part(ch, ch->off, cut / SIM_SECTOR * SIM_SECTOR, c);
		break;
	case 3:
		write_part(ch, ch->off, cut, c);
		break;
	case 4: /* the inode was written, the data was not */
		content_truncate(c, MAX(c->size, end));
		break;
	default:
		write_sectors(rng, ch, c);
	}
}

void sim_sync_fail(struct iosim *s, struct node *n)
{
	for (size_t i = 0; i < n->n_changes; i++) {
		const struct change *ch = &n->changes[i];
		const uint64_t dice = ch->kind == CHANGE_WRITE ? rng_below(&s->rng, 3) : 0;

		if (dice == 0) /* truncates and punches go through the journal, they are kept */
			change_apply(ch, &n->durable);
		else if (dice == 1)
			write_tear(&s->rng, ch, &n->durable);
	}
	node_changes_clear(n);
}

/* --- a crash --- */

static void shuffle(struct rng *rng, struct change *ch, size_t n)
{
	for (size_t i = n; i > 1; i--) {
		const size_t j = rng_below(rng, i);
		const struct change t = ch[i - 1];
		ch[i - 1] = ch[j];
		ch[j] = t;
	}
}

static void file_survive(struct rng rng, struct node *n)
{
	const unsigned keep = (unsigned[]){0, 100, 500, 900, 1000}[rng_below(&rng, 5)];
	const unsigned tear = (unsigned[]){0, 0, 100, 500}[rng_below(&rng, 4)];

	if (rng_chance(&rng, 500))
		shuffle(&rng, n->changes, n->n_changes);
	for (size_t i = 0; i < n->n_changes; i++) {
		if (n->changes[i].kind == CHANGE_WRITE && rng_chance(&rng, tear))
			write_tear(&rng, &n->changes[i], &n->durable);
		else if (rng_chance(&rng, keep))
			change_apply(&n->changes[i], &n->durable);
	}
}

/* How much of what is pending in this directory may survive. */
static void dir_dice(struct rng rng, const struct iosim *s, struct node *dir)
{
	uint64_t n = 0;

	for (size_t i = 0; i < s->n_dir_ops; i++)
		n += dir_op_touches(&s->dir_ops[i], dir);
	const uint64_t how = rng_below(&rng, 4);
	dir->ops_subset = how == 3;
	dir->ops_left = how == 0 ? 0 : how == 1 || how == 3 ? n : rng_below(&rng, n + 1);
}

static bool dir_allows(struct rng *rng, struct node *dir)
{
	if (dir->ops_left == 0)
		return false;
	dir->ops_left--;
	return !dir->ops_subset || rng_chance(rng, 500);
}

static void names_survive(struct rng rng, struct iosim *s)
{
	CLEANUP(free_ptr) bool *dropped = xcalloc(s->n_dir_ops, sizeof(*dropped));

	for (size_t i = 0; i < s->n_dir_ops; i++) {
		const struct dir_op *op = &s->dir_ops[i];
		dropped[i] = !dir_allows(&rng, op->dir);
		if (op->from_dir && op->from_dir != op->dir)
			dropped[i] |= !dir_allows(&rng, op->from_dir);
		for (size_t j = 0; j < i && !dropped[i]; j++)
			dropped[i] = dropped[j] && dir_op_conflicts(&s->dir_ops[j], op);
		if (!dropped[i])
			dir_op_apply_durable(op);
	}
}

static void dir_ops_clear(struct iosim *s)
{
	for (size_t i = 0; i < s->n_dir_ops; i++)
		dir_op_release(&s->dir_ops[i]);
	s->n_dir_ops = 0;
}

static void power_loss(struct iosim *s, bool random, uint64_t seed, struct node_list *l)
{
	for (size_t i = 0; random && i < l->n; i++) {
		if (l->nodes[i]->is_dir)
			dir_dice(rng_fork(seed, i), s, l->nodes[i]);
		else
			file_survive(rng_fork(seed, i), l->nodes[i]);
	}
	if (random)
		names_survive(rng_fork(seed, l->n), s);
	dir_ops_clear(s);
	for (size_t i = 0; i < l->n; i++) {
		struct node *n = l->nodes[i];
		node_changes_clear(n);
		content_copy(&n->cached, &n->durable);
		table_copy(&n->names, &n->durable_names);
	}
}

void iosim_crash(struct iosim *s, enum iosim_crash_mode mode, uint64_t seed)
{
	struct node_list l = {0};

	pthread_mutex_lock(&s->lock);
	sim_nodes(s, &l);
	if (mode != IOSIM_KEEP)
		power_loss(s, mode == IOSIM_RANDOM, seed, &l);
	for (size_t i = 0; i < l.n; i++)
		l.nodes[i]->handles = 0;
	sim_nodes_release(&l);
	s->boot++;
	s->is_off = false;
	s->crash_step = 0;
	sim_recount(s);
	pthread_mutex_unlock(&s->lock);
}

void sim_sync_names(struct iosim *s, struct node *dir)
{
	CLEANUP(free_ptr) bool *need = xcalloc(s->n_dir_ops, sizeof(*need));
	bool crosses = false; /* a rename takes what it depends on in the other directory along */

	for (size_t i = s->n_dir_ops; i-- > 0;) {
		const struct dir_op *op = &s->dir_ops[i];
		need[i] = dir_op_touches(op, dir);
		for (size_t j = i + 1; crosses && j < s->n_dir_ops && !need[i]; j++)
			need[i] = need[j] && dir_op_conflicts(op, &s->dir_ops[j]);
		crosses |= need[i] && op->from_dir && op->from_dir != op->dir;
	}
	size_t kept = 0;
	for (size_t i = 0; i < s->n_dir_ops; i++) {
		if (need[i]) {
			dir_op_apply_durable(&s->dir_ops[i]);
			dir_op_release(&s->dir_ops[i]);
		} else {
			s->dir_ops[kept++] = s->dir_ops[i];
		}
	}
	s->n_dir_ops = kept;
}

void iosim_sync_all(struct iosim *s)
{
	struct node_list l = {0};

	pthread_mutex_lock(&s->lock);
	sim_nodes(s, &l);
	for (size_t i = 0; i < l.n; i++) {
		node_changes_clear(l.nodes[i]);
		content_copy(&l.nodes[i]->durable, &l.nodes[i]->cached);
		table_copy(&l.nodes[i]->durable_names, &l.nodes[i]->names);
	}
	dir_ops_clear(s);
	sim_nodes_release(&l);
	pthread_mutex_unlock(&s->lock);
}

static bool is_visible(const struct node *n)
{
	return n->links > 0 || n->handles > 0;
}

void iosim_drop_caches(struct iosim *s)
{
	struct node_list l = {0};

	pthread_mutex_lock(&s->lock);
	sim_nodes(s, &l);
	for (size_t i = 0; i < l.n; i++) {
		struct node *n = l.nodes[i];
		const uint64_t before = n->cached.allocated;
		content_copy(&n->cached, &n->durable);
		for (size_t j = 0; j < n->n_changes; j++)
			change_apply(&n->changes[j], &n->cached);
		if (is_visible(n))
			s->used_pages += n->cached.allocated - before;
	}
	sim_nodes_release(&l);
	pthread_mutex_unlock(&s->lock);
}

static void corrupt_content(struct content *c, uint64_t off, uint64_t len, struct rng rng)
{
	uint8_t buf[SIM_PAGE];

	while (len > 0) {
		const size_t n = content_read(c, buf, MIN(len, sizeof(buf)), off);
		if (n == 0)
			return;
		for (size_t i = 0; i < n; i++)
			buf[i] ^= (uint8_t)(1 + rng_below(&rng, 255));
		content_write(c, buf, n, off);
		off += n;
		len -= n;
	}
}

int iosim_corrupt(struct iosim *s, const char *name, uint64_t off, uint64_t len, uint64_t seed)
{
	pthread_mutex_lock(&s->lock);
	struct node *n = sim_find(s, name);
	const int r = n && !n->is_dir ? 0 : -ENOENT;
	if (r == 0) {
		const uint64_t before = n->cached.allocated;
		corrupt_content(&n->cached, off, len, rng_fork(seed, 0));
		corrupt_content(&n->durable, off, len, rng_fork(seed, 0));
		s->used_pages += n->cached.allocated - before;
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}
