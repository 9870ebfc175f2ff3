//! Lazy mounts show the committed tree, whatever happens to the server or the network.
//!
//! The distribution's tools compare a lazy mount with the directory that was committed. Faults of networks and servers are made
//! by changing the published files, or by the link.
mod cache_limit;
mod metrics;
mod moved;
mod prefetch;
mod readahead;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::facts::{Scope, assert_rsync_sees_no_difference, assert_same_tree};
use crate::common::published::Published;
use crate::common::sandbox::{Mounted, Repository, Sandbox};
use crate::common::trees;

/// A publication, and a client that has nothing of it.
struct Fixture {
    sandbox: Sandbox,
    published: PathBuf,
    publisher: Repository,
    client: Repository,
}

impl Fixture {
    fn new(name: &str, tree: &Path) -> Self {
        let sandbox = Sandbox::new(name);
        let published = sandbox.directory("published");
        let publisher = sandbox.repository("publisher");
        publisher.commit("main", tree);
        Published::default().add(publisher.path(), "main", &published);
        let client = sandbox.repository("client");
        let fixture = Self { sandbox, published, publisher, client };
        fixture.add_remote(&fixture.client);
        fixture
    }

    fn add_remote(&self, client: &Repository) {
        let url = format!("file://{}", self.published.display());
        client.run(["remote", "add", "--replace", "os", &url, "--insecure-unsigned"]).success();
    }

    fn mount(&self, options: &[&str]) -> Mounted {
        let options: Vec<&str> = ["suid", "dev"].iter().chain(options).copied().collect();
        self.client.mount("os:main", &self.sandbox.join("mounted"), &options)
    }

    /// Cuts or restores the network.
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

/// Waits for something that happens in the background.
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
fn lazy_mount_equals_the_committed_tree() {
    let tree_sandbox = Sandbox::new("lazy-fidelity-tree");
    let tree = forests(&tree_sandbox);
    let fixture = Fixture::new("lazy-fidelity", &tree);
    let mounted = fixture.mount(&[]);
    assert_same_tree(&tree, mounted.path());
    assert_rsync_sees_no_difference(&tree, mounted.path(), Scope::All);
    eventually("everything was read, so everything is here", || fixture.status()["lazy"]["offline_safe"] == true);
    mounted.unmount();
    fixture.client.assert_clean();

    // A second mount without the network.
    fixture.set_online(false);
    let mounted = fixture.mount(&[]);
    assert_same_tree(&tree, mounted.path());
    assert_eq!(number(&fixture.status(), "requests"), 0);
    mounted.unmount();
    fixture.client.assert_clean();
}

/// Names, sizes and times compress badly, so that the published image begins with a head frame; up to 8,192 entries, a column
/// of it fits into one block.
#[test]
fn directory_that_compresses_badly_is_mounted() {
    for entries in [2_500_usize, 6_500] {
        let tree_sandbox = Sandbox::new("lazy-sizes-tree");
        let tree = tree_sandbox.directory("tree");
        for (number, draw) in trees::noise(7, entries * 16).chunks_exact(16).enumerate() {
            let value = u64::from_le_bytes(draw[..8].try_into().expect("eight bytes"));
            let path = tree.join(format!("{value:016x}-{number}"));
            fs::write(&path, &draw[..1 + number % 16]).expect("the sandbox is writable");
            let time = Duration::new(1_700_000_000 + value % 1_000_000, u32::from(draw[8]) << 20);
            let file = fs::File::options().write(true).open(&path).expect("just made");
            file.set_modified(std::time::UNIX_EPOCH + time).expect("owned by the test");
        }
        let fixture = Fixture::new("lazy-sizes", &tree);
        let mounted = fixture.mount(&[]);
        assert_rsync_sees_no_difference(&tree, mounted.path(), Scope::All);
        mounted.unmount();
    }
}

/// Returns every regular file below a directory.
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

/// Reads every file of the mount; each read must be right or fail with an input/output error. Returns the number of errors.
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

/// The image of such a commit, which names its objects, is not complete.
#[test]
fn damage_of_a_lazy_commit_is_found_and_repaired() {
    let tree_sandbox = Sandbox::new("lazy-damaged-tree");
    let tree = medium_tree(&tree_sandbox, 200);
    let fixture = Fixture::new("lazy-damaged", &tree);
    let mounted = fixture.mount(&[]);
    fs::read(mounted.path().join("07/file-7")).expect("it is fetched");
    mounted.unmount();
    fixture.client.assert_clean();

    let content = fs::read(tree.join("07/file-7")).expect("readable");
    let damaged = files(&fixture.client.path().join("packs")).into_iter().any(|pack| {
        let mut bytes = fs::read(&pack).expect("readable");
        let Some(at) = bytes.windows(content.len()).position(|part| part == content) else { return false };
        bytes[at + 100] ^= 1;
        replace(&pack, &bytes);
        true
    });
    assert!(damaged, "no pack has the content");
    let found = fixture.client.run(["fsck", "--all"]);
    assert!(found.status.code() == Some(1) && found.text().contains("damaged: object"), "{}", found.text());
    fixture.client.run(["fsck", "--repair"]);
    fixture.client.assert_clean();
    let mounted = fixture.mount(&[]);
    assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0);
    mounted.unmount();
}

#[test]
fn contents_changed_on_the_server_are_never_shown() {
    let tree_sandbox = Sandbox::new("lazy-corrupt-tree");
    let tree = medium_tree(&tree_sandbox, 200);
    let fixture = Fixture::new("lazy-corrupt", &tree);
    let packs = pack_files(&fixture.published);
    assert!(packs.len() > 2);
    let sound: Vec<Vec<u8>> = packs.iter().map(|pack| fs::read(pack).expect("readable")).collect();
    for (pack, bytes) in packs.iter().zip(&sound) {
        let mut damaged = bytes.clone();
        for at in (100..damaged.len()).step_by(200_000) {
            damaged[at] ^= 0x40;
        }
        replace(pack, &damaged);
    }
    let mounted = fixture.mount(&[]);
    let refused = assert_right_or_refused(&tree, mounted.path());
    assert!(refused > 0, "nothing was damaged");
    assert!(refused < 200, "a damaged frame is no reason to refuse all others");
    for (pack, bytes) in packs.iter().zip(&sound) {
        replace(pack, bytes);
    }
    assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0, "the server is correct again");
    mounted.unmount();
    fixture.client.assert_clean();
}

fn replace(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, bytes).expect("the sandbox is writable");
    fs::rename(&beside, path).expect("the sandbox is writable");
}

#[test]
fn offline_reads_fail_only_for_missing_objects_and_recover() {
    let tree_sandbox = Sandbox::new("lazy-gone-tree");
    let tree = medium_tree(&tree_sandbox, 200);
    let fixture = Fixture::new("lazy-gone", &tree);
    let mounted = fixture.mount(&["fetch-timeout=2"]);
    let read = |name: &str| fs::read(mounted.path().join(name));
    let cached = read("01/file-1").expect("it is there");
    // The rest of the tree is larger than what is fetched along with one small file.
    fixture.set_online(false);
    let start = Instant::now();
    assert!(assert_right_or_refused(&tree, mounted.path()) > 0, "everything came with one small file");
    // Two seconds for each of the hundreds of missing files would be minutes.
    assert!(start.elapsed() < Duration::from_secs(60));
    assert_eq!(read("01/file-1").expect("it is local"), cached);
    assert!(fs::metadata(mounted.path().join("39/file-199")).expect("names are here").len() > 3000);
    fixture.set_online(true);
    // During an outage the daemon tries once a second whether it is over.
    eventually("the network is back", || assert_right_or_refused(&tree, mounted.path()) == 0);
    mounted.unmount();
    fixture.client.assert_clean();
}

#[test]
fn full_disk_does_not_stop_lazy_reads() {
    let tree_sandbox = Sandbox::new("lazy-full-tree");
    let tree = medium_tree(&tree_sandbox, 300);
    let fixture = Fixture::new("lazy-full", &tree);
    let disk = fixture.sandbox.tmpfs("small", 3 << 20);
    let small = Repository::init(disk.join("repository"));
    fixture.add_remote(&small);
    let mounted = small.mount("os:main", &fixture.sandbox.join("mounted"), &[]);
    assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0);
    mounted.unmount();
    small.assert_clean();
}

#[test]
fn killed_daemon_leaves_no_wrong_contents() {
    let tree_sandbox = Sandbox::new("lazy-killed-tree");
    let tree = medium_tree(&tree_sandbox, 200);
    let fixture = Fixture::new("lazy-killed", &tree);
    for round in 1..6_u64 {
        let mounted = fixture.mount(&[]);
        let pid = fixture.status()["pid"].as_i64().expect("a process");
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
        fixture.client.assert_clean();
    }
    let mounted = fixture.mount(&[]);
    assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0);
    mounted.unmount();
    fixture.client.assert_clean();
}

#[test]
fn two_mounts_of_one_repository_do_not_disturb_each_other() {
    let tree_sandbox = Sandbox::new("lazy-two-tree");
    let tree = medium_tree(&tree_sandbox, 200);
    let fixture = Fixture::new("lazy-two", &tree);
    let first = fixture.mount(&[]);
    let second = fixture.client.mount("os:main", &fixture.sandbox.join("second"), &[]);
    std::thread::scope(|scope| {
        let readers = [first.path(), second.path(), first.path(), second.path()];
        let readers = readers.map(|mounted| scope.spawn(|| assert_right_or_refused(&tree, mounted)));
        for reader in readers {
            assert_eq!(reader.join().expect("no panic"), 0);
        }
    });
    first.unmount();
    second.unmount();
    fixture.client.assert_clean();
}

#[test]
fn listing_a_tree_takes_few_requests_and_no_contents() {
    let tree_sandbox = Sandbox::new("lazy-list-tree");
    let tree = forests(&tree_sandbox);
    let fixture = Fixture::new("lazy-list", &tree);
    let mounted = fixture.mount(&[]);
    let listed = fs::read_dir(mounted.path()).expect("listable").count();
    assert_eq!(listed, fs::read_dir(&tree).expect("listable").count());
    let found = std::process::Command::new("find").arg(mounted.path()).args(["-printf", "%s %m\n"]).output();
    let lines = found.expect("find runs").stdout.iter().filter(|byte| **byte == b'\n').count();
    assert!(lines > 3000, "{lines}");
    let status = fixture.status();
    // The image's head, its names, the locator; digests may be fetched in the background.
    assert!(number(&status, "requests") <= 5, "{status}");
    assert_eq!(number(&status, "misses"), 0, "{status}");
    mounted.unmount();
}

#[test]
fn background_fill_fetches_everything_without_a_reader() {
    let tree_sandbox = Sandbox::new("lazy-fill-tree");
    let tree = medium_tree(&tree_sandbox, 150);
    let fixture = Fixture::new("lazy-fill", &tree);
    let at = fixture.sandbox.directory("filled");
    fixture.client.run(["mount", "--background-fill", "os:main", at.to_str().expect("UTF-8")]).success();
    let safe = || {
        let text = fixture.client.run(["mounts", "--json", at.to_str().expect("UTF-8")]).success();
        text.contains("\"offline_safe\": true") || text.contains("\"offline_safe\":true")
    };
    eventually("everything is here", safe);
    fixture.set_online(false);
    assert_eq!(assert_right_or_refused(&tree, &at), 0);
    fixture.client.run(["umount", at.to_str().expect("UTF-8")]).success();
    fixture.client.assert_clean();
}
