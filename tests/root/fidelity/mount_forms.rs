//! Mounts where and as other filesystems are mounted: in user namespaces, with mapped owners, by the helpers of mount(8).
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use nix::unistd::{Uid, chown};

use crate::common::sandbox::{Sandbox, finish, is_mounted, run};

/// Clones a mount with the owner 0 mapped to 5000, and prints the owner of a file in it.
const MAPPED_CLONE: &str = r"
import ctypes, os, signal, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*arguments)
    if result < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    return result
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    if libc.unshare(0x10000000):
        os._exit(1)
    os.write(ready[1], b'x')
    os.read(go[0], 1)
    os._exit(0)
os.read(ready[0], 1)
for name in 'uid_map', 'gid_map':
    with open(f'/proc/{child}/{name}', 'w') as file:
        file.write('0 5000 70000')
users = os.open(f'/proc/{child}/ns/user', os.O_RDONLY)
clone = call(428, -100, sys.argv[1].encode(), 1 | 0o2000000)
attributes = struct.pack('QQQQ', 0x100000, 0, 0, users)
call(442, clone, b'', 0x1000, attributes, len(attributes))
call(429, clone, b'', -100, sys.argv[2].encode(), 4)
print(os.stat(sys.argv[2] + '/file').st_uid, os.stat(sys.argv[1] + '/file').st_uid)
os.write(go[1], b'x')
os.wait()
";

#[test]
fn owners_are_mapped_in_an_id_mapped_clone() {
    let sandbox = Sandbox::new("mount-idmap");
    let repository = sandbox.repository("repo");
    let (tree, clone) = (sandbox.directory("tree"), sandbox.directory("clone"));
    fs::write(tree.join("file"), "x").expect("writable");
    chown(&tree.join("file"), Some(Uid::from_raw(7)), None).expect("root may");
    repository.commit("main", &tree);
    let mounted = repository.mount("main", &sandbox.join("m"), &["allow_other"]);
    let script = ["-c".as_ref(), MAPPED_CLONE.as_ref(), mounted.path().as_os_str(), clone.as_os_str()];
    assert_eq!(run("python3", script).success(), "5007 7");
    run("umount", [clone.as_os_str()]).success();
    mounted.unmount();
}

#[test]
fn root_of_a_user_namespace_mounts_with_and_without_a_log() {
    let sandbox = Sandbox::new("mount-userns");
    sandbox.open_fuse_to_everybody();
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    fs::write(tree.join("file"), "seen").expect("writable");
    repository.commit("main", &tree);
    run("chmod", ["-R".as_ref(), "a+rX".as_ref(), sandbox.path().as_os_str()]).success();
    let home = sandbox.directory("home");
    let at = home.join("m");
    fs::create_dir(&at).expect("writable");
    for path in [&home, &at, &repository.path().to_owned()] {
        run("chown", ["-R".as_ref(), "65534:65534".as_ref(), path.as_os_str()]).success();
    }
    let program = repository.command([OsStr::new("mount"), "main".as_ref(), at.as_os_str()]);
    let words: Vec<String> = std::iter::once(program.get_program())
        .chain(program.get_args())
        .map(|word| format!("'{}'", word.to_str().expect("UTF-8")))
        .collect();
    let sapwood = words[0].clone();
    for (runtime, place) in [("run", "has a log"), ("", "has none")] {
        let script =
            format!("{} && cat '{}/file' && {sapwood} umount '{}'", words.join(" "), at.display(), at.display());
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urm", "bash", "-c", &script]);
        command.env_remove("XDG_RUNTIME_DIR").env("HOME", &home);
        if !runtime.is_empty() {
            let runtime = home.join(runtime);
            fs::create_dir(&runtime).expect("writable");
            chown(&runtime, Some(Uid::from_raw(65_534)), None).expect("root may");
            command.env("XDG_RUNTIME_DIR", runtime);
        }
        let said = finish(command).success();
        assert!(said.contains("seen"), "{place}: {said}");
    }
    assert!(home.join("run/sapwood").is_dir());
}

#[test]
fn several_mounts_end_at_once_and_all_of_them() {
    let sandbox = Sandbox::new("umount-several");
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    fs::create_dir(tree.join("inner")).expect("writable");
    repository.commit("main", &tree);
    let at: Vec<_> = ["a", "b", "c\nd"].iter().map(|name| sandbox.directory(name)).collect();
    let mount = || {
        for at in at.iter().chain([&at[0].join("inner")]) {
            repository.run([OsStr::new("mount"), "main".as_ref(), at.as_os_str()]).success();
        }
    };
    mount();
    // One line for each mount, whatever its name.
    assert_eq!(repository.run(["mounts"]).success().lines().count(), 5);
    let said = repository.run([OsStr::new("umount"), at[0].as_os_str(), "/proc".as_ref(), at[1].as_os_str()]);
    let said = said.failure(1);
    assert!(said.contains("inner") && said.contains("not Sapwood's"), "{said}");
    assert!(is_mounted(&at[0]) && !is_mounted(&at[1]));
    repository.run(["umount", "--all"]).success();
    assert!(!at.iter().any(|at| is_mounted(at)));
    repository.run(["umount", "--all"]).success();
}

#[test]
fn program_understands_the_call_of_mount_fuse() {
    let sandbox = Sandbox::new("mount-fuse-call");
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    repository.commit("main", &tree);
    let mounted = repository.mount("main", &sandbox.join("m"), &[]);
    let program = sandbox.join("sapwood");
    symlink(env!("CARGO_BIN_EXE_sapwood"), &program).expect("writable");
    let program = program.to_str().expect("UTF-8");
    let at = mounted.path().to_str().expect("UTF-8").to_owned();
    let at = at.as_str();
    run(program, ["main", at, "-o", "remount,ro,nosuid,noexec"]).success();
    let flags = run("findmnt", ["-no", "VFS-OPTIONS", at]).success();
    assert!(flags.contains("nosuid") && flags.contains("noexec"), "{flags}");
    mounted.unmount();
    let options = format!("repo={}", repository.path().display());
    run(program, ["main", at, "-o", &options]).success();
    assert!(is_mounted(at.as_ref()));
    repository.umount(at.as_ref());
}
