# Stacks over the socket: attaching, changing, detaching, inheriting, binding, policies, the trail.
. "$(dirname "$0")/lib.sh"
. "$HERE/filters-lib.sh"

head -c 3000000 /dev/urandom > "$T/data"
mkdir "$M/vm"
cp "$T/data" "$M/a.raw"

# Rules, with what to do about them.
ask_refused "no filter type 'nonsense'" filter-attach target=a.raw type=nonsense
ask_refused "cannot find 'none'" filter-attach target=none type=pass
ask_refused "--force" filter-attach target=a.raw type=scramble
ask_refused "not attached" filter-detach target=a.raw type=pass
ask_refused "needs 'target'" filter-list
same "nothing is attached" "" "$(stack a.raw)"

# A transform over data, while the file is open; then back out of it.
exec 5<> "$M/a.raw"
same "converted in" "active" "$(ask_field "r['changed'][0]['state']" \
	filter-attach target=a.raw type=scramble force:=true wait:=true)"
drop_caches
cmp "$T/data" "$M/a.raw" || fail "the content changed"
same "open" "True True" "$(ask_field "r['open'], r['opens']" filter-list target=a.raw | tr -d '(),')"
ask_refused "cannot be changed once" filter-set target=a.raw type=scramble 'settings:=["key=9"]'
ask filter-attach target=a.raw type=pass > /dev/null
ask filter-attach target=a.raw type=pass > /dev/null
same "the order of the stack" "pass:active pass:active scramble:active" "$(stack a.raw)"
ask_refused "several times" filter-detach target=a.raw type=pass
link=$(ask_field "r['stages'][1]['link']" filter-list target=a.raw)
ask filter-detach target=a.raw "type=pass:$link" > /dev/null
same "one of two went" "pass:active scramble:active" "$(stack a.raw)"
head -c 100000 /dev/urandom > "$T/more"
dd if="$T/more" of="$M/a.raw" bs=1000 seek=500 conv=notrunc status=none
dd if="$T/more" of="$T/data" bs=1000 seek=500 conv=notrunc status=none
same "converted out" "gone" \
	"$(ask_field "r['changed'][0]['state']" filter-detach target=a.raw type=scramble wait:=true)"
drop_caches
cmp "$T/data" "$M/a.raw" || fail "the content changed on the way out"
exec 5>&-

# Settings merge, and defaults come back only by a policy.
ask filter-attach target=a.raw type=compress 'settings:=["method=lz4hc","level=4"]' > /dev/null
ask filter-set target=a.raw type=compress 'settings:=["level=5"]' > /dev/null
same "settings" "lz4hc 5" "$(ask_field "' '.join(s['settings']['method']+' '+s['settings']['level']
	for s in r['stages'] if s['type']=='compress')" filter-list target=a.raw)"
ask_refused "level" filter-set target=a.raw type=compress 'settings:=["level=99"]'
ask_refused "no setting" filter-set target=a.raw type=compress 'settings:=["level"]'

# What is made in a directory inherits its stack; below it, all at once.
ask filter-attach target=vm type=scramble force:=true > /dev/null
mkdir "$M/vm/sub"
cp "$T/data" "$M/vm/sub/b.raw"
same "inherited" "scramble:active" "$(stack vm/sub/b.raw)"
drop_caches
cmp "$T/data" "$M/vm/sub/b.raw" || fail "the inherited transform loses data"
ask filter-attach target=vm type=pass recursive:=true > /dev/null
same "below, too" "pass:active scramble:active" "$(stack vm/sub/b.raw)"
same "the datastore is a target" "datastore" "$(ask_field "r['kind']" filter-list target=)"

# A policy is a stack by name: what it lacks goes, settings are as they were saved.
ask policy-save name=gold target=a.raw > /dev/null
same "saved" "gold" "$(ask_field "r['policies'][0]['name']" policy-list)"
ask_refused "transforms the stored data" policy-apply name=gold target=vm/sub/b.raw
same "nothing happened" "pass:active scramble:active" "$(stack vm/sub/b.raw)"
ask policy-apply name=gold target=vm/sub/b.raw wait:=true force:=true > /dev/null
same "applied" "pass:active compress:active" "$(stack vm/sub/b.raw)"
cmp "$T/data" "$M/vm/sub/b.raw" || fail "the policy loses data"
ask_refused "no policy 'none'" policy-apply name=none target=a.raw
ask policy-delete name=gold > /dev/null
ask_refused "no policy 'gold'" policy-delete name=gold

# Binding: without the type that transforms it, an image does not open; others do.
cp "$T/data" "$M/vm/c.raw"
ask filter-attach target=a.raw type=pass > /dev/null
remount_weir without=scramble
cat "$M/vm/c.raw" > /dev/null 2>&1 && fail "an image without its transform opens"
refused EIO "open('$M/vm/c.raw','rb')"
case "$(ask_field "[u['reason'] for u in r['unopenable'] if u['target']=='vm/c.raw']" status)" in
*scramble*) ;;
*) fail "the status does not say why" ;;
esac
same "listed" "False" "$(ask_field "r['opens']" filter-list target=vm/c.raw)"
cmp "$T/data" "$M/a.raw" || fail "another image suffers"
ask_refused "depends on filter" filter-detach target=vm/c.raw type=scramble force:=true
remount_weir without=pass
cmp "$T/data" "$M/vm/c.raw" || fail "an observer that is missing keeps an image from opening"
remount_weir
cmp "$T/data" "$M/vm/c.raw" || fail "it does not open again"
"$WEIR" umount "$DS"
"$WEIR" mount "$DS" "$M" -o without=nonsense 2> "$T/err" && fail "an unknown type was taken"
grep -q nonsense "$T/err" || fail "the mount does not say what is wrong"
mount_weir

# The trail has it all, and is whole.
same "verified" "True" "$(ask_field "r['verify']['whole']" audit verify:=true)"
same "who" "$(id -u) weir" "$(ask_field "r['entries'][0]['uid'], r['entries'][0]['program']" audit |
	tr -d "(),'")"
ask_field "' '.join(e['action'] for e in r['entries'])" audit | grep -q "policy save.*policy delete" ||
	fail "policies are not in the trail"
umount_weir
