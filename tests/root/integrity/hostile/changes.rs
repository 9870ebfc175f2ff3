//! Every modifying system call on a mount changes nothing and fails with an error that says that the filesystem is read-only.
//!
//! This holds in both modes, and also after root has told the kernel that the filesystem may be written to, so that the kernel
//! does not refuse by itself.

use crate::common::sandbox::{Sandbox, run};

/// Calls by path must fail with EROFS. Calls on a descriptor that is open for reading may fail with the errors for that
/// (`EBADF`, `EINVAL`, `EACCES`), before the filesystem is asked. `ENOSYS` is a kernel without the call. When the kernel does
/// not refuse by itself, a file may be opened, and nothing be written to it; unnamed files are not offered at all.
const SCRIPT: &str = r#"
import ctypes, errno, os, socket, struct, sys
at, is_asked = sys.argv[1].encode(), sys.argv[2] == 'asked'
libc = ctypes.CDLL(None, use_errno=True)
file, directory, link, new = at + b'/file', at + b'/directory', at + b'/link', at + b'/new'
READ_ONLY, NOT_OPEN = {errno.EROFS}, {errno.EROFS, errno.EBADF, errno.EINVAL, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTTY}
fd = os.open(file, os.O_RDONLY)
dirfd = os.open(directory, os.O_RDONLY)
CWD, N = -100, None
def call(name, number, *args): return (name, lambda: libc.syscall(ctypes.c_long(number), *[a if isinstance(a, bytes) or a is None or not isinstance(a, int) else ctypes.c_long(a) for a in args]))
def opens(flags): return call('open %o' % flags, 257, CWD, new if flags & os.O_CREAT else directory if flags & 0o20000000 else file, flags, 0o600)
how = struct.pack('QQQ', os.O_WRONLY, 0, 0)
value = ctypes.create_string_buffer(b'value')
xattr_args = struct.pack('QII', ctypes.addressof(value), 5, 0)
attr = bytes(24)
dedupe = bytearray(24 + 32)
by_path = [
    opens(os.O_WRONLY), opens(os.O_RDWR), opens(os.O_WRONLY | os.O_APPEND), opens(os.O_WRONLY | os.O_TRUNC), opens(os.O_RDONLY | os.O_TRUNC),
    opens(os.O_CREAT | os.O_WRONLY), opens(os.O_CREAT | os.O_EXCL), opens(0o20200000 | os.O_RDWR),
    call('open to write', 2, file, os.O_WRONLY, 0), call('creat', 85, new, 0o600), call('openat2', 437, CWD, file, how, len(how)),
    call('truncate', 76, file, 0), call('truncate longer', 76, file, 1 << 40),
    call('mkdir', 83, new, 0o700), call('mkdirat', 258, CWD, new, 0o700), call('rmdir', 84, directory),
    call('mknod fifo', 133, new, 0o10600, 0), call('mknodat device', 259, CWD, new, 0o20600, 0x103), call('mknod file', 133, new, 0o100600, 0),
    call('link', 86, file, new), call('linkat', 265, CWD, file, CWD, new, 0), call('linkat of a descriptor', 265, fd, b'', CWD, new, 0x1000),
    call('symlink', 88, b'x', new), call('symlinkat', 266, b'x', CWD, new),
    call('unlink', 87, file), call('unlinkat', 263, CWD, file, 0), call('unlinkat directory', 263, CWD, directory, 0x200),
    call('rename', 82, file, new), call('renameat', 264, CWD, file, CWD, new), call('renameat2 no replace', 316, CWD, file, CWD, new, 1),
    call('renameat2 exchange', 316, CWD, file, CWD, link, 2), call('renameat2 whiteout', 316, CWD, file, CWD, new, 4),
    call('chmod', 90, file, 0o777), call('fchmodat', 268, CWD, file, 0o777), call('fchmodat2', 452, CWD, file, 0o777, 0),
    call('chown', 92, file, 1, 1), call('lchown', 94, link, 1, 1), call('fchownat', 260, CWD, file, 1, 1, 0),
    call('utime', 132, file, N), call('utimes', 235, file, N), call('futimesat', 261, CWD, file, N), call('utimensat', 280, CWD, file, N, 0),
    call('setxattr', 188, file, b'user.a', b'v', 1, 0), call('lsetxattr', 189, file, b'user.a', b'v', 1, 0), call('setxattr capability', 188, file, b'security.capability', b'\0\0\0\2' + bytes(16), 20, 0),
    call('removexattr', 197, file, b'user.x'), call('lremovexattr', 198, file, b'user.x'),
    call('setxattrat', 463, CWD, file, 0, b'user.a', xattr_args, 16), call('removexattrat', 466, CWD, file, 0, b'user.x'),
    call('fchmod', 91, fd, 0o777), call('fchown', 93, fd, 1, 1), call('futimens', 280, fd, N, N, 0),
    call('fsetxattr', 190, fd, b'user.a', b'v', 1, 0), call('fremovexattr', 199, fd, b'user.x'),
]
by_descriptor = [
    call('write', 1, fd, b'x', 1), call('pwrite64', 18, fd, b'x', 1, 0), call('ftruncate', 77, fd, 0), call('fallocate', 285, fd, 0, 0, 4096),
    call('fallocate hole', 285, fd, 3, 0, 4096), call('copy_file_range', 326, fd, N, fd, N, 1, 0), call('sendfile', 40, fd, fd, N, 1),
    call('ioctl FICLONE', 16, fd, 0x40049409, fd), call('ioctl FS_IOC_SETFLAGS', 16, fd, 0x40086602, struct.pack('l', 16)),
    call('ioctl FS_IOC_FSSETXATTR', 16, fd, 0x401c5820, bytes(28)), call('ioctl FS_IOC_ENABLE_VERITY', 16, fd, 0x40806685, struct.pack('IIII', 1, 1, 4096, 0) + bytes(112)),
    call('mmap to write', 9, 0, 4096, 3, 1, fd, 0),
    # Not on a descriptor, but of the same kind: most filesystems do not offer it.
    call('file_setattr', 469, CWD, file, attr, 24, 0),
]
def bind():
    s = socket.socket(socket.AF_UNIX)
    try: s.bind(new)
    except OSError as error: ctypes.set_errno(error.errno); return -1
    return 0
by_path.append(('bind', bind))
wrong, done = [], 0
for allowed, calls in ((READ_ONLY, by_path), (NOT_OPEN, by_descriptor)):
    for name, act in calls:
        ctypes.set_errno(0)
        result, error = act(), ctypes.get_errno()
        if result != -1 and is_asked and name.startswith('open'):
            # Without messages for opening, what is written is what is refused.
            result, error = libc.write(result, b'x', ctypes.c_size_t(1)), ctypes.get_errno()
        if is_asked and error == errno.EOPNOTSUPP and 'open 2020' in name: continue
        if result != -1: wrong.append('%s succeeded' % name)
        elif error == errno.ENOSYS: continue
        elif error not in allowed: wrong.append('%s: %s' % (name, os.strerror(error)))
        done += 1
if wrong: sys.exit('\n'.join(wrong))
print(done)
"#;

/// Remounts as `mount -o remount,rw` does; prints whether the kernel accepted it.
const REMOUNT_SCRIPT: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(libc.mount(None, sys.argv[1].encode(), None, ctypes.c_ulong(32), None) and os.strerror(ctypes.get_errno()))
"#;

#[test]
fn every_modifying_system_call_is_refused() {
    let sandbox = Sandbox::new("changes");
    let tree = sandbox.directory("tree");
    let script = format!(
        "cd {} && mkdir directory && head -c 300000 /dev/urandom > file && ln -s file link && setfattr -n user.x -v 1 file",
        tree.display()
    );
    run("sh", ["-c", &script]).success();
    let repository = sandbox.repository("repo");
    repository.commit("main", &tree);
    for options in [&[][..], &["passthrough"]] {
        let mounted = repository.mount("main", &sandbox.join("m"), options);
        let at = mounted.path().to_str().expect("UTF-8").to_owned();
        let tried = run("python3", ["-c", SCRIPT, &at, "by the kernel"]).success();
        assert!(tried.parse::<usize>().expect("a number") > 60, "only {tried} calls were tried");
        run("python3", ["-c", REMOUNT_SCRIPT, &at]).success();
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("proc is mounted");
        let line = table.lines().find(|line| line.split(' ').nth(4) == Some(&at)).expect("mounted");
        println!("{options:?}: {tried} calls; then as {line}");
        run("python3", ["-c", SCRIPT, &at, "asked"]).success();
        run("diff", ["-r".as_ref(), tree.as_os_str(), mounted.path().as_os_str()]).success();
        mounted.unmount();
    }
    repository.assert_clean();
}
