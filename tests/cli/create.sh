#!/bin/bash
# create makes a datastore that is complete, or refuses and leaves things as they were
. "$(dirname "$0")/lib.sh"

run 0 "$WEIR" create ds --log-size 32M --index-memory 16M
says out "created datastore"
says out "weir mount"
[ ! -s err ] || fail "messages: $(cat err)"
run 0 "$WEIR" status ds --json
[ "$(jq .mounted out)" = false ] || fail "mounted?"
[ "$(jq .log_used_bytes out)" = 0 ] || fail "the log is not empty"
run 0 "$WEIR" check ds --data
says out "clean"
ok "a new datastore is clean"

before=$(find ds -type f | sort | xargs sha256sum)
refused 8 "not empty" "$WEIR" create ds
[ "$before" = "$(find ds -type f | sort | xargs sha256sum)" ] || fail "the refused create changed something"
mkdir full && touch full/file
refused 8 "not empty" "$WEIR" create full
[ "$(ls -A full)" = file ] || fail "the refused create left something"
touch plain
run 8 "$WEIR" create plain
run 8 "$WEIR" create plain/below
run 8 "$WEIR" create no/such/parent
ok "what is not empty, or no directory, is refused and unchanged"

mkdir -p empty
run 0 "$WEIR" create empty --log-size 16M
ok "an empty directory is taken"

refused 16 "--log-size: '15M' is out of range, use 16.0 MiB to 64.0 GiB" "$WEIR" create a --log-size 15M
refused 16 "--log-size: '65G' is out of range" "$WEIR" create a --log-size 65G
refused 16 "--index-memory: 'lots' is not a size" "$WEIR" create a --index-memory lots
refused 16 "is out of range" "$WEIR" create a --index-memory 1K
refused 16 "not a size" "$WEIR" create a --log-size -- 
refused 16 "not a size" "$WEIR" create a --log-size 99999999999999999999T
[ ! -e a ] || fail "a refused create made the directory"
ok "sizes have limits"
