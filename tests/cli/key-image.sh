#!/bin/bash
# an image of a locked key is visible and does not open; what was flushed before a crash waits for the key
. "$(dirname "$0")/lib.sh"
need_fuse
new_datastore ds
mkdir mnt
head -c 32 /dev/urandom >one.key
mount_ds ds mnt
run 0 "$WEIR" key create mnt vms --key-file one.key

# ask JSON: one request to the daemon, its result in ./out
ask()
{
	python3 - "$1" >out <<'PY' || fail "the daemon answers: $(cat out)"
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect("ds/control.sock")
f = s.makefile("rw")
f.write(sys.argv[1] + "\n")
f.flush()
reply = {}
while "ok" not in reply:
    reply = json.loads(f.readline())
print(json.dumps(reply.get("result", reply)))
sys.exit(not reply["ok"])
PY
}

random_file data 8 1
cp data mnt/before
mkdir mnt/dir
ask '{"op": "filter-attach", "target": "before", "type": "encrypt", "settings": ["key=vms"], "wait": true}'
ask '{"op": "filter-attach", "target": "dir", "type": "encrypt", "settings": ["key=vms"]}'
cp data mnt/dir/inherited
cmp data mnt/before && cmp data mnt/dir/inherited || fail "encrypted images read differently"
run 0 "$WEIR" key list mnt --json
[ "$(jq '.keys[0].images' out)" = 2 ] || fail "the list says: $(cat out)"
refused 8 "is in use: by" "$WEIR" key delete mnt vms
ok "images of a key are counted, and keep it from being deleted"

exec 9<mnt/before
refused 8 "is in use: 'before' is open" "$WEIR" key lock mnt vms
exec 9<&-
locked=
for _ in $(seq 50); do # the kernel tells of the close in its own time
	if weir key lock mnt vms >out 2>err; then locked=1; break; fi
	sleep 0.1
done
[ "$locked" ] || fail "a closed image keeps the key: $(cat err)"
[ "$(stat -c %s mnt/before)" = "$((8 << 20))" ] || fail "a locked image is not visible"
if cat mnt/before >/dev/null 2>&1; then fail "a locked image opens"; fi
run 0 "$WEIR" status ds --json
[[ $(jq -r '.unopenable[0].reason' out) == "key 'vms' is locked (weir key unlock "* ]] || fail "status says: $(cat out)"
echo plain >mnt/other && [ "$(cat mnt/other)" = plain ] || fail "other files are affected"
run 0 "$WEIR" key unlock mnt vms --key-file one.key
says out "2 images"
run 0 "$WEIR" status ds --json
[ "$(jq -c .unopenable out)" = '[]' ] || fail "unlocked, and the status says: $(jq -c .unopenable out)"
cmp data mnt/before || fail "differs after unlocking"
ok "a locked image is visible and does not open, others do"

run 0 "$WEIR" key rotate mnt vms --key-file one.key --wait
says out "2 images moved"
cmp data mnt/before && cmp data mnt/dir/inherited || fail "differs after the rotation"
run 0 "$WEIR" key list mnt --json
[ "$(jq -c '.keys[0].rotating_from' out)" = '[]' ] || fail "the old domain is still there: $(cat out)"
ok "rotation moves the images while they can be read"

# Flushed into the intent log, then a crash: the records wait for the key.
random_file more 1 2
dd if=more of=mnt/before bs=64k conv=notrunc,fsync seek=16 2>/dev/null
pid=$(weir status ds --json | jq .pid)
kill -9 "$pid"
fusermount3 -u -z mnt 2>/dev/null || umount -l mnt
for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
mount_ds ds mnt
run 0 "$WEIR" umount mnt # nothing may be lost by committing without the key
mount_ds ds mnt
run 0 "$WEIR" key unlock mnt vms --key-file one.key
dd if=more of=data bs=64k conv=notrunc seek=16 2>/dev/null
cmp data mnt/before || fail "what was flushed is lost"
ok "what was flushed under the key survives a crash and mounts without it"

# Two copies that share nothing, and no hash either; what is moved and collected keeps being what it was.
run 0 "$WEIR" filter attach mnt/dir dedupe mode=off
cp data mnt/dir/one
cp data mnt/dir/two
run 0 "$WEIR" umount mnt
rm -f ds/index # it is made anew from segments
run 0 "$WEIR" check ds --data --key one.key
says out "clean"
mount_ds ds mnt
run 0 "$WEIR" key unlock mnt vms --key-file one.key
dd if=/dev/zero of=mnt/dir/one bs=4k count=100 conv=notrunc,fsync status=none
run 0 "$WEIR" gc mnt
cmp data mnt/dir/two || fail "differs after a collection"
cp data mnt/dir/three
run 0 "$WEIR" filter detach mnt/dir/three dedupe
cat data >mnt/dir/three
sync mnt/dir/three
cmp data mnt/dir/three || fail "differs, found in an index that was made anew"
rm mnt/dir/one mnt/dir/two mnt/dir/three
ok "images of a key that are not deduplicated are checked, collected and read"

for image in before dir/inherited dir; do
	ask "{\"op\": \"filter-detach\", \"target\": \"$image\", \"type\": \"encrypt\", \"wait\": true}"
done
run 0 "$WEIR" key delete mnt vms
cmp data mnt/before || fail "differs after it was decrypted"
ask '{"op": "audit", "target": "", "verify": true}'
jq -e '.verify.whole' out >/dev/null || fail "the audit trail is broken: $(cat out)"
[ "$(jq '[.entries[] | select(.action | startswith("key "))] | length' out)" -ge 6 ] || fail "entries are missing: $(cat out)"
run 0 "$WEIR" umount mnt
run 0 "$WEIR" check ds --data
ok "a key that nothing uses can go; the audit trail knows all of it"
