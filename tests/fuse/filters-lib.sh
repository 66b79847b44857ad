# filters-lib.sh - what the tests of filters share; sourced after lib.sh

# ask OP [KEY=TEXT | KEY:=JSON ...]
ask() {
	python3 "$HERE/ask.py" "$DS" "$@"
}

# ask_field PYTHON-EXPRESSION-OF-r OP ...
ask_field() {
	local what=$1
	shift
	ask "$@" | python3 -c "import json,sys; r=json.load(sys.stdin); print($what)"
}

# ask_refused TEXT OP ...: the error contains that text.
ask_refused() {
	local text=$1 out
	shift
	if out=$(ask "$@"); then
		fail "'$*' was not refused: $out"
	fi
	case $out in
	*"$text"*) ;;
	*) fail "'$*' was refused with '$out', not '$text'" ;;
	esac
}

# stack TARGET: "type:state type:state ..." of what is attached.
stack() {
	ask_field "' '.join(s['type']+':'+s['state'] for s in r['stages'] if s['link'])" \
		filter-list target="$1"
}

drop_caches() {
	sync
	echo 1 2> /dev/null > /proc/sys/vm/drop_caches || true
}
