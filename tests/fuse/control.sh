# The control socket: replies, refusals, several at once.
. "$(dirname "$0")/lib.sh"

same "mode of the socket" 600 "$(stat -c %a "$DS/control.sock")"
echo data > "$M/f"
python3 - "$DS/control.sock" <<'PY'
import json, os, socket, sys
def connect():
    s = socket.socket(socket.AF_UNIX)
    d = os.open(os.path.dirname(sys.argv[1]), os.O_PATH)
    s.connect("/proc/self/fd/%d/control.sock" % d)
    os.close(d)
    return s, s.makefile("rb")
def ask(s, f, line):
    s.sendall(line + b"\n")
    while True:
        reply = json.loads(f.readline())
        if "progress" not in reply:
            return reply
s, f = connect()
for bad in (b"", b"nonsense", b"[]", b"{}", b'{"op":1}', b'{"op":"rm"}', b'{"op":"stats","images":[1]}',
            b'{"op":"gc","full":"yes"}', b'{"op":"status","op":"umount"}', b'{"op":"sta\\u0000tus"}', b"\xff\xfe"):
    r = ask(s, f, bad)
    assert r["ok"] is False and r["errno"] > 0 and r["error"], (bad, r)
assert ask(s, f, b'{"op":"status"}')["result"]["health"] == "ok"
assert ask(s, f, b'{"op":"sync"}')["ok"]
assert ask(s, f, b'{"op":"gc","full":true}')["result"]["segments_freed"] >= 0
assert [i["path"] for i in ask(s, f, b'{"op":"images"}')["result"]["images"]] == ["f"]
assert ask(s, f, b'{"op":"stats","images":["f"]}')["result"]["images"][0]["size_bytes"] == 5
assert ask(s, f, b'{"op":"stats","images":["none"]}')["errno"] == 2
# Others while this one stays; more than there are places; a line without end.
crowd = [connect() for _ in range(15)]
assert all(ask(a, b, b'{"op":"status"}')["ok"] for a, b in crowd)
late, g = connect()
crowd[0][1].close(); crowd[0][0].close()
assert ask(late, g, b'{"op":"status"}')["ok"]
late.sendall(b"x" * 300000)
assert json.loads(g.readline())["ok"] is False
PY
umount_weir
