/*
 * view.h - snapshots as the vfs shows them: .weir/snapshots/NAME/... (fs/vfs/snapview.h)
 */
#pragma once

#include "fs/datastore.h"
#include "fs/vfs/snapview.h"

/* Both outlive the vfs's use of it.  After datastore_open, before anybody looks. */
int snapshot_view_attach(struct vfs *v, struct datastore *ds) MUST_CHECK;
