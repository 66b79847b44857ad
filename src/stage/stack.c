/*
 * stack.c - plans of stacks: their order, and what may be attached, detached and opened
 *
 * The rules stand here and nowhere else, one function a rule, each with the sentence that the
 * administrator reads.  What --force lets pass is refused with -EPERM and says so; what nothing
 * lets pass, with another error.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/policy.h"
#include "stage/stack.h"

void stack_plan_release(struct stack_plan *plan)
{
	for (unsigned i = 0; i < plan->n; i++) {
		settings_release(&plan->items[i].settings);
		free(plan->items[i].given);
	}
	plan->n = 0;
}

static int item_copy(const struct stack_item *from, struct stack_item *ret_to)
{
	struct stack_item item = *from;

	item.settings = (struct settings){0};
	item.given = NULL;
	if (from->given && !(item.given = strdup(from->given)))
		return -ENOMEM;
	const int r = settings_copy(&from->settings, &item.settings);
	if (r < 0) {
		free(item.given);
		return r;
	}
	*ret_to = item;
	return 0;
}

int stack_plan_copy(const struct stack_plan *from, struct stack_plan *ret_to)
{
	ret_to->n = 0;
	for (unsigned i = 0; i < from->n; i++) {
		const int r = item_copy(&from->items[i], &ret_to->items[i]);
		if (r < 0) {
			stack_plan_release(ret_to);
			return r;
		}
		ret_to->n++;
	}
	return 0;
}

static int item_compare(const void *pa, const void *pb)
{
	const struct stack_item *a = pa, *b = pb;

	if (a->class != b->class)
		return a->class < b->class ? -1 : 1;
	return a->link < b->link ? -1 : a->link > b->link;
}

void stack_plan_sort(struct stack_plan *plan)
{
	qsort(plan->items, plan->n, sizeof(*plan->items), item_compare);
}

int stack_plan_find(const struct stack_plan *plan, uint64_t link)
{
	for (unsigned i = 0; i < plan->n; i++)
		if (plan->items[i].link == link)
			return (int)i;
	return -1;
}

int stack_plan_find_type(const struct stack_plan *plan, const char *type, int from)
{
	for (unsigned i = from < 0 ? 0 : (unsigned)from; i < plan->n; i++)
		if (strcmp(plan->items[i].type_name, type) == 0)
			return (int)i;
	return -1;
}

/* --- what items are --- */

static bool sees_requests(const struct stack_item *item)
{
	return !(item->capabilities & STAGE_CHUNKS);
}

/* Changes bytes before the chunk stages see them. */
static bool transforms_requests(const struct stack_item *item)
{
	return sees_requests(item) && item->capabilities & STAGE_TRANSFORMS;
}

static bool needs_its_stage(const struct stack_item *item)
{
	return item->capabilities & (STAGE_TRANSFORMS | STAGE_HOLDS_DATA);
}

static bool converts(const struct stack_item *item)
{
	return item->type && item->type->encode && item->type->decode;
}

static enum policy_dedupe item_dedupe(const struct stack_item *item)
{
	struct image_policy policy = {0};

	if (stack_item_usable(item) && item->type->policy)
		item->type->policy(&item->settings, &policy);
	return policy.dedupe;
}

static bool plan_dedupes(const struct stack_plan *plan)
{
	bool dedupes = true; /* every image has it, unless its own stage says otherwise */

	for (unsigned i = 0; i < plan->n; i++)
		if (plan->items[i].class == STAGE_DEDUPE)
			dedupes = item_dedupe(&plan->items[i]) != POLICY_DEDUPE_OFF;
	return dedupes;
}

static const struct stack_item *plan_transform(const struct stack_plan *plan)
{
	for (unsigned i = 0; i < plan->n; i++)
		if (transforms_requests(&plan->items[i]))
			return &plan->items[i];
	return NULL;
}

/* --- attach --- */

static int check_room(
        const struct stack_plan *plan, const struct stack_item *item, struct errmsg *em)
{
	unsigned n_requests = 0;

	for (unsigned i = 0; i < plan->n; i++)
		n_requests += sees_requests(&plan->items[i]);
	if (plan->n >= STACK_LINKS_MAX)
		return errmsg_set(
		        em, -EINVAL, "too many filters: an image has at most %u", STACK_LINKS_MAX);
	if (sees_requests(item) && n_requests >= STACK_STAGES_MAX)
		return errmsg_set(em, -EINVAL,
		        "too many filters that see requests: an image has at most %u",
		        STACK_STAGES_MAX);
	if (item->link && stack_plan_find(plan, item->link) >= 0)
		return errmsg_set(em, -EINVAL, "filter '%s' is attached with this id already",
		        item->type_name);
	return 0;
}

static int check_single(
        const struct stack_plan *plan, const struct stack_item *item, struct errmsg *em)
{
	const int there = stack_plan_find_type(plan, item->type_name, 0);

	if (!(item->type->capabilities & STAGE_SINGLE) || there < 0 || !plan->items[there].link)
		return 0;
	return errmsg_set(em, -EINVAL,
	        "filter '%s' is attached already and can be there only once (change it with "
	        "'weir filter set')",
	        item->type_name);
}

/* What every image has is attached to set something, so there has to be something to set. */
static int check_settable(const struct stack_item *item, struct errmsg *em)
{
	bool settable = !(item->type->capabilities & STAGE_IMPLICIT);

	for (unsigned i = 0; item->type->settings && item->type->settings[i].key; i++)
		settable |= !item->type->settings[i].fixed;
	if (settable)
		return 0;
	return errmsg_set(em, -EINVAL,
	        "every image has filter '%s', and there is nothing to set: it is not attached",
	        item->type_name);
}

static int check_force(const struct stack_item *item, bool force, struct errmsg *em)
{
	if (force || !(item->type->capabilities & STAGE_NEEDS_FORCE))
		return 0;
	return errmsg_set(em, -EPERM,
	        "filter '%s' is for tests and rehearsals and may harm the image: attach it with "
	        "--force if that is meant",
	        item->type_name);
}

static int check_dedupe(
        const struct stack_plan *plan, const struct stack_item *item, bool force, struct errmsg *em)
{
	if (force)
		return 0;
	if (transforms_requests(item) && plan_dedupes(plan))
		return errmsg_set(em, -EPERM,
		        "filter '%s' changes data above 'dedupe' and destroys dedupe for this "
		        "image: "
		        "set dedupe mode=off for it first, or attach with --force",
		        item->type_name);
	const struct stack_item *transform = plan_transform(plan);
	if (transform && item->class == STAGE_DEDUPE && item_dedupe(item) != POLICY_DEDUPE_OFF)
		return errmsg_set(em, -EPERM,
		        "filter '%s' above changes data, so 'dedupe' would find nothing: use "
		        "mode=off, or attach with --force",
		        transform->type_name);
	return 0;
}

static int check_data(const struct stack_item *item, bool has_data, struct errmsg *em)
{
	if (!has_data || !transforms_requests(item) || converts(item))
		return 0;
	return errmsg_set(em, -EINVAL,
	        "filter '%s' cannot convert what the image holds: it attaches to empty images only",
	        item->type_name);
}

int stack_plan_check_attach(const struct stack_plan *plan, const struct stack_item *item,
        bool has_data, bool force, struct errmsg *em)
{
	if (!item->type)
		return errmsg_set(em, -EINVAL, "unknown filter type '%s' (weir filter types)",
		        item->type_name);
	int r = check_room(plan, item, em);
	if (r == 0)
		r = check_single(plan, item, em);
	if (r == 0)
		r = check_settable(item, em);
	if (r == 0 && item->type->check)
		r = item->type->check(&item->settings, em);
	if (r == 0)
		r = check_data(item, has_data, em);
	if (r == 0)
		r = check_force(item, force, em);
	return r == 0 ? check_dedupe(plan, item, force, em) : r;
}

/* --- detach --- */

static int check_state(const struct stack_item *item, struct errmsg *em)
{
	if (item->state == STACK_CONVERTING_IN)
		return errmsg_set(em, -EBUSY,
		        "filter '%s' is still being attached: wait until its conversion is done",
		        item->type_name);
	if (item->state == STACK_CONVERTING_OUT)
		return errmsg_set(
		        em, -EBUSY, "filter '%s' is being detached already", item->type_name);
	return 0;
}

/* Nothing that data depends on can be removed, whatever the force. */
static int check_depends(const struct stack_item *item, bool has_data, struct errmsg *em)
{
	if (!needs_its_stage(item))
		return 0;
	if (!stack_item_usable(item) && (has_data || item->capabilities & STAGE_HOLDS_DATA))
		return errmsg_set(em, -EINVAL,
		        "data of the image depends on filter '%s' version %u, which this program "
		        "does not have: it cannot be detached here",
		        item->type_name, item->type_version);
	if (has_data && transforms_requests(item) && !converts(item))
		return errmsg_set(em, -EINVAL,
		        "data of the image depends on filter '%s', which cannot convert it back: "
		        "empty the image first",
		        item->type_name);
	return 0;
}

/* Without its own dedupe stage the image has the default, which is on. */
static int check_dedupe_left(
        const struct stack_plan *plan, const struct stack_item *item, bool force, struct errmsg *em)
{
	const struct stack_item *transform = plan_transform(plan);

	if (force || !transform || item->class != STAGE_DEDUPE ||
	        item_dedupe(item) != POLICY_DEDUPE_OFF)
		return 0;
	return errmsg_set(em, -EPERM,
	        "without filter 'dedupe' (mode=off) the image has dedupe again, which filter '%s' "
	        "above destroys: detach that first, or use --force",
	        transform->type_name);
}

int stack_plan_check_detach(
        const struct stack_plan *plan, uint64_t link, bool has_data, bool force, struct errmsg *em)
{
	const int i = link ? stack_plan_find(plan, link) : -1;

	if (i < 0)
		return errmsg_set(em, -ENOENT, "no such filter is attached (weir filter list)");
	const struct stack_item *item = &plan->items[i];
	int r = check_state(item, em);
	if (r == 0)
		r = check_depends(item, has_data, em);
	return r == 0 ? check_dedupe_left(plan, item, force, em) : r;
}

/* --- open --- */

static int cannot_open(const struct stack_item *item, struct errmsg *em)
{
	const char *why = item->capabilities & STAGE_TRANSFORMS ? "transforms" : "may hold";

	if (!item->type)
		return errmsg_set(em, -EIO,
		        "filter '%s' version %u, which %s the data of the image, is missing",
		        item->type_name, item->type_version, why);
	return errmsg_set(em, -EIO,
	        "filter '%s', which %s the data of the image, was attached as version %u and is "
	        "version %u here",
	        item->type_name, why, item->type_version, item->type->version);
}

int stack_plan_check_open(const struct stack_plan *plan, unsigned *ret_missing, struct errmsg *em)
{
	unsigned missing = 0;

	for (unsigned i = 0; i < plan->n; i++) {
		const struct stack_item *item = &plan->items[i];
		if (stack_item_usable(item))
			continue;
		if (needs_its_stage(item))
			return cannot_open(item, em);
		missing++;
	}
	*ret_missing = missing;
	return 0;
}

/* Implicit stages that are not attached have their defaults, which is a policy of all zeros. */
void stack_plan_policy(const struct stack_plan *plan, struct image_policy *ret_policy)
{
	struct image_policy policy = {0};

	for (unsigned i = 0; i < plan->n; i++) {
		const struct stack_item *item = &plan->items[i];
		if (stack_item_usable(item) && item->type->policy &&
		        item->state != STACK_CONVERTING_OUT)
			item->type->policy(&item->settings, &policy);
	}
	*ret_policy = policy;
}
