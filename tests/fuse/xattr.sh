# Extended attributes.
. "$(dirname "$0")/lib.sh"

touch "$M/f"
mkdir "$M/d"
python3 - "$M" <<'PY'
import os, sys
m = sys.argv[1]
for path in (m + "/f", m + "/d", m):
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "user.a", b"22")
    assert os.getxattr(path, "user.a") == b"22"
    assert os.listxattr(path) == ["user.a"], os.listxattr(path)
    os.setxattr(path, "security.selinux", b"system_u:object_r:virt_image_t:s0\0")
    os.removexattr(path, "user.a")
    assert os.listxattr(path) == ["security.selinux"], os.listxattr(path)
os.setxattr(m + "/f", "user.big", b"x" * 60000)
assert len(os.getxattr(m + "/f", "user.big")) == 60000
os.setxattr(m + "/f", "user.empty", b"")
assert os.getxattr(m + "/f", "user.empty") == b""
if os.geteuid() == 0:
    os.setxattr(m + "/f", "trusted.t", b"t")
    assert "trusted.t" in os.listxattr(m + "/f")
    os.symlink("f", m + "/l")
    os.setxattr(m + "/l", "trusted.l", b"l", follow_symlinks=False)
    assert os.getxattr(m + "/l", "trusted.l", follow_symlinks=False) == b"l"
PY
refused EEXIST "os.setxattr('$M/f', 'user.big', b'', os.XATTR_CREATE)"
refused ENODATA "os.setxattr('$M/f', 'user.none', b'', os.XATTR_REPLACE)"
refused ENODATA "os.getxattr('$M/f', 'user.none')"
refused ENODATA "os.removexattr('$M/f', 'user.none')"
refused EOPNOTSUPP "os.setxattr('$M/f', 'system.posix_acl_access', b'\\2\\0\\0\\0\\1\\0\\6\\0\\377\\377\\377\\377\\4\\0\\4\\0\\377\\377\\377\\377\\40\\0\\4\\0\\377\\377\\377\\377')"
refused E2BIG "os.setxattr('$M/f', 'user.toobig', b'x' * 65537)"
remount_weir
same "after a remount" 60000 "$(python3 -c "import os; print(len(os.getxattr('$M/f', 'user.big')))")"
