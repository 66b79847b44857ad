#!/usr/bin/env python3
"""Turns the numbered schema files into one C array: embed.py OUT.h 001-x.sql 002-y.sql ..."""
import os
import sys

out, files = sys.argv[1], sys.argv[2:]
lines = ["/* Made by meta/schema/embed.py from meta/schema/NNN-*.sql. */",
         "static const char *const schema_sql[] = {"]
for number, path in enumerate(files, 1):
    name = os.path.basename(path)
    if int(name[:3]) != number:
        sys.exit("%s: expected number %03d" % (name, number))
    lines.append("\t/* %s */" % name)
    for line in open(path, encoding="ascii"):
        text = line.rstrip("\n").replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
        lines.append('\t"%s\\n"' % text)
    lines.append("\t,")
lines.append("};")
with open(out, "w", encoding="ascii") as f:
    f.write("\n".join(lines) + "\n")
