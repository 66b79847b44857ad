#!/bin/bash
# each command has a man page that lint accepts, and that names each of its options
. "$(dirname "$0")/lib.sh"
man=$TOP/tools/man
command -v mandoc >/dev/null || skip "no mandoc"

for page in "$man"/*.8; do
	if target=$(sed -n 's/^\.so man8\///p' "$page") && [ -n "$target" ]; then
		[ -f "$man/$target" ] || fail "$page points to $target, which is not there"
		continue
	fi
	mandoc -Tlint -Wwarning "$page" >lint 2>/dev/null || fail "$(cat lint)"
done
ok "all pages pass lint"

for c in create mount umount status stats images check gc snapshot clone diff send receive filter policy audit key analytics discover help mkfs.weir mount.weir fsck.weir; do
	page=$man/weir-$c.8
	[[ $c == *.* ]] && page=$man/$c.8
	[ -f "$page" ] || fail "no page for $c"
	target=$(sed -n 's/^\.so man8\///p' "$page")
	mandoc -Tascii "${target:+$man/}${target:-$page}" 2>/dev/null | col -bx >text
	[[ $c == help ]] && continue
	{
		"$WEIR" help "$c"
		"$WEIR" help "$c" | sed -n "s/^  \($c [a-z]*\) .*/\1/p" | while read -r sub; do
			"$WEIR" help $sub
		done
	} | grep -oE -- '--[a-z-]+' | sort -u | while read -r option; do
		grep -qF -e "$option" text || fail "$page does not mention $option"
	done
done
ok "each command has its page, with all its long options"

mandoc -Tascii "$man/weir.8" 2>/dev/null | col -bx >text
for code in 0 1 4 8 16 32; do
	grep -qE "^ +$code +[a-z]" text || fail "weir.8 does not explain exit code $code"
done
ok "the exit codes are explained"

"$WEIR" help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' >commands
[ -s commands ] || fail "no commands in the help"
while read -r c; do
	grep -qE "weir-$c\(8\)" text || fail "weir.8 does not list $c"
done <commands
ok "weir.8 lists all commands"

for type in $("$WEIR" filter types --json | jq -r '.types[].name'); do
	page=$man/weir-filter-$type.8
	[ -f "$page" ] || continue # for tests and rehearsals, or nothing to set
	mandoc -Tascii "$page" 2>/dev/null | col -bx >text
	"$WEIR" filter types "$type" --json | jq -r '.types[] | .settings[].key, .actions[]' |
		grep -v '^i*[bo]ps_.*_burst$\|^bps_burst$' | while read -r word; do
		grep -qw -e "$word" text || fail "$page does not mention $word"
	done
done
ok "the page of each filter has its settings and actions"
