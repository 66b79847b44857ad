#!/usr/bin/env python3
"""A QEMU guest agent for tests: speaks the protocol on a Unix socket, and freezes nothing.

usage: agent.py SOCKET LOG [hang]   - writes each command to LOG; hang: freezes and does not answer
"""
import json
import os
import socket
import sys
import time

path, log, fault = sys.argv[1], open(sys.argv[2], 'a', buffering=1), sys.argv[3:]
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(1)
print('ready', flush=True)
frozen = False
while True:
    conn, _ = server.accept()
    data = b''
    while True:
        try:
            got = conn.recv(4096)
        except ConnectionError:
            break
        if not got:
            break
        data += got
        while b'\n' in data:
            line, data = data.split(b'\n', 1)
            ask = json.loads(line.lstrip(b'\xff'))
            command = ask['execute']
            prefix, value = b'', {}
            if command == 'guest-sync-delimited':
                prefix, value = b'\xff', ask['arguments']['id']
            else:
                log.write(command + '\n')
            if command == 'guest-fsfreeze-status':
                value = 'frozen' if frozen else 'thawed'
            elif command == 'guest-fsfreeze-freeze':
                frozen, value = True, 1
                if fault:
                    continue
            elif command == 'guest-fsfreeze-thaw':
                frozen, value = False, 1
            try:
                conn.sendall(prefix + json.dumps({'return': value}).encode() + b'\n')
            except OSError:
                break
    conn.close()
