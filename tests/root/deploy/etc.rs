//! The merge of `/etc` on a real file system: every kind of file is kept, and OSTree agrees in the cases where it does what
//! people expect.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::common::facts::assert_same_tree;
use crate::common::machine::{Machine, Os};
use crate::common::sandbox::{Sandbox, run};

/// Makes a file of every kind, by the distribution's tools.
fn nasty(root: &Path) {
    fs::create_dir_all(root).expect("writable");
    let script = "\
set -e
cd \"$0\"
mkfifo -m 620 pipe
mknod -m 600 null c 1 3; mknod -m 660 disk b 8 1
echo secret > secret; chown 1234:70000 secret; chmod 4640 secret
echo one > linked; ln linked linked-too; mkdir d; ln linked d/linked-again
ln -s nowhere/at/all dangling; chown -h 5:6 dangling
mkdir -m 2771 shared; chown 0:42 shared; setfacl -m u:1000:rwx,d:u:1000:rx shared
echo x > shared/acl; setfacl -m g:42:r shared/acl
echo x > attributes; setfattr -n user.note -v 'a value' attributes; setfattr -n trusted.note -v 0x00ff attributes
cp /bin/true capable; setcap cap_net_raw+ep capable
mkdir empty; touch -d '1999-12-31 23:59:59.123456789Z' empty secret pipe shared
touch -h -d '2001-01-01Z' dangling
touch 'a name with blanks' \"$(printf 'not\\xffutf8')\" \"$(printf 'new\\nline')\" 'back\\slash'
mkdir -p deep/a/b/c; echo deep > deep/a/b/c/file
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'
";
    run("bash", ["-c".as_ref(), script.as_ref(), root.as_os_str()]).success();
}

#[test]
fn local_etc_files_survive_an_upgrade_unchanged() {
    let sandbox = Sandbox::new("etc-nasty");
    let machine = Machine::new(&sandbox, "none");
    let one = machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    let etc = machine.etc("");
    nasty(&etc.join("nasty"));
    run("setfattr", ["-n".as_ref(), "user.mark".as_ref(), "-v".as_ref(), "1".as_ref(), etc.join("hosts").as_os_str()])
        .success();
    // The same defaults and another kernel: nothing in /etc may change.
    let mut os = Os::new("1").kernel("2");
    os.version = "2".to_owned();
    let two = machine.publish(&os);
    machine.run(&["upgrade"]).success();
    let old = machine.deployment(&format!("main/{}.0", &one[..12])).join("etc");
    let new = machine.deployment(&format!("main/{}.0", &two[..12])).join("etc");
    assert_same_tree(&old, &new);
    let links = |path: &str| fs::metadata(new.join("nasty").join(path)).expect("it exists");
    assert_eq!(links("linked").ino(), links("d/linked-again").ino(), "hard links are kept");
    assert_eq!(links("linked").nlink(), 3);
    machine.run(&["etc", "status"]).success();
    machine.run(&["etc", "diff"]).success();
}

#[test]
fn etc_defaults_of_every_kind_are_deployed_unchanged() {
    let sandbox = Sandbox::new("etc-defaults");
    let machine = Machine::new(&sandbox, "none");
    let tree = machine.directory.join("os");
    for version in ["1", "2"] {
        Os::new(version).write(&tree);
        nasty(&tree.join("usr/etc/nasty"));
        fs::write(tree.join("usr/etc/nasty/secret"), format!("secret {version}\n")).expect("writable");
        let id = machine.repository().commit("nasty", &tree);
        machine.run(&["deploy", &id, "--unsigned"]).success();
        assert_same_tree(&tree.join("usr/etc"), &machine.etc(""));
        fs::remove_file(tree.join("usr/etc/nasty/pipe")).expect("it exists");
    }
}

#[test]
fn etc_reset_and_upgrade_merge_can_be_undone() {
    let sandbox = Sandbox::new("etc-undo");
    let machine = Machine::new(&sandbox, "none");
    machine.publish(&Os::new("1").with("usr/etc/dir/one", "1\n").with("usr/etc/dir/two", "2\n"));
    machine.run(&["deploy", "os:test"]).success();
    let etc = machine.etc("");
    let keep = sandbox.join("keep");
    let snapshot = || {
        crate::common::sandbox::remove_tree(&keep);
        run("cp", ["-a".as_ref(), etc.as_os_str(), keep.as_os_str()]).success();
    };
    fs::write(etc.join("dir/one"), "mine\n").expect("writable");
    fs::set_permissions(etc.join("dir/one"), fs::Permissions::from_mode(0o640)).expect("owned by the test");
    fs::remove_file(etc.join("dir/two")).expect("it exists");
    fs::write(etc.join("dir/three"), "3\n").expect("writable");
    nasty(&etc.join("dir/nasty"));
    snapshot();
    let planned = machine.run(&["etc", "reset", "dir", "--dry-run"]).success();
    assert!(planned.contains("would change /etc/dir/one"), "{planned}");
    assert_same_tree(&keep, &etc);
    machine.run(&["etc", "reset", "/etc/dir"]).success();
    assert_eq!(fs::read_to_string(etc.join("dir/one")).expect("it exists"), "1\n");
    assert!(etc.join("dir/two").exists() && !etc.join("dir/three").exists() && !etc.join("dir/nasty").exists());
    machine.run(&["etc", "undo"]).success();
    // The mtime of a directory is that of its last change.
    for path in ["", "dir"] {
        run("touch", ["-r".as_ref(), keep.join(path).as_os_str(), etc.join(path).as_os_str()]).success();
    }
    assert_same_tree(&keep, &etc);
    machine.run(&["etc", "undo"]).failure(1);
    machine.run(&["etc", "reset", "nowhere"]).failure(1);
    // The merge of an upgrade can be undone, too, path by path.
    machine.publish(&Os::new("2").with("usr/etc/dir/one", "1\n").with("usr/etc/new", "new\n"));
    machine.run(&["upgrade"]).success();
    let etc = machine.etc("");
    assert_eq!(fs::read_to_string(etc.join("issue")).expect("it exists"), "Test OS 2\n");
    machine.run(&["etc", "undo", "issue"]).success();
    assert_eq!(fs::read_to_string(etc.join("issue")).expect("it exists"), "Test OS 1\n");
    assert!(etc.join("new").exists());
    machine.run(&["etc", "undo"]).success();
    assert!(!etc.join("new").exists());
    assert_eq!(fs::read_to_string(etc.join("dir/one")).expect("it exists"), "mine\n");
}

#[test]
fn merge_rules_pin_paths_and_merge_lines() {
    let sandbox = Sandbox::new("etc-rules");
    let machine = Machine::new(&sandbox, "none");
    let os = |version: &str, last: &str| {
        Os::new(version)
            .with("usr/etc/prog/prog.conf", &format!("a = 1\nb = 2\nc = 3\nd = {last}\n"))
            .with("usr/etc/motd", version)
    };
    machine.publish(&os("1", "4"));
    machine.run(&["deploy", "os:test"]).success();
    let etc = machine.etc("");
    fs::create_dir_all(etc.join("sapwood")).expect("writable");
    fs::write(etc.join("sapwood/merge.toml"), "local = ['motd']\ndefault = ['issue']\ntext = ['prog/*']\n")
        .expect("writable");
    fs::write(etc.join("issue"), "mine\n").expect("writable");
    fs::write(etc.join("prog/prog.conf"), "a = one\nb = 2\nc = 3\nd = 4\n").expect("writable");
    machine.publish(&os("2", "four"));
    machine.run(&["upgrade"]).success();
    let read = |path: &str| fs::read_to_string(machine.etc(path)).expect("it exists");
    assert_eq!(read("motd"), "1", "pinned to what was here");
    assert_eq!(read("issue"), "Test OS 2\n", "pinned to the default");
    assert_eq!(read("prog/prog.conf"), "a = one\nb = 2\nc = 3\nd = four\n");
    fs::write(machine.etc("sapwood/merge.toml"), "locale = []\n").expect("writable");
    machine.publish(&os("3", "4"));
    let said = machine.run(&["upgrade"]).failure(1);
    assert!(said.contains("merge.toml"), "{said}");
}

/// Rows of the merge matrix in which OSTree does what people expect: old default, local, new default.
const OSTREE_CASES: &[(&str, &str, &str)] = &[
    ("A", "A", "A"),
    ("A", "A", "B"),
    ("A", "A", "-"),
    ("A", "A", "->x"),
    ("A", "A", "A600"),
    ("-", "-", "A"),
    ("-", "-", "dir"),
    ("A", "B", "A"),
    ("A", "B", "C"),
    ("A", "B", "-"),
    ("A", "B", "B"),
    ("A", "B600", "A"),
    ("A", "A600", "A"),
    ("A", "-", "A"),
    ("A", "-", "B"),
    ("A", "-", "-"),
    ("-", "A", "-"),
    ("-", "A", "A"),
    ("-", "A", "B"),
    ("-", "->x", "-"),
    ("-", "dir", "-"),
    ("-", "dir+", "-"),
    ("A", "->x", "A"),
    ("A", "->x", "B"),
    ("->x", "->y", "->x"),
    ("->x", "->x", "->y"),
    ("->x", "A", "->x"),
    ("dir", "dir", "-"),
    ("dir+", "dir+", "-"),
    ("dir+", "-", "dir+"),
    ("dir+", "dir+mine", "dir+"),
    ("dir+", "dir+mine", "-"),
    ("dir+", "dir+new", "dir"),
];

fn make(path: &Path, state: &str) {
    let file = |path: &Path, text: &str, mode: u32| {
        fs::write(path, text).expect("writable");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("owned by the test");
    };
    if let Ok(metadata) = fs::symlink_metadata(path) {
        if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("owned by the test");
    }
    match state {
        "-" => {}
        "->x" | "->y" => symlink(&state[2..], path).expect("writable"),
        "A600" | "B600" => file(path, &state[..1], 0o600),
        _ if state.starts_with("dir") => {
            fs::create_dir(path).expect("writable");
            if state.starts_with("dir+") {
                file(&path.join("child"), if state == "dir+mine" { "mine" } else { "child" }, 0o644);
            }
            if state == "dir+new" {
                file(&path.join("own"), "own", 0o644);
            }
        }
        _ => file(path, state, 0o644),
    }
}

/// Returns kind, mode, and content or target of everything in a tree. `.sapwood-new` copies are removed, since OSTree makes
/// none.
fn facts(root: &Path) -> String {
    let script = "cd \"$0\" && rm -rf ./*.sapwood-new && find row-* -printf '%p %y %m %l\\n' | sort \
        && find row-* -type f -print0 | sort -z | xargs -0 -r sha256sum";
    run("bash", ["-c".as_ref(), script.as_ref(), root.as_os_str()]).success()
}

#[test]
fn etc_merge_agrees_with_ostree_in_the_listed_cases() {
    let sandbox = Sandbox::new("ostree");
    // In memory, since OSTree makes deployments immutable, which ends with the mount.
    let place = sandbox.tmpfs("memory", 256 << 20);
    let machine = Machine::at(place.join("machine"), "none");
    let ostree_root = place.join("ostree-root");
    fs::create_dir_all(ostree_root.join("boot")).expect("writable");
    let ostree = |arguments: &[&OsStr]| run("ostree", arguments.iter().copied()).success();
    let word = OsStr::new;
    let sysroot_argument = format!("--sysroot={}", ostree_root.display());
    let repo_argument = format!("--repo={}/ostree/repo", ostree_root.display());
    ostree(&[word("admin"), word("init-fs"), ostree_root.as_os_str()]);
    ostree(&[word("admin"), word("os-init"), word("main"), word(&sysroot_argument)]);
    let tree = place.join("tree");
    let deployed = |side: usize| -> (PathBuf, PathBuf) {
        Os::new(&side.to_string()).write(&tree);
        // Directories that OSTree requires in a tree.
        fs::create_dir_all(tree.join("sysroot")).expect("writable");
        for (number, row) in OSTREE_CASES.iter().enumerate() {
            make(&tree.join(format!("usr/etc/row-{number:02}")), if side == 0 { row.0 } else { row.2 });
        }
        ostree(&[
            word("commit"),
            word(&repo_argument),
            word("--branch=test"),
            word("--owner-uid=0"),
            word("--owner-gid=0"),
            tree.as_os_str(),
        ]);
        ostree(&[word("admin"), word("deploy"), word(&sysroot_argument), word("--os=main"), word("test")]);
        let id = machine.repository().commit("test", &tree);
        machine.run(&["deploy", &id, "--unsigned"]).success();
        let theirs = run("ostree", ["admin", "status", &sysroot_argument]).success();
        let line = theirs.lines().find(|line| line.contains("main ")).expect("a deployment");
        let name = line.split_whitespace().find(|word| word.len() > 60).expect("a checksum");
        (ostree_root.join("ostree/deploy/main/deploy").join(name).join("etc"), machine.etc(""))
    };
    let (theirs, ours) = deployed(0);
    for (number, (_, local, _)) in OSTREE_CASES.iter().enumerate() {
        for etc in [&theirs, &ours] {
            let path = etc.join(format!("row-{number:02}"));
            let (old, _, _) = OSTREE_CASES[number];
            // An edit in place, as an editor does it: the mode of the file is kept.
            if *local != old {
                make(&path, local);
            }
        }
    }
    let (theirs, ours) = deployed(1);
    assert_eq!(facts(&ours), facts(&theirs), "left: sapwood, right: ostree");
    println!("{} rows, the same outcome", OSTREE_CASES.len());
}
