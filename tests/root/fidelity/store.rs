//! Repositories: damage is found and repaired, gc removes only what is not needed, and they work without root and on every file
//! system.
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::facts::{Facts, Scope, assert_same_tree};
use crate::common::programs;
use crate::common::sandbox::{Repository, Sandbox, finish, run};
use crate::common::trees;

#[test]
fn fsck_names_damaged_paths_and_the_next_commit_repairs_them() {
    for (name, size) in [("large", 5 << 20), ("small", 3000)] {
        let sandbox = Sandbox::new(&format!("flip-{name}"));
        let tree = sandbox.directory("tree");
        fs::create_dir(tree.join("folder")).expect("the sandbox is writable");
        let content = trees::noise(4242, size);
        fs::write(tree.join("folder/victim"), &content).expect("the sandbox is writable");
        fs::write(tree.join("bystander"), "unharmed").expect("the sandbox is writable");
        let repository = sandbox.repository("repository");
        let id = repository.commit("r", &tree);
        repository.assert_clean();

        flip_a_byte_of(&content, repository.path());
        let found = repository.run(["fsck"]);
        assert_eq!(found.status.code(), Some(1), "{}{}", found.text(), found.stderr);
        let said = format!("{}{}", found.text(), found.stderr);
        assert!(said.contains("/folder/victim"), "fsck does not name the path:\n{said}");
        assert!(said.contains(&id[..8]), "fsck does not name the commit:\n{said}");
        assert!(!said.contains("bystander"), "fsck accuses the innocent:\n{said}");

        repository.run(["fsck", "--repair"]);
        repository.commit("r", &tree);
        repository.assert_clean();
        assert_eq!(repository.run(["cat", "r:/folder/victim"]).stdout, content);
        assert_eq!(
            repository.run(["cat", &format!("{id}:/folder/victim")]).stdout,
            content,
            "the old commit heals too"
        );
    }
}

/// Flips one bit of the content in the file of the repository that holds it.
fn flip_a_byte_of(content: &[u8], repository: &Path) {
    let needle = &content[1000..1040];
    for path in files_below(repository) {
        let bytes = fs::read(&path).expect("root reads all");
        let Some(position) = bytes.windows(needle.len()).position(|window| window == needle) else { continue };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("root may");
        let file = File::options().write(true).open(&path).expect("root may");
        file.write_all_at(&[bytes[position] ^ 1], position as u64).expect("the sandbox is writable");
        return;
    }
    panic!("the content is nowhere in the repository as it is: is it compressed? Then this test needs another way");
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let listing = run("find", [directory.as_os_str(), OsStr::new("-type"), OsStr::new("f")]).success();
    listing.lines().map(PathBuf::from).collect()
}

#[test]
fn damaged_image_or_commit_is_reported_without_a_panic() {
    let sandbox = Sandbox::new("flip-image");
    let tree = sandbox.join("tree");
    trees::medium(&tree, 300);
    let repository = sandbox.repository("repository");
    repository.commit("r", &tree);
    for folder in ["images", "commits"] {
        let path = files_below(&repository.path().join(folder)).pop().unwrap_or_else(|| panic!("{folder} is empty"));
        let before = fs::read(&path).expect("root reads all");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("root may");
        for position in (0..before.len()).step_by((before.len() / 25).max(1)) {
            let mut bytes = before.clone();
            bytes[position] ^= 0x40;
            fs::write(&path, &bytes).expect("the sandbox is writable");
            let found = repository.run(["fsck"]);
            assert!(!found.stderr.contains("panicked"), "{folder} byte {position}:\n{}", found.stderr);
            assert_eq!(found.status.code(), Some(1), "{folder}: byte {position} changed and fsck calls it clean");
        }
        fs::write(&path, &before).expect("the sandbox is writable");
        repository.assert_clean();
    }
}

#[test]
fn gc_keeps_objects_of_a_mounted_commit_until_unmounted() {
    let sandbox = Sandbox::new("gc");
    let (kept, dropped) = (sandbox.join("kept"), sandbox.join("dropped"));
    trees::nasty(&kept);
    trees::medium(&dropped, 1000);
    let repository = sandbox.repository("repository");
    repository.commit("kept", &kept);
    repository.commit("dropped", &dropped);
    let mounted = repository.mount("dropped", &sandbox.join("mounted"), &[]);
    repository.run(["refs", "--delete", "dropped"]).success();
    repository.run(["gc"]).success();
    // The mount has not read it yet, so only the repository has it.
    assert_same_tree(&dropped, mounted.path());
    mounted.unmount();

    let before = disk_use(repository.path());
    let plan = repository.run(["gc", "--dry-run"]);
    assert!(plan.status.success());
    assert_eq!(before, disk_use(repository.path()), "a dry run changed the repository");
    repository.run(["gc"]).success();
    let after = disk_use(repository.path());
    assert!(after + 20_000 < before, "gc freed too little: {before} KiB before, {after} KiB after");
    repository.assert_clean();
    let mounted = repository.mount("kept", &sandbox.join("mounted"), &["suid", "dev"]);
    assert_same_tree(&kept, mounted.path());
}

fn disk_use(path: &Path) -> u64 {
    let said = run("du", [OsStr::new("-sk"), path.as_os_str()]).success();
    said.split_whitespace().next().and_then(|number| number.parse().ok()).expect("du says a number")
}

/// File systems on which a repository must work. They differ in reflinks, attributes and block sizes.
const FILE_SYSTEMS: &[&str] = &["ext4", "xfs", "btrfs"];

#[test]
fn repositories_work_on_every_file_system_of_this_kernel() {
    let sandbox = Sandbox::new("filesystems");
    let tree = sandbox.join("tree");
    trees::nasty(&tree);
    let expected = Facts::of(&tree, Scope::All);
    let known = fs::read_to_string("/proc/filesystems").expect("proc is mounted");
    let mut places = vec![("tmpfs", sandbox.tmpfs("tmpfs", 1 << 30)), ("overlay", overlay(&sandbox))];
    for kind in FILE_SYSTEMS {
        // An unloaded module is listed only after it is loaded; if modprobe fails, the kernel has none.
        let _ = Command::new("modprobe").arg("-q").arg(kind).status();
        if known
            .lines()
            .chain(fs::read_to_string("/proc/filesystems").expect("proc").lines())
            .any(|line| line.trim() == *kind)
        {
            places.push((kind, sandbox.loop_mount(kind, kind, 1 << 30)));
        } else {
            // The only part of the tests that depends on the machine's kernel and not on packages.
            println!("NOT TESTED: this kernel has no {kind}");
        }
    }
    for (kind, place) in places {
        println!("repository on {kind}");
        let repository = Repository::init(place.join("repository"));
        repository.commit("r", &tree);
        repository.commit("r", &tree);
        let mounted = repository.mount("r", &sandbox.join("mounted"), &["suid", "dev"]);
        expected.assert_same(&Facts::of(mounted.path(), Scope::All), &format!("on {kind} the mount differs"));
        mounted.unmount();
        repository.run(["gc"]).success();
        repository.assert_clean();
    }
}

/// On a disk of a gigabyte with a file of 600 MB, the commit fits only if the content of the object takes no room of its own.
#[test]
fn large_contents_share_extents_where_supported() {
    let known = fs::read_to_string("/proc/filesystems").expect("proc is mounted");
    for kind in ["btrfs", "xfs"] {
        if !known.lines().any(|line| line.trim() == kind) {
            println!("NOT TESTED: this kernel has no {kind}");
            continue;
        }
        let sandbox = Sandbox::new(&format!("reflink-{kind}"));
        let place = sandbox.loop_mount(kind, kind, 1 << 30);
        let tree = place.join("tree");
        fs::create_dir(&tree).expect("a new file system is empty");
        fs::write(tree.join("large"), trees::noise(7, 600 << 20)).expect("there is room for one");
        let repository = Repository::init(place.join("repository"));
        repository.commit("r", &tree);
        repository.assert_clean();
        let mounted = repository.mount("r", &sandbox.join("mounted"), &[]);
        assert_same_tree(&tree, mounted.path());
        mounted.unmount();
    }
}

fn overlay(sandbox: &Sandbox) -> PathBuf {
    // The upper directory of an overlay cannot be on an overlay, on which the sandbox itself may be.
    let disk = sandbox.tmpfs("overlay-disk", 1 << 30);
    for name in ["lower", "upper", "work"] {
        fs::create_dir(disk.join(name)).expect("a new tmpfs is empty");
    }
    let merged = sandbox.directory("overlay");
    let at = disk.display();
    let options = format!("lowerdir={at}/lower,upperdir={at}/upper,workdir={at}/work");
    run("mount", ["-t", "overlay", "overlay", "-o", &options].map(OsStr::new).into_iter().chain([merged.as_os_str()]))
        .success();
    merged
}

const NOBODY_UID: u32 = 65_534;

#[test]
fn everything_works_without_root() {
    let sandbox = Sandbox::new("user");
    sandbox.open_fuse_to_everybody();
    let home = sandbox.tmpfs("home", 1 << 30);
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).expect("root may change modes");
    std::os::unix::fs::chown(&home, Some(NOBODY_UID), Some(NOBODY_UID)).expect("root may give away");
    let tree = home.join("tree");
    trees::medium(&tree, 500);
    run("chown", ["-R", "65534:65534"].map(OsStr::new).into_iter().chain([tree.as_os_str()])).success();

    let repository = Repository::init_as(home.join("repository"), NOBODY_UID);
    repository.commit("mine", &tree);
    let mounted = repository.mount("mine", &home.join("mounted"), &[]);
    // Without `allow_other` not even root sees the mount: the comparison runs as the user.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "diff", "-r"]).arg(&tree).arg(mounted.path());
    assert_eq!(finish(command).success(), "");
    mounted.unmount();
    repository.run(["gc"]).success();
    repository.assert_clean();

    // A tree with root's files, as a tar file: owners are in the image, so a user can commit and list it without owning files.
    let foreign = sandbox.join("foreign");
    trees::nasty(&foreign);
    let tar = home.join("foreign.tar");
    let mut command = Command::new("tar");
    command.args([
        "--create",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--format=posix",
        "--warning=no-file-ignored",
        "--sparse",
        "--file",
    ]);
    command.arg(&tar).arg("-C").arg(&foreign).arg(".");
    finish(command).success();
    let id = repository.commit_tar("foreign", &tar);
    let as_root = sandbox.repository("root's");
    assert_eq!(
        as_root
            .run(
                ["commit", "--whiteouts", "verbatim", "--ref", "foreign", "--tar"]
                    .map(OsStr::new)
                    .into_iter()
                    .chain([tar.as_os_str()])
            )
            .status
            .code(),
        Some(0)
    );
    let listing = |repository: &Repository, source: &str| repository.run(["ls", "-l", "-R", source]).success();
    assert_eq!(listing(&repository, &id), listing(&as_root, "foreign"));
}

#[test]
fn errors_name_the_missing_ref_path_or_repository() {
    let sandbox = Sandbox::new("errors");
    let repository = sandbox.repository("repository");
    let (tree, at) = (sandbox.join("tree"), sandbox.directory("at"));
    trees::medium(&tree, 50);
    repository.commit("r", &tree);
    let mount = |source: &str, at: &Path| repository.run([OsStr::new("mount"), OsStr::new(source), at.as_os_str()]);
    assert!(mount("no-such-ref", &at).any_failure().contains("no-such-ref"));
    assert!(mount("r", &sandbox.join("missing")).any_failure().contains("missing"));
    let file = sandbox.join("file");
    fs::write(&file, "").expect("the sandbox is writable");
    assert!(mount("r", &file).any_failure().contains("file"));
    let mut command = Command::new(programs::sapwood());
    command.arg("--repo").arg(sandbox.join("no repository")).args(["refs"]);
    assert!(finish(command).any_failure().contains("no repository"));
    let mut command = Command::new(programs::sapwood());
    command.arg("--repo").arg(repository.path()).args(["umount"]).arg(&at);
    assert!(finish(command).any_failure().contains("at"));
}
