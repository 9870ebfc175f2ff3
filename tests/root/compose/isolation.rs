//! Scripts of treefiles and packages cannot reach the machine, and other users cannot redirect a compose.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use super::fixture::Composer;
use crate::common::sandbox::{Sandbox, run};

/// A script that prints which files with settings of the whole machine can be opened for writing.
pub const PROBE: &str = "for file in $(find /proc/sys /proc/irq /proc/bus /proc/sysrq-trigger /proc/acpi /sys -type f 2>/dev/null); do \
    if (: >>\"$file\") 2>/dev/null; then echo \"$file\"; fi; done";

/// Makes a root with a shell and the programs that the probe needs, from this machine.
fn small_root(root: &Path) {
    for directory in
        ["usr/bin", "usr/lib", "usr/sbin", "usr/lib64", "usr/etc", "var/lib/dpkg/info", "var/lib/dpkg/updates"]
    {
        fs::create_dir_all(root.join(directory)).expect("writable");
    }
    for link in ["bin", "lib", "sbin", "lib64"] {
        symlink(format!("usr/{link}"), root.join(link)).expect("writable");
    }
    for program in ["sh", "find", "ls", "mknod", "mount", "env"] {
        let path = PathBuf::from("/usr/bin").join(program);
        fs::copy(&path, root.join("usr/bin").join(program)).expect("every machine has it");
        for word in run("ldd", [&path]).success().split_whitespace().filter(|word| word.starts_with('/')) {
            let at = root.join(word.trim_start_matches('/'));
            fs::create_dir_all(at.parent().expect("below the root")).expect("writable");
            fs::copy(word, at).expect("ldd found it");
        }
    }
    fs::write(root.join("usr/lib/os-release"), "ID=demo\n").expect("writable");
    let status =
        "Package: demo\nStatus: install ok installed\nArchitecture: all\nVersion: 1\nMaintainer: n\nDescription: d\n\n";
    fs::write(root.join("var/lib/dpkg/status"), status).expect("writable");
    fs::write(root.join("var/lib/dpkg/info/demo.list"), "").expect("writable");
}

#[test]
fn treefile_script_cannot_change_the_build_machine() {
    let sandbox = Sandbox::new("compose-walls");
    let root = sandbox.directory("root");
    small_root(&root);
    let treefile = sandbox.join("t.yaml");
    let script = [
        "#!/bin/sh".to_owned(),
        format!("{PROBE} >/usr/lib/writable"),
        "(mknod /usr/lib/sda b 8 0 || mount -t tmpfs none /tmp) 2>/dev/null && echo yes >/usr/lib/powers".to_owned(),
        "env >/usr/lib/environment".to_owned(),
        "exit 0".to_owned(),
    ];
    let indented = script.join("\n    ");
    fs::write(
        &treefile,
        format!("ref: t/x\ndistribution: debian\ncontainer: true\npostprocess:\n  - |\n    {indented}\n"),
    )
    .expect("writable");
    let composer = Composer::new(&sandbox.join("c"));
    let mut command = composer.command(&["--from-root", &root.to_string_lossy(), &treefile.to_string_lossy()]);
    command.env("CI_TOKEN", "secret");
    crate::common::sandbox::finish(command).success();
    let cat = |path: &str| composer.repository.run(["cat", &format!("t/x:/usr/lib/{path}")]);
    assert_eq!(cat("writable").success(), "", "these can be written");
    cat("powers").failure(1);
    assert!(!cat("environment").success().contains("CI_TOKEN"));
}

#[test]
fn symbolic_link_planted_as_a_lock_is_not_followed() {
    let sandbox = Sandbox::new("compose-walls-lock");
    let (victim, tree) = (sandbox.join("victim"), sandbox.directory("tree"));
    fs::write(&victim, "precious\n").expect("writable");
    let composer = Composer::new(&sandbox.join("c"));
    // As any user can do in a directory that all may write to.
    fs::create_dir_all(&composer.work).expect("writable");
    fs::set_permissions(&composer.work, fs::Permissions::from_mode(0o1777)).expect("owned by the test");
    let planted = composer.work.join("sapwood-compose.x");
    fs::create_dir(&planted).expect("writable");
    symlink(&victim, planted.join("lock")).expect("writable");
    chown(&planted, Some(65534), Some(65534)).expect("root may give away");
    let _ = composer.run(&["--from-root", &tree.to_string_lossy(), "--ref", "t/y"]);
    assert_eq!(fs::read_to_string(&victim).expect("it exists"), "precious\n");
    assert!(planted.exists(), "a directory of another user was removed");

    let repository = sandbox.repository("repo");
    for lock in ["writer.lock", "removal.lock"] {
        let lock = repository.path().join("state").join(lock);
        if lock.exists() {
            fs::remove_file(&lock).expect("owned by the test");
        }
        symlink(&victim, &lock).expect("writable");
        let message = repository.run(["gc"]).failure(1);
        assert!(message.contains("a symbolic link lies there"), "{message}");
        fs::remove_file(&lock).expect("owned by the test");
    }
    assert_eq!(fs::read_to_string(&victim).expect("it exists"), "precious\n");
}
