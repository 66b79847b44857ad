/*
 * report.h - stacks, policies and the audit trail as JSON, from an open datastore
 *
 * Used by the manager for what no open image is needed for, and by the tools on a datastore that
 * is not mounted.  The shapes stand in fs/control/PROTOCOL.md.
 */
#pragma once

#include <jansson.h>

#include "fs/datastore.h"

/* The types that this program has. */
int filter_report_types(json_t **ret_json, struct errmsg *em) MUST_CHECK;
/* target: path in the mount, "" the datastore.  Without counters and accounts. */
int filter_report_list(
        struct datastore *ds, const char *target, json_t **ret_json, struct errmsg *em) MUST_CHECK;
int filter_report_policies(struct datastore *ds, json_t **ret_json, struct errmsg *em) MUST_CHECK;
/* target "": all entries; expect may be NULL. */
int filter_report_audit(struct datastore *ds, const char *target, bool verify, const char *expect,
        json_t **ret_json, struct errmsg *em) MUST_CHECK;
