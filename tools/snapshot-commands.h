/*
 * snapshot-commands.h - the commands of the group "weir snapshot" that have files of their own
 */
#pragma once

#include "tools/cmd.h"

extern const struct command cmd_snapshot_schedule, cmd_snapshot_agent; /* snapshot-schedule.c */
