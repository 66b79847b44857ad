#!/usr/bin/env python3
"""One request to a datastore's control socket, straight over the wire.

usage: ask.py DIR OP [KEY=TEXT | KEY:=JSON ...]

Prints the result as JSON, or the error's text with exit code 1.
"""
import json
import os
import socket
import sys


def ask(directory, request):
    """The reply, and how many progress lines came before it."""
    s = socket.socket(socket.AF_UNIX)
    fd = os.open(directory, os.O_PATH)
    s.connect("/proc/self/fd/%d/control.sock" % fd)
    os.close(fd)
    s.sendall(json.dumps(request).encode() + b"\n")
    progress = 0
    for line in s.makefile("rb"):
        reply = json.loads(line)
        if "progress" not in reply:
            return reply, progress
        progress += 1
    raise EOFError("the daemon is gone")


def main():
    request = {"op": sys.argv[2]}
    for word in sys.argv[3:]:
        key, value = word.split("=", 1)
        if key.endswith(":"):
            request[key[:-1]] = json.loads(value)
        else:
            request[key] = value
    reply, _ = ask(sys.argv[1], request)
    if not reply["ok"]:
        print(reply["error"])
        sys.exit(1)
    json.dump(reply["result"], sys.stdout, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
