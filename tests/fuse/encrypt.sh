#!/bin/bash
# Encrypted images: no plaintext and no key in the datastore, locked without the key, key slots, rotation,
# and what was there before encrypted in place.
LIMIT=${LIMIT:-170}
. "$(dirname "$0")/lib.sh"

head -c 64 /dev/urandom > "$T/key"
head -c 64 /dev/urandom > "$T/key2"
head -c 64 /dev/urandom > "$T/wrong"
secret="the plaintext that nobody may find"

# secret_file FILE MIB: recognizable, compressible, and no chunk like another
secret_file() {
	awk -v s="$secret" -v n=$(($2 * 16384)) 'BEGIN { for (i = 0; i < n; i++) printf "%s %08d %018d\n", s, i, i * 7919 }' > "$1"
}

# No file of the datastore holds the plaintext, compressed or not: so nothing that LZ4 leaves as it is.
no_plaintext() {
	"$WEIR" status "$DS" > /dev/null
	if grep -rlaF -e "$secret" -e "the plaintext that" -e "nobody may find" "$DS"; then
		fail "plaintext in the datastore: $1"
	fi
}
has_plaintext() { grep -rqaF -e "nobody may find" "$DS" || fail "the search finds nothing where it should"; }
no_key() {
	python3 - "$DS" "$T/key" "$T/key2" <<- 'PY' || fail "key material in the datastore"
	import os, sys
	keys = [open(k, "rb").read() for k in sys.argv[2:]]
	for path, _, names in os.walk(sys.argv[1]):
	    for name in names:
	        full = os.path.join(path, name)
	        if not os.path.isfile(full):
	            continue
	        data = open(full, "rb").read()
	        for k in keys:
	            for i in range(0, len(k) - 16, 8):
	                if k[i:i + 16] in data or k[i:i + 16].hex().encode() in data:
	                    sys.exit(f"{full} holds bytes of a key")
	PY
}

secret_file "$T/plain" 4
"$WEIR" key create "$M" vault --key-file "$T/key" > /dev/null
mkdir "$M/safe" "$M/open"
"$WEIR" filter attach "$M/safe" encrypt key=vault > /dev/null

# A new image in an encrypted directory; flushed through the log, and committed.
cp "$T/plain" "$M/safe/a.raw"
dd if="$T/plain" of="$M/safe/b.raw" bs=64k conv=fsync status=none
python3 - "$M/safe/b.raw" "$secret" <<'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for i in range(50): # small flushes: the intent log
    os.pwrite(fd, sys.argv[2].encode() * 3, 1000 * i)
    os.fsync(fd)
PY
no_plaintext "while mounted"
cp "$M/safe/b.raw" "$T/b"
remount_weir
"$WEIR" key list "$M" | grep -q vault || fail "no key 'vault' listed"
same "size without the key" "$(stat -c %s "$T/plain")" "$(stat -c %s "$M/safe/a.raw")"
refused ENOKEY "open('$M/safe/a.raw')"
"$WEIR" status "$M" | grep -q "vault" || fail "the status does not say which key is missing"
echo others work > "$M/open/x"
same "another image" "others work" "$(cat "$M/open/x")"
"$WEIR" key unlock "$M" vault --key-file "$T/wrong" 2> "$T/err" && fail "a wrong key unlocks"
"$WEIR" key unlock "$M" vault --key-file "$T/key" > /dev/null
cmp "$T/plain" "$M/safe/a.raw"
cmp "$T/b" "$M/safe/b.raw"
umount_weir
no_plaintext "after umount"
no_key
mount_weir
"$WEIR" key unlock "$M" vault --key-file "$T/key" > /dev/null

# What is there already is encrypted in place; then no plaintext is left.
cp "$T/plain" "$M/open/c.raw"
sync "$M/open/c.raw"
has_plaintext
"$WEIR" filter attach "$M/open/c.raw" encrypt key=vault --wait > "$T/out"
no_plaintext "after encrypting in place"
cmp "$T/plain" "$M/open/c.raw"
"$WEIR" check "$DS" > /dev/null 2>&1 || true # mounted: refused, nothing happens

# How many different wrapped keys lie in the files of the datastore, by their salts.
wrapped_keys() {
	python3 - "$DS" <<- 'PY'
	import os, re, sys
	salts = set()
	for path, _, names in os.walk(sys.argv[1]):
	    for name in names:
	        full = os.path.join(path, name)
	        if os.path.isfile(full):
	            data = open(full, "rb").read()
	            salts |= {data[m.start() + 12:m.start() + 44] for m in re.finditer(b"WKEY\x01", data)}
	print(len(salts))
	PY
}

# Another slot, without rewriting; the first one goes, from log and WAL, too; the last one does not.
"$WEIR" key add "$M" vault --key-file "$T/key" --new-key-file "$T/key2" > /dev/null
same "wrapped keys" 2 "$(wrapped_keys)"
"$WEIR" key remove "$M" vault 0 > /dev/null
same "wrapped keys once one is removed" 1 "$(wrapped_keys)"
"$WEIR" key remove "$M" vault 1 2> /dev/null && fail "the last slot went"
remount_weir
"$WEIR" key unlock "$M" vault --key-file "$T/key" 2> /dev/null && fail "a removed slot unlocks"
"$WEIR" key unlock "$M" vault --key-file "$T/key2" > /dev/null
cmp "$T/plain" "$M/safe/a.raw"

# Rotation rewrites; the old key is gone; content stays.
"$WEIR" key rotate "$M" vault --key-file "$T/key2" --wait > /dev/null
cmp "$T/plain" "$M/safe/a.raw"
cmp "$T/plain" "$M/open/c.raw"
no_plaintext "after rotation"

# Decrypting in place.
"$WEIR" filter detach "$M/open/c.raw" encrypt --wait > /dev/null
cmp "$T/plain" "$M/open/c.raw"
remount_weir
cmp "$T/plain" "$M/open/c.raw"
refused ENOKEY "open('$M/safe/a.raw')"
rm "$M/safe/a.raw" # can go without the key
umount_weir
"$WEIR" check "$DS" --data > "$T/out" || fail "check: $(cat "$T/out")"
no_key
