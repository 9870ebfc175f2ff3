//! No tool of the distribution finds a difference between a tree and its mount, its export as a directory, its export as a tar
//! file, and what is committed again from that tar file.
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use crate::common::facts::{Facts, Scope, assert_rsync_sees_no_difference, assert_same_tree};
use crate::common::programs;
use crate::common::sandbox::{Repository, Sandbox, finish, run};
use crate::common::trees;

/// Commits `tree`, and compares it with its mounts and its export.
#[track_caller]
fn assert_comes_back_as_files(sandbox: &Sandbox, tree: &Path) -> Repository {
    let repository = sandbox.repository("repository");
    let expected = Facts::of(tree, Scope::All);
    let id = repository.commit("tree", tree);
    expected.assert_same(&Facts::of(tree, Scope::All), "committing changed the tree it read");

    for options in [&["suid", "dev"][..], &["suid", "dev", "passthrough"]] {
        let mounted = repository.mount("tree", &sandbox.join("mounted"), options);
        expected.assert_same(&Facts::of(mounted.path(), Scope::All), &format!("the mount ({options:?}) differs"));
        assert_rsync_sees_no_difference(tree, mounted.path(), Scope::All);
        mounted.unmount();
    }

    let exported = sandbox.join("exported");
    repository.run([OsStr::new("export"), OsStr::new(&id), exported.as_os_str()]).success();
    expected.assert_same(&Facts::of(&exported, Scope::All), "the exported directory differs");
    assert_rsync_sees_no_difference(tree, &exported, Scope::All);
    crate::common::sandbox::remove_tree(&exported);
    repository.assert_clean();
    repository
}

/// Exports a tar file, unpacks it by GNU tar, and commits it again without unpacking.
fn assert_comes_back_as_tar(sandbox: &Sandbox, repository: &Repository, tree: &Path) {
    let tar = sandbox.join("exported.tar");
    let mut export = repository.command(["export", "tree", "--tar", "-"]);
    export.stdout(File::create(&tar).expect("the sandbox is writable"));
    assert!(export.status().expect("the program starts").success(), "export --tar failed");

    let expected = Facts::of(tree, Scope::NoSockets);
    let unpacked = sandbox.directory("unpacked");
    unpack(&tar, &unpacked);
    let theirs = Facts::of(&unpacked, Scope::NoSockets);
    expected.assert_same(&theirs, "the exported tar, unpacked by GNU tar, differs");
    crate::common::sandbox::remove_tree(&unpacked);

    repository.commit_tar("again", &tar);
    let again = repository.mount("again", &sandbox.join("again"), &["suid", "dev"]);
    expected.assert_same(&Facts::of(again.path(), Scope::NoSockets), "the tar, committed again, differs");
    again.unmount();
    fs::remove_file(&tar).expect("it was just made");
    repository.assert_clean();
}

fn unpack(tar: &Path, into: &Path) {
    let mut command = Command::new("tar");
    command.args(["--extract", "--xattrs", "--xattrs-include=*", "--acls", "--same-owner", "--preserve-permissions"]);
    command.args(["--numeric-owner", "--delay-directory-restore", "--file"]).arg(tar).current_dir(into);
    finish(command).success();
}

#[test]
fn tree_of_edge_cases_round_trips_as_files_and_tar() {
    let sandbox = Sandbox::new("nasty");
    let tree = sandbox.join("tree");
    trees::nasty(&tree);
    let repository = assert_comes_back_as_files(&sandbox, &tree);
    assert_comes_back_as_tar(&sandbox, &repository, &tree);
}

#[test]
fn debian_root_round_trips_as_files() {
    let sandbox = Sandbox::new("debian");
    assert_comes_back_as_files(&sandbox, &trees::debian_root());
}

/// A separate test, so that it runs beside the other one: each takes minutes.
#[test]
fn debian_root_round_trips_as_tar() {
    let sandbox = Sandbox::new("debian-tar");
    let tree = trees::debian_root();
    let repository = sandbox.repository("repository");
    repository.commit("tree", &tree);
    assert_comes_back_as_tar(&sandbox, &repository, &tree);
}

#[test]
fn directory_of_100_000_entries_round_trips() {
    let sandbox = Sandbox::new("wide");
    let tree = sandbox.join("tree");
    trees::wide(&tree, 100_000);
    let repository = sandbox.repository("repository");
    repository.commit("wide", &tree);
    let mounted = repository.mount("wide", &sandbox.join("mounted"), &[]);
    assert_same_tree(&tree, mounted.path());
    assert!(!mounted.path().join("entry-100000").exists());
    assert!(mounted.path().join("entry-099999").exists());
}

#[test]
fn sparse_file_over_4_gib_round_trips() {
    let sandbox = Sandbox::new("huge");
    let tree = sandbox.join("tree");
    trees::huge(&tree);
    let repository = sandbox.repository("repository");
    repository.commit("huge", &tree);
    // Each tool reads 4 GiB, so each tree is read only once.
    let expected = Facts::of(&tree, Scope::All);
    let mounted = repository.mount("huge", &sandbox.join("mounted"), &[]);
    expected.assert_same(&Facts::of(mounted.path(), Scope::All), "the mount differs");
    assert_rsync_sees_no_difference(&tree, mounted.path(), Scope::All);
    let exported = sandbox.join("exported");
    repository.run([OsStr::new("export"), OsStr::new("huge"), exported.as_os_str()]).success();
    expected.assert_same(&Facts::of(&exported, Scope::All), "the export differs");
    // 24 KiB of data: neither repository nor export may have written the 4 GiB of holes.
    for place in [repository.path(), &exported] {
        let used = run("du", [OsStr::new("-sk"), place.as_os_str()]).success();
        let kib: u64 = used.split_whitespace().next().and_then(|n| n.parse().ok()).expect("du says a number");
        assert!(kib < 4096, "{} uses {kib} KiB for 24 KiB of data", place.display());
    }
}

#[test]
fn commit_id_does_not_depend_on_the_path_of_the_tree() {
    let sandbox = Sandbox::new("reproducible");
    let tree = sandbox.join("tree");
    trees::nasty(&tree);
    let moved = sandbox.join("moved");
    let commit = |repository: &Repository, directory: &Path| {
        let words = ["commit", "--ref", "r", "--timestamp", "1700000000", "--parent", "none"].map(OsStr::new);
        repository.run(words.into_iter().chain([directory.as_os_str()])).success()
    };
    let first = commit(&sandbox.repository("one"), &tree);
    fs::rename(&tree, &moved).expect("within the sandbox");
    assert_eq!(first, commit(&sandbox.repository("two"), &moved));
}

#[test]
fn programs_run_in_a_root_whose_usr_is_the_mount() {
    let sandbox = Sandbox::new("chroot");
    let debian = trees::debian_root();
    let repository = sandbox.repository("repository");
    repository.commit("usr", &debian.join("usr"));
    for (name, options) in [("default", &["suid", "dev"][..]), ("passthrough", &["suid", "dev", "passthrough"])] {
        let root = chroot_around(&sandbox, &debian, name);
        let mounted = repository.mount("usr", &root.join("usr"), options);
        for (program, expected) in PROGRAMS {
            let mut command = Command::new("chroot");
            command
                .arg(&root)
                .args(["/bin/sh", "-ec", program])
                .env("PATH", "/usr/bin:/usr/sbin")
                .env("LC_ALL", "C.UTF-8");
            let run = finish(command);
            let said = format!("{}{}", run.text(), run.stderr);
            assert!(run.status.success(), "{name}: {program}: {}\n{said}", run.status);
            assert!(said.contains(expected), "{name}: {program} said\n{said}");
        }
        mounted.unmount();
    }
}

/// Programs that load, link, execute, map and look up files in as many ways as a system does.
const PROGRAMS: &[(&str, &str)] = &[
    (
        "python3 -c 'import json, ssl, sqlite3, asyncio, http.client; print(json.dumps([ssl.OPENSSL_VERSION]))'",
        "OpenSSL",
    ),
    ("python3 -c 'import numpy; print(int(numpy.arange(10).sum()))'", "45"),
    (
        "perl -MPOSIX -MFile::Find -e 'my $n = 0; find(sub { $n++ }, \"/usr/share/perl\"); print $n > 100 ? \"many\" : \"few\"'",
        "many",
    ),
    (
        "cd /tmp; printf '#include <iostream>\\nint main() { std::cout << \"compiled\"; }' > a.cc; g++ -O1 -o a a.cc; ./a",
        "compiled",
    ),
    (
        "cd /tmp; git init -q g; cd g; git -c user.name=a -c user.email=b commit -q --allow-empty -m first; git log --oneline",
        "first",
    ),
    ("systemctl --version", "systemd"),
    ("find /usr -xdev -type f | wc -l | tr -d ' ' | sed 's/^[0-9]\\{5,\\}$/plenty/'", "plenty"),
    ("ldconfig -p | grep -c so | sed 's/^[0-9]*$/libraries/'", "libraries"),
    ("man -w bash || ls /usr/share/man/man1/bash.1.gz", "bash"),
    ("vim --version | head -1", "VIM"),
    ("touch /usr/x 2>&1 || true", "Read-only file system"),
    ("gdb --version | head -1; sudo -V | head -1", "GNU gdb"),
];

/// Makes a copy of the Debian root without its `/usr`, which leaves the shared root unchanged.
fn chroot_around(sandbox: &Sandbox, debian: &Path, name: &str) -> std::path::PathBuf {
    let root = sandbox.directory(&format!("root-{name}"));
    for part in ["bin", "sbin", "lib", "lib64", "etc", "var/lib/dpkg/status"] {
        let target = root.join(part);
        fs::create_dir_all(target.parent().expect("below the root")).expect("the sandbox is writable");
        run("cp", [OsStr::new("-a"), debian.join(part).as_os_str(), target.as_os_str()]).success();
    }
    for part in ["tmp", "proc", "dev", "usr", "root"] {
        fs::create_dir_all(root.join(part)).expect("the sandbox is writable");
    }
    for part in ["proc", "dev"] {
        let (from, to) = (Path::new("/").join(part), root.join(part));
        run("mount", [OsStr::new("--rbind"), from.as_os_str(), to.as_os_str()]).success();
    }
    root
}

#[test]
fn mount_supports_df_direct_io_mmap_overlays_and_busy_umount() {
    let sandbox = Sandbox::new("citizen");
    let tree = sandbox.join("tree");
    trees::nasty(&tree);
    let repository = sandbox.repository("repository");
    repository.commit("tree", &tree);
    let mounted = repository.mount("tree", &sandbox.join("mounted"), &[]);
    let at = |path: &str| mounted.path().join(path);

    // `df` shows neither 0 nor 100 %.
    let df = run("df", [OsStr::new("--output=size,pcent"), mounted.path().as_os_str()]).success();
    let last = df.lines().last().unwrap_or_default();
    let size: u64 = last.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
    assert!(size > 0 && !last.trim_end().ends_with(" -"), "df says {df}");

    // Every way to write fails with "Read-only file system".
    for line in [
        "touch new",
        "mkdir new",
        "rm -f sizes/noise-1",
        "rmdir 'empty directory'",
        "mv sizes/noise-1 moved",
        "ln sizes/noise-1 linked",
        "ln -s x linked",
        "chmod 600 sizes/noise-1",
        "chown 1 sizes/noise-1",
        "touch sizes/noise-1",
        "truncate -s 1 sizes/noise-1",
        "setfattr -n user.x -v y sizes/noise-1",
        "mkfifo new",
        "sh -c 'echo > sizes/noise-1'",
    ] {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(mounted.path());
        let said = finish(command);
        assert!(!said.status.success() && said.stderr.contains("Read-only file system"), "{line}: {}", said.stderr);
    }

    // A path has the same inode number after another mount of the same commit.
    let number = |root: &Path| fs::metadata(root.join("sizes/noise-65536")).expect("it is there").ino();
    let second = repository.mount("tree", &sandbox.join("second"), &[]);
    assert_eq!(number(mounted.path()), number(second.path()));
    second.unmount();

    // O_DIRECT, mmap and an overlay on top.
    run(
        "dd",
        [
            format!("if={}", at("sizes/noise-1048576").display()),
            "of=/dev/null".into(),
            "bs=64k".into(),
            "iflag=direct".into(),
        ],
    )
    .success();
    let (upper, work, merged) = (sandbox.directory("upper"), sandbox.directory("work"), sandbox.directory("merged"));
    let options =
        format!("lowerdir={},upperdir={},workdir={}", mounted.path().display(), upper.display(), work.display());
    run(
        "mount",
        [
            OsStr::new("-t"),
            OsStr::new("overlay"),
            OsStr::new("overlay"),
            OsStr::new("-o"),
            OsStr::new(&options),
            merged.as_os_str(),
        ],
    )
    .success();
    let file = File::options().write(true).open(merged.join("sizes/noise-4097")).expect("overlays are writable");
    file.write_all_at(b"changed", 0).expect("copied up");
    drop(file);
    assert_ne!(
        fs::read(merged.join("sizes/noise-4097")).expect("read"),
        fs::read(at("sizes/noise-4097")).expect("read")
    );
    assert_eq!(
        fs::read(merged.join("sizes/noise-4096")).expect("read"),
        fs::read(tree.join("sizes/noise-4096")).expect("read")
    );
    run("umount", [&merged]).success();

    // A busy mount cannot be unmounted; afterwards it can.
    let open = File::open(at("sizes/noise-1048577")).expect("it is there");
    let busy = repository.run([OsStr::new("umount"), mounted.path().as_os_str()]);
    assert!(!busy.status.success(), "unmounting under an open file succeeded");
    drop(open);
    mounted.unmount();
}

#[test]
fn daemon_closes_the_pipes_of_its_caller() {
    let sandbox = Sandbox::new("pipes");
    let tree = sandbox.directory("tree");
    fs::write(tree.join("file"), "x").expect("the sandbox is writable");
    let repository = sandbox.repository("repository");
    repository.commit("tree", &tree);
    let at = sandbox.directory("mounted");
    // `cat` ends only when no process holds the pipe any more.
    let script = r#"timeout 20 sh -c '"$0" --repo "$1" mount tree "$2" 2>&1 | cat' "$0" "$1" "$2""#;
    let program = programs::sapwood();
    let words =
        [OsStr::new("-c"), OsStr::new(script), program.as_os_str(), repository.path().as_os_str(), at.as_os_str()];
    run("sh", words).success();
    assert!(crate::common::sandbox::is_mounted(&at));
    repository.run([OsStr::new("umount"), at.as_os_str()]).success();
}
