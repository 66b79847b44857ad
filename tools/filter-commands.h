/*
 * filter-commands.h - the commands of "weir filter"
 */
#pragma once

#include "tools/cmd.h"

extern const struct command cmd_filter_types, cmd_filter_list, cmd_filter_attach, cmd_filter_set,
        cmd_filter_detach, cmd_filter_cost, cmd_filter_run, cmd_filter_lift;
