#!/bin/bash
# help is complete and goes to stdout; a mistake is one line that helps
. "$(dirname "$0")/lib.sh"
commands="create mount umount status stats images check gc snapshot clone diff send receive filter policy audit key analytics discover help"
grouped="filter:types filter:list filter:attach filter:set filter:detach filter:cost filter:run filter:lift
	policy:save policy:apply policy:list policy:delete
	snapshot:create snapshot:list snapshot:show snapshot:delete snapshot:rename snapshot:hold
	snapshot:release snapshot:rollback"

run 0 "$WEIR" help
for c in $commands; do says out "  $c "; done
ok "weir help lists all commands"

for c in $commands mkfs.weir mount.weir fsck.weir; do
	run 0 "$WEIR" help "$c"
	mv out help
	says help "usage: "
	[ ! -s err ] || fail "help $c wrote to stderr"
done
for c in $commands; do
	run 0 "$WEIR" help "$c" && mv out help
	run 0 "$WEIR" "$c" --help
	cmp -s help out || fail "weir $c --help differs from weir help $c"
done
for c in $grouped; do
	run 0 "$WEIR" help ${c/:/ } && mv out help
	says help "usage: weir ${c/:/ }"
	run 0 "$WEIR" ${c/:/ } --help
	cmp -s help out || fail "weir ${c/:/ } --help differs from weir help ${c/:/ }"
	says <("$WEIR" help "${c%:*}") "${c/:/ }"
done
ok "weir help CMD and weir CMD --help are the same"

run 0 "$WEIR" --help
says out "Commands:"
run 0 "$WEIR" --version
grep -qE '^weir [0-9]+\.[0-9]+\.[0-9]+$' out || fail "version: $(cat out)"
ok "--help and --version"

refused 16 "no command given" "$WEIR"
refused 16 "unknown command 'mnout', did you mean 'mount'" "$WEIR" mnout
refused 16 "unknown command 'frobnicate' (see 'weir help')" "$WEIR" frobnicate
refused 16 "unknown option '--frob'" "$WEIR" --frob
refused 16 "no help on 'frobnicate'" "$WEIR" help frobnicate
ok "commands that do not exist"

refused 16 "missing COMMAND" "$WEIR" filter
refused 16 "unknown command 'filter atach', did you mean 'filter attach'" "$WEIR" filter atach
refused 16 "unknown option '--json'" "$WEIR" policy --json
refused 16 "missing TYPE" "$WEIR" filter attach x
refused 16 "missing KEY=VALUE" "$WEIR" filter set x throttle
refused 16 "missing NAME" "$WEIR" snapshot create x
refused 16 "missing NEW-NAME" "$WEIR" snapshot rename x a
refused 16 "missing HOLDER" "$WEIR" snapshot hold x a
refused 16 "missing ACTION" "$WEIR" filter run x throttle
ok "commands of a group"

for c in create umount status stats images check gc clone diff receive audit analytics discover; do
	refused 16 "missing" "$WEIR" "$c"
	says err "(see 'weir help $c')"
	refused 16 "unknown option '--frobnicate'" "$WEIR" "$c" --frobnicate x
done
for c in create umount status images check gc analytics discover; do
	refused 16 "unexpected argument 'b'" "$WEIR" "$c" a b
done
refused 16 "missing MOUNTPOINT" "$WEIR" mount dir
refused 16 "did you mean '--json'" "$WEIR" stats --jsno x
refused 16 "'--log-size' needs an argument" "$WEIR" create --log-size
refused 16 "'--json' takes no argument" "$WEIR" stats --json=1 x
refused 16 "unknown option '-x'" "$WEIR" status -x y
ok "wrong arguments"

refused 16 "did you mean 'cache='" "$WEIR" mount a b -o cahce=1G
refused 16 "unknown mount option 'frob'" "$WEIR" mount a b -o frob
refused 16 "is out of range" "$WEIR" mount a b -o overlay=1K
ok "wrong mount options"

if [ -w /dev/full ]; then
	status=0
	"$WEIR" help >/dev/full 2>err || status=$?
	[ $status = 8 ] || fail "output to a full device: status $status"
	ok "output that cannot be written is a failure"
fi
