//! `fsck`, `gc` and `size` read only what has changed since they ran last, and still find everything.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sapwood::disk::Wait;
use sapwood::model::ObjectId;
use sapwood::store::Store;
use serde_json::Value;

use super::history::{REF, changing, extend, make};
use crate::common::sandbox::{Repository, Sandbox};

fn fixture(sandbox: &Sandbox, count: usize) -> (Repository, Store) {
    let repository = Repository::at(sandbox.tmpfs("memory", 1 << 30).join("repository"));
    make(repository.path(), count);
    let store = Store::open(repository.path()).expect("just made");
    (repository, store)
}

fn fsck(repository: &Repository, arguments: &[&str]) -> Value {
    let run = repository.run([&["fsck", "--json"], arguments].concat());
    serde_json::from_slice(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stderr))
}

/// Flips a bit of the content, wherever the repository has it.
fn damage(repository: &Path, content: &[u8]) -> PathBuf {
    for entry in fs::read_dir(repository.join("packs")).expect("it exists") {
        let path = entry.expect("listed").path();
        let bytes = fs::read(&path).expect("root reads all");
        let Some(at) = bytes.windows(content.len()).position(|window| window == content) else { continue };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("root may");
        let file = File::options().write(true).open(&path).expect("root may");
        file.write_all_at(&[bytes[at] ^ 1], at as u64).expect("the sandbox is writable");
        return path;
    }
    panic!("the content is in no pack");
}

/// Dates the last check later than all changes, as if the disk had lost data by itself.
fn date_last_check_now(repository: &Path) {
    let path = repository.join("state/checked");
    let text = fs::read_to_string(&path).expect("fsck made it");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    lines[1] = now.as_nanos().to_string();
    lines.pop();
    let body = lines.join("\n") + "\n";
    fs::write(&path, format!("{body}{}\n", ObjectId::of(body.as_bytes()))).expect("the sandbox is writable");
}

#[test]
fn fsck_reads_only_changes_and_with_all_finds_silent_damage() {
    let sandbox = Sandbox::new("fsck-again");
    let (repository, store) = fixture(&sandbox, 40);
    let first = fsck(&repository, &[]);
    assert!(first["relied_on_check_at"].is_null() && first["commits"] == 40, "{first}");
    date_last_check_now(repository.path());
    let again = fsck(&repository, &[]);
    assert!(again["relied_on_check_at"].is_number() && again["bytes"] == 0, "{again}");
    extend(&store, 40..42);
    let two_more = fsck(&repository, &[]);
    assert!(two_more["relied_on_check_at"].is_number() && two_more["commits"] == 3, "{two_more}");
    let all = fsck(&repository, &["--all"]);
    assert!(all["relied_on_check_at"].is_null() && all["commits"] == 42, "{all}");

    // An object of an older commit is overwritten: the pack has changed.
    damage(repository.path(), &changing(5));
    let found = fsck(&repository, &[]);
    assert_eq!(found["damage"].as_array().expect("a list").len(), 1, "{found}");
    assert_eq!(found["damage"][0]["paths"][0][1], "/f", "{found}");
    assert!(!repository.path().join("state/checked").exists(), "nothing may be relied on");
    assert_eq!(fsck(&repository, &[])["damage"].as_array().expect("a list").len(), 1);
    repository.run(["fsck", "--repair"]);
    let left = fsck(&repository, &[]);
    assert_eq!(left["damage"].as_array().expect("a list").len(), 1, "the object is missing: {left}");

    // The same, but no file of the repository seems to have changed.
    let sandbox = Sandbox::new("fsck-rot");
    let (repository, _) = fixture(&sandbox, 10);
    repository.assert_clean();
    damage(repository.path(), &changing(5));
    date_last_check_now(repository.path());
    assert_eq!(fsck(&repository, &[])["damage"].as_array().expect("a list").len(), 0);
    assert_eq!(fsck(&repository, &["--all"])["damage"].as_array().expect("a list").len(), 1);
    assert_eq!(fsck(&repository, &[])["damage"].as_array().expect("a list").len(), 1, "what --all found stays found");
}

#[test]
fn fsck_ignores_the_last_check_when_a_file_is_missing() {
    let sandbox = Sandbox::new("fsck-gone");
    for folder in ["packs", "images", "commits"] {
        let repository = sandbox.repository(&format!("without-{folder}"));
        let tree = sandbox.directory(&format!("tree-{folder}"));
        fs::write(tree.join("f"), "content").expect("the sandbox is writable");
        repository.commit(REF, &tree);
        repository.assert_clean();
        let file =
            fs::read_dir(repository.path().join(folder)).expect("it exists").next().expect("one").expect("listed");
        fs::remove_file(file.path()).expect("root may");
        assert_ne!(fsck(&repository, &[])["damage"].as_array().expect("a list").len(), 0, "{folder}");
    }
}

/// Runs `gc`. Returns the number of removed things, and whether it scanned everything.
fn gc(repository: &Repository) -> (usize, bool) {
    let plan: Value = serde_json::from_str(&repository.run(["gc", "--json"]).success()).expect("JSON");
    let objects = plan["objects"].as_array().expect("a list").len() as u64;
    let packed: u64 = plan["packs"].as_array().expect("a list").iter().filter_map(|pack| pack["remove"].as_u64()).sum();
    let commits = plan["commits"].as_array().expect("a list").len() as u64;
    ((objects + packed + commits) as usize, plan["kept_commits"].is_number())
}

#[test]
fn gc_scans_everything_only_if_there_may_be_garbage() {
    let sandbox = Sandbox::new("gc-again");
    let (repository, store) = fixture(&sandbox, 20);
    assert_eq!(gc(&repository), (0, true), "the first");
    assert_eq!(gc(&repository), (0, false), "nothing has happened");
    extend(&store, 20..25);
    assert_eq!(gc(&repository), (0, false), "commits were added");

    // A writer that was killed before a ref named what it had added.
    let writer = store.writer(Wait::Announced(&|_| {})).expect("no other writer");
    writer.put(7, &mut &b"garbage"[..]).expect("there is room");
    writer.flush().expect("durable");
    drop(writer);
    extend(&store, 25..26);
    let (removed, looked) = gc(&repository);
    assert!(looked && removed <= 1, "{removed}");
    assert_eq!(gc(&repository), (0, false));

    // A ref that begins a new history.
    let tree = sandbox.directory("tree");
    fs::write(tree.join("f"), "other").expect("the sandbox is writable");
    let commit = ["commit", "--ref", REF, "--parent", "none", tree.to_str().expect("UTF-8")];
    repository.run(commit).success();
    let (removed, looked) = gc(&repository);
    assert!(looked && removed > 26, "{removed} things of the old history went");
    assert_eq!(gc(&repository), (0, false));

    // A ref that is deleted.
    repository.commit("other", &tree);
    assert_eq!(gc(&repository), (0, false), "a new ref");
    repository.run(["refs", "--delete", "other"]).success();
    assert_eq!(gc(&repository), (1, true), "its commit");
    repository.assert_clean();
}

/// Runs `size`. Returns commits, objects, bytes, shared and unique bytes for each ref.
fn size(repository: &Repository) -> Vec<[u64; 5]> {
    let rows: Value = serde_json::from_str(&repository.run(["size", "--json"]).success()).expect("JSON");
    let numbers = ["commits", "objects", "bytes", "shared", "unique"];
    let row = |row: &Value| numbers.map(|name| row[name].as_u64().expect("a number"));
    rows.as_array().expect("a list").iter().map(row).collect()
}

#[test]
fn size_is_the_same_with_and_without_its_cache() {
    let sandbox = Sandbox::new("size-again");
    let (repository, store) = fixture(&sandbox, 20);
    let remembered = repository.path().join("state/history");
    let anew = || {
        let _ = fs::remove_file(&remembered);
        size(&repository)
    };
    assert_eq!(size(&repository), anew());
    extend(&store, 20..25);
    assert_eq!(size(&repository)[0][0], 25);
    // A commit with contents of an old one, and a ref that shares some of them.
    extend(&store, 3..4);
    let tree = sandbox.directory("tree");
    fs::write(tree.join("f"), changing(7)).expect("the sandbox is writable");
    fs::write(tree.join("own"), "its own").expect("the sandbox is writable");
    repository.commit("other", &tree);
    let found = size(&repository);
    assert_eq!(found, anew());
    assert_eq!(found[0][..2], [26, 45], "20 constant files and 25 versions");
    let shared = changing(7).len() as u64;
    assert_eq!(found[1], [1, 2, shared + 7, shared, 7]);
    // A cache that is damaged, one that is truncated, and a truncated history.
    let bytes = fs::read(&remembered).expect("made");
    for damaged in [&bytes[..bytes.len() - 5], &bytes[1..], b""] {
        fs::write(&remembered, damaged).expect("the sandbox is writable");
        assert_eq!(size(&repository), found);
        assert_eq!(size(&repository), found);
    }
    repository.run(["gc", "--depth", "2"]).success();
    assert_eq!(size(&repository), anew());
    assert_eq!(size(&repository)[0][..2], [3, 23]);
}
