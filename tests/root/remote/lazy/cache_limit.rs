//! The limit of kept contents: it is never exceeded, and the least recently used contents are evicted first.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use super::{Fixture, assert_right_or_refused, eventually, medium_tree, number};
use crate::common::sandbox::{Repository, Sandbox};

const MIB: u64 = 1 << 20;

/// Returns the path of a large file of the tree that `medium_tree` makes.
fn large(number: usize) -> String {
    format!("{:02}/file-{}", number * 100 % 40, number * 100)
}

fn used_bytes(disk: &Path) -> u64 {
    let figures = statvfs(disk).expect("a disk");
    (figures.blocks() - figures.blocks_free()) * figures.fragment_size()
}

/// Drops the pages of a file from the kernel's cache, so that it reads them again.
fn forget_pages(file: &File) {
    rustix::fs::fadvise(file.as_fd(), 0, None, rustix::fs::Advice::DontNeed).expect("a regular file");
}

#[test]
fn cache_obeys_its_limit_with_open_and_mapped_files() {
    let tree_sandbox = Sandbox::new("lazy-bounded-tree");
    let tree = medium_tree(&tree_sandbox, 1000);
    let fixture = Fixture::new("lazy-bounded", &tree);
    let disk = fixture.sandbox.tmpfs("small", 64 * MIB);
    let small = Repository::init(disk.join("repository"));
    fixture.add_remote(&small);
    let limit = 6 * MIB;
    let mounted = small.mount("os:main", &fixture.sandbox.join("mounted"), &["cache-size=6M"]);

    let held = File::open(mounted.path().join(large(1))).expect("it exists");
    let expected = fs::read(tree.join(large(1))).expect("readable");
    let mapped = sapwood::sys::Mapping::of_file(&held).expect("it can be mapped");
    assert!(mapped[..] == expected[..]);

    let (most, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let before = used_bytes(&disk);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(used_bytes(&disk), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        for _ in 0..2 {
            assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0);
            forget_pages(&held);
            assert!(mapped[..] == expected[..], "what is mapped changed");
        }
        over.store(true, Ordering::Relaxed);
    });
    let status = fixture.status();
    assert!(number(&status, "evictions") > 0, "{status}");
    assert!(number(&status, "cache_used") <= limit, "{status}");
    assert_eq!(status["lazy"]["cache_limit"], limit);
    // Allowed beyond the limit: files that are open, and one eighth while packs are rewritten.
    let grown = most.load(Ordering::Relaxed).saturating_sub(before);
    assert!(grown <= limit + limit / 8 + 4 * MIB, "{grown} bytes were used, {limit} are allowed");
    drop((mapped, held));
    mounted.unmount();
    small.assert_clean();

    // The limit of the repository applies to mounts without one of their own, and to what is stored already.
    small.run(["config", "cache-size", "3M"]).success();
    let mounted = small.mount("os:main", &fixture.sandbox.join("mounted"), &[]);
    assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0);
    eventually("what is too much was evicted", || number(&fixture.status(), "cache_used") <= 3 * MIB);
    small.run(["config", "cache-size", "2M"]).success();
    eventually("a running mount obeys", || fixture.status()["lazy"]["cache_limit"] == 2 * MIB);
    mounted.unmount();
    small.assert_clean();
}

/// The limit is smaller than what is fetched ahead, and than one batch of what is written.
#[test]
fn tiny_cache_limit_delays_no_reader() {
    let tree_sandbox = Sandbox::new("lazy-tiny-tree");
    let tree = medium_tree(&tree_sandbox, 3000);
    let fixture = Fixture::new("lazy-tiny", &tree);
    for limit in ["1M", "100K"] {
        let mounted = fixture.mount(&["fetch-timeout=4", &format!("cache-size={limit}")]);
        assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0, "{limit}");
        assert_eq!(fixture.status()["lazy"]["offline_safe"], false, "{limit}");
        mounted.unmount();
    }
    fixture.client.assert_clean();
}

#[test]
fn most_recently_used_objects_are_kept_across_a_restart() {
    let tree_sandbox = Sandbox::new("lazy-recent-tree");
    let tree = medium_tree(&tree_sandbox, 800);
    let fixture = Fixture::new("lazy-recent", &tree);
    let bounded = ["cache-size=12M", "profile=none"];
    let read = |path: &Path, number: usize| fs::read(path.join(large(number)));
    let mounted = fixture.mount(&bounded);
    for number in [0, 1, 2, 3] {
        read(mounted.path(), number).expect("it is fetched");
    }
    mounted.unmount();
    // Times of use are whole seconds.
    std::thread::sleep(Duration::from_millis(2100));
    let mounted = fixture.mount(&bounded);
    read(mounted.path(), 0).expect("it is local");
    eventually("room was made", || {
        // Six objects of 2 MiB are one too many.
        for number in [4, 5] {
            read(mounted.path(), number).expect("it is fetched");
        }
        number(&fixture.status(), "evictions") > 0
    });
    mounted.unmount();
    fixture.client.assert_clean();

    fixture.set_online(false);
    let mounted = fixture.mount(&["nowait"]);
    assert!(read(mounted.path(), 0).expect("it was used last") == fs::read(tree.join(large(0))).expect("readable"));
    assert!([1, 2, 3].iter().any(|number| read(mounted.path(), *number).is_err()), "nothing old was evicted");
    mounted.unmount();
    fixture.client.assert_clean();
}

#[test]
fn repository_settings_are_shown_changed_and_validated() {
    let sandbox = Sandbox::new("lazy-config");
    let repository = sandbox.repository("repository");
    let config = |words: &[&str]| repository.run([&["config"], words].concat());
    assert_eq!(config(&["cache-size"]).success(), "none");
    config(&["cache-size", "2G"]).success();
    assert_eq!(config(&["cache-size"]).success(), (2 * 1024 * MIB).to_string());
    let json: serde_json::Value = serde_json::from_str(&config(&["--json"]).success()).expect("JSON");
    assert_eq!(json["cache-size"], 2 * 1024 * MIB);
    config(&["cache-size", "none"]).success();
    assert_eq!(config(&["cache-size"]).success(), "none");
    assert!(config(&["cache-sise", "1G"]).any_failure().contains("there are cache-size, pack-limit and fs-verity"));
    assert!(config(&["cache-size", "much"]).any_failure().contains("'much' is no size"));
}
