/*
 * filter-report.h - what is attached, what it costs, what there is: as JSON (fs/control/PROTOCOL.md)
 *
 * Functions that take a manager or NULL need no daemon: a tool calls them on a datastore that it
 * opened read-only.  With a manager they also tell of images that are open.
 */
#pragma once

#include "fs/filter/manager.h"

int filter_report_types(json_t **ret_json, struct errmsg *em) MUST_CHECK;
int filter_report_list(struct datastore *ds, struct manager *m, const char *target,
        json_t **ret_json, struct errmsg *em) MUST_CHECK;
int filter_report_cost(
        struct manager *m, const char *target, json_t **ret_json, struct errmsg *em) MUST_CHECK;
/* target NULL: all entries; expect: a hash noted earlier, or NULL. */
int filter_report_audit(struct datastore *ds, const char *target, bool verify, const char *expect,
        json_t **ret_json, struct errmsg *em) MUST_CHECK;
