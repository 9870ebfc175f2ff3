//! Mounting what was never pulled: the same tree as the one that was committed, whatever happens on the way.
//!
//! The oracle compares a lazy mount with the directory that was committed, by the distribution's tools. What a network or a
//! server may do wrong is done to the published files or to the link.
mod bounded;
mod chosen;
mod figures;
mod guesses;
mod moved;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::facts::{Scope, assert_rsync_sees_no_difference, assert_same_tree};
use crate::common::published::Published;
use crate::common::sandbox::{Mounted, Repository, Sandbox};
use crate::common::trees;

/// What was published, and a client that has nothing of it.
struct Scene {
    sandbox: Sandbox,
    published: PathBuf,
    publisher: Repository,
    client: Repository,
}

impl Scene {
    fn new(name: &str, tree: &Path) -> Self {
        let sandbox = Sandbox::new(name);
        let published = sandbox.directory("published");
        let publisher = sandbox.repository("publisher");
        publisher.commit("main", tree);
        Published::default().add(publisher.path(), "main", &published);
        let client = sandbox.repository("client");
        let scene = Self { sandbox, published, publisher, client };
        scene.add_remote(&scene.client);
        scene
    }

    fn add_remote(&self, client: &Repository) {
        let url = format!("file://{}", self.published.display());
        client.run(["remote", "add", "--replace", "os", &url, "--insecure-unsigned"]).success();
    }

    fn mount(&self, options: &[&str]) -> Mounted {
        let options: Vec<&str> = ["suid", "dev"].iter().chain(options).copied().collect();
        self.client.mount("os:main", &self.sandbox.join("mounted"), &options)
    }

    /// The network is gone, or back.
    fn set_online(&self, online: bool) {
        let away = self.sandbox.join("away");
        let (from, to) = if online { (&away, &self.published) } else { (&self.published, &away) };
        fs::rename(from, to).expect("the sandbox is writable");
    }

    fn status(&self) -> serde_json::Value {
        let text = self.client.run(["mounts", "--json"]).success();
        let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let own = self.sandbox.join("mounted");
        let mut mounts = all.as_array().expect("a list").iter();
        mounts.rfind(|mount| mount["mountpoint"] == *own.to_str().expect("UTF-8")).expect("listed").clone()
    }
}

fn number(value: &serde_json::Value, field: &str) -> u64 {
    value["lazy"][field].as_u64().unwrap_or_else(|| panic!("no number {field} in {value}"))
}

/// Waits for what happens in the background.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "still not: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn forests(sandbox: &Sandbox) -> PathBuf {
    let tree = sandbox.join("tree");
    trees::nasty(&tree.join("nasty"));
    trees::medium(&tree.join("medium"), 400);
    trees::wide(&tree.join("wide"), 3000);
    tree
}

#[test]
fn a_tree_that_was_never_pulled_is_the_tree_that_was_committed() {
    let ground = Sandbox::new("lazy-fidelity-tree");
    let tree = forests(&ground);
    let scene = Scene::new("lazy-fidelity", &tree);
    let mounted = scene.mount(&[]);
    assert_same_tree(&tree, mounted.path());
    assert_rsync_sees_no_difference(&tree, mounted.path(), Scope::All);
    eventually("everything was read, so everything is here", || scene.status()["lazy"]["offline_safe"] == true);
    mounted.unmount();
    scene.client.assert_clean();

    // A second time, without anybody there.
    scene.set_online(false);
    let mounted = scene.mount(&[]);
    assert_same_tree(&tree, mounted.path());
    assert_eq!(number(&scene.status(), "requests"), 0);
    mounted.unmount();
    scene.client.assert_clean();
}

/// Names, sizes and times that compress badly, so that the published image begins with a head frame; up to 8,192 entries, a
/// column of it fits into one block.
#[test]
fn a_directory_that_compresses_badly_is_mounted_as_well() {
    for entries in [2_500_usize, 6_500] {
        let ground = Sandbox::new("lazy-sizes-tree");
        let tree = ground.directory("tree");
        for (number, draw) in trees::noise(7, entries * 16).chunks_exact(16).enumerate() {
            let value = u64::from_le_bytes(draw[..8].try_into().expect("eight bytes"));
            let path = tree.join(format!("{value:016x}-{number}"));
            fs::write(&path, &draw[..1 + number % 16]).expect("the sandbox is writable");
            let time = Duration::new(1_700_000_000 + value % 1_000_000, u32::from(draw[8]) << 20);
            let file = fs::File::options().write(true).open(&path).expect("just made");
            file.set_modified(std::time::UNIX_EPOCH + time).expect("ours");
        }
        let scene = Scene::new("lazy-sizes", &tree);
        let mounted = scene.mount(&[]);
        assert_rsync_sees_no_difference(&tree, mounted.path(), Scope::All);
        mounted.unmount();
    }
}

/// Every regular file below a directory.
fn files(tree: &Path) -> Vec<PathBuf> {
    let (mut pending, mut found) = (vec![tree.to_owned()], Vec::new());
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).expect("listable") {
            let entry = entry.expect("listable");
            let kind = entry.file_type().expect("known");
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn medium_tree(sandbox: &Sandbox, files: usize) -> PathBuf {
    let tree = sandbox.join("tree");
    trees::medium(&tree, files);
    tree
}

/// Reads every file of the mount; each is either what it should be or an input/output error. Returns how many were errors.
#[track_caller]
fn assert_right_or_refused(tree: &Path, mounted: &Path) -> usize {
    let mut refused = 0;
    for path in files(tree) {
        let relative = path.strip_prefix(tree).expect("below it");
        match fs::read(mounted.join(relative)) {
            Ok(bytes) => assert!(bytes == fs::read(&path).expect("readable"), "{} has wrong bytes", relative.display()),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{}", relative.display());
                refused += 1;
            }
        }
    }
    refused
}

fn pack_files(published: &Path) -> Vec<PathBuf> {
    files(&published.join("packs"))
}

#[test]
fn what_a_server_changes_is_refused_and_never_shown() {
    let ground = Sandbox::new("lazy-corrupt-tree");
    let tree = medium_tree(&ground, 200);
    let scene = Scene::new("lazy-corrupt", &tree);
    let packs = pack_files(&scene.published);
    assert!(packs.len() > 2);
    let sound: Vec<Vec<u8>> = packs.iter().map(|pack| fs::read(pack).expect("readable")).collect();
    for (pack, bytes) in packs.iter().zip(&sound) {
        let mut damaged = bytes.clone();
        for at in (100..damaged.len()).step_by(200_000) {
            damaged[at] ^= 0x40;
        }
        replace(pack, &damaged);
    }
    let mounted = scene.mount(&[]);
    let refused = assert_right_or_refused(&tree, mounted.path());
    assert!(refused > 0, "nothing was damaged");
    assert!(refused < 200, "a damaged frame is no reason to refuse all others");
    for (pack, bytes) in packs.iter().zip(&sound) {
        replace(pack, bytes);
    }
    assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0, "a server that was mended is read again");
    mounted.unmount();
    scene.client.assert_clean();
}

fn replace(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, bytes).expect("the sandbox is writable");
    fs::rename(&beside, path).expect("the sandbox is writable");
}

#[test]
fn what_is_gone_is_an_error_what_is_here_goes_on_and_all_recovers() {
    let ground = Sandbox::new("lazy-gone-tree");
    let tree = medium_tree(&ground, 200);
    let scene = Scene::new("lazy-gone", &tree);
    let mounted = scene.mount(&["fetch-timeout=2"]);
    let read = |name: &str| fs::read(mounted.path().join(name));
    let cached = read("01/file-1").expect("it is there");
    // The rest of the tree is larger than what comes along with one small file.
    scene.set_online(false);
    let start = Instant::now();
    assert!(assert_right_or_refused(&tree, mounted.path()) > 0, "everything came with one small file");
    // Two seconds for each of the hundreds of files that are missing would be minutes.
    assert!(start.elapsed() < Duration::from_secs(60));
    assert_eq!(read("01/file-1").expect("it is here"), cached);
    assert!(fs::metadata(mounted.path().join("39/file-199")).expect("names are here").len() > 3000);
    scene.set_online(true);
    // In a long outage it is asked once a second whether it is over.
    eventually("the network is back", || assert_right_or_refused(&tree, mounted.path()) == 0);
    mounted.unmount();
    scene.client.assert_clean();
}

#[test]
fn a_full_disk_is_streamed_past() {
    let ground = Sandbox::new("lazy-full-tree");
    let tree = medium_tree(&ground, 300);
    let scene = Scene::new("lazy-full", &tree);
    let disk = scene.sandbox.tmpfs("small", 3 << 20);
    let small = Repository::init(disk.join("repository"));
    scene.add_remote(&small);
    let mounted = small.mount("os:main", &scene.sandbox.join("mounted"), &[]);
    assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0);
    mounted.unmount();
    small.assert_clean();
}

#[test]
fn a_killed_daemon_leaves_nothing_that_is_wrong() {
    let ground = Sandbox::new("lazy-killed-tree");
    let tree = medium_tree(&ground, 200);
    let scene = Scene::new("lazy-killed", &tree);
    for round in 1..6_u64 {
        let mounted = scene.mount(&[]);
        let pid = scene.status()["pid"].as_i64().expect("a process");
        let reader = {
            let (tree, mounted) = (tree.clone(), mounted.path().to_owned());
            std::thread::spawn(move || {
                for path in files(&tree) {
                    let relative = path.strip_prefix(&tree).expect("below it").to_owned();
                    if let Ok(bytes) = fs::read(mounted.join(&relative)) {
                        assert!(bytes == fs::read(&path).expect("readable"), "{}", relative.display());
                    }
                }
            })
        };
        std::thread::sleep(Duration::from_millis(150 * round));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL)
            .expect("it runs");
        reader.join().expect("nothing wrong was read");
        drop(mounted);
        scene.client.assert_clean();
    }
    let mounted = scene.mount(&[]);
    assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0);
    mounted.unmount();
    scene.client.assert_clean();
}

#[test]
fn two_mounts_of_one_repository_do_not_disturb_each_other() {
    let ground = Sandbox::new("lazy-two-tree");
    let tree = medium_tree(&ground, 200);
    let scene = Scene::new("lazy-two", &tree);
    let first = scene.mount(&[]);
    let second = scene.client.mount("os:main", &scene.sandbox.join("second"), &[]);
    std::thread::scope(|scope| {
        let readers = [first.path(), second.path(), first.path(), second.path()];
        let readers = readers.map(|mounted| scope.spawn(|| assert_right_or_refused(&tree, mounted)));
        for reader in readers {
            assert_eq!(reader.join().expect("no panic"), 0);
        }
    });
    first.unmount();
    second.unmount();
    scene.client.assert_clean();
}

#[test]
fn listing_a_tree_takes_few_requests_and_no_contents() {
    let ground = Sandbox::new("lazy-list-tree");
    let tree = forests(&ground);
    let scene = Scene::new("lazy-list", &tree);
    let mounted = scene.mount(&[]);
    let listed = fs::read_dir(mounted.path()).expect("listable").count();
    assert_eq!(listed, fs::read_dir(&tree).expect("listable").count());
    let found = std::process::Command::new("find").arg(mounted.path()).args(["-printf", "%s %m\n"]).output();
    let lines = found.expect("find runs").stdout.iter().filter(|byte| **byte == b'\n').count();
    assert!(lines > 3000, "{lines}");
    let status = scene.status();
    // The image's beginning, its names, the locator; digests may come in the background.
    assert!(number(&status, "requests") <= 5, "{status}");
    assert_eq!(number(&status, "misses"), 0, "{status}");
    mounted.unmount();
}

#[test]
fn background_fill_brings_everything_without_a_reader() {
    let ground = Sandbox::new("lazy-fill-tree");
    let tree = medium_tree(&ground, 150);
    let scene = Scene::new("lazy-fill", &tree);
    let at = scene.sandbox.directory("filled");
    scene.client.run(["mount", "--background-fill", "os:main", at.to_str().expect("UTF-8")]).success();
    let safe = || {
        let text = scene.client.run(["mounts", "--json", at.to_str().expect("UTF-8")]).success();
        text.contains("\"offline_safe\": true") || text.contains("\"offline_safe\":true")
    };
    eventually("everything is here", safe);
    scene.set_online(false);
    assert_eq!(assert_right_or_refused(&tree, &at), 0);
    scene.client.run(["umount", at.to_str().expect("UTF-8")]).success();
    scene.client.assert_clean();
}
