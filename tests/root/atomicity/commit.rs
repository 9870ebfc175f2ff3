//! Commits that are killed, run at the same time, or run out of disk: the old refs and a repository that `fsck` calls clean
//! remain.
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::facts::assert_same_tree;
use crate::common::sandbox::{Repository, Sandbox, remove_tree, run};
use crate::common::trees;

const KILLS: u32 = 30;

#[test]
fn killed_commit_leaves_the_old_refs_and_a_clean_repository() {
    let sandbox = Sandbox::new("kill");
    let (old, new) = (sandbox.join("old"), sandbox.join("new"));
    trees::medium(&old, 500);
    trees::medium(&new, 3000);
    // The duration of an uninterrupted commit of the new tree; the kills are spread over it.
    let begin = Instant::now();
    sandbox.repository("measured").commit("r", &new);
    let mut whole = begin.elapsed();

    let base = sandbox.repository("base");
    let first = base.commit("r", &old);
    let copy = || {
        let path = sandbox.join("repository");
        remove_tree(&path);
        run("cp", [OsStr::new("-a"), base.path().as_os_str(), path.as_os_str()]).success();
        Repository::at(path)
    };
    let mut repository = copy();
    let (mut killed, mut finished) = (0, 0);
    for round in 0..KILLS {
        // Evenly spread over the duration and a little after it, in mixed order.
        let moment = whole.mul_f64(f64::from(round * 7 % KILLS) / f64::from(KILLS) * 1.1);
        let mut command =
            repository.command([OsStr::new("commit"), OsStr::new("--ref"), OsStr::new("r"), new.as_os_str()]);
        let begin = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        sleep(moment);
        // SIGKILL, to this child only.
        let _ = child.kill();
        let ended = child.wait().expect("a child can be waited for").success();
        let took = begin.elapsed();
        let log = repository.run(["log", "r"]).success();
        assert!(log.contains(&first[..8]), "round {round}: the ref lost its history:\n{log}");
        repository.assert_clean();
        if ended {
            // Everything is stored now, and another commit would have nothing to do that could be interrupted.
            finished += 1;
            // Later commits are quicker than the first one.
            whole = whole.min(took);
            repository = copy();
        } else {
            // Leftovers must not hinder the next commit, nor stay for ever.
            killed += 1;
            if killed % 4 == 0 {
                repository.run(["gc"]).success();
                repository.assert_clean();
            }
        }
    }
    println!("{killed} commits killed, {finished} finished before");
    assert!(killed >= KILLS / 3, "only {killed} of {KILLS} were killed in time");
    repository.commit("r", &new);
    let mounted = repository.mount("r", &sandbox.join("mounted"), &[]);
    assert_same_tree(&new, mounted.path());
}

#[test]
fn concurrent_commits_to_two_refs_both_succeed() {
    let sandbox = Sandbox::new("two");
    let (one, two) = (sandbox.join("one"), sandbox.join("two"));
    trees::medium(&one, 2000);
    trees::medium(&two, 1500);
    let repository = sandbox.repository("repository");
    std::thread::scope(|scope| {
        let both = [("one", &one), ("two", &two)].map(|(name, tree)| {
            let repository = repository.clone();
            scope.spawn(move || repository.commit(name, tree))
        });
        both.map(|thread| thread.join().expect("the commit succeeds"))
    });
    repository.assert_clean();
    for (name, tree) in [("one", &one), ("two", &two)] {
        let mounted = repository.mount(name, &sandbox.join("mounted"), &[]);
        assert_same_tree(tree, mounted.path());
        mounted.unmount();
    }
}

#[test]
fn concurrent_commits_to_one_ref_are_all_in_its_history() {
    let sandbox = Sandbox::new("one-ref");
    let tree = sandbox.join("tree");
    trees::medium(&tree, 300);
    let repository = sandbox.repository("repository");
    let ids: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let (repository, tree) = (repository.clone(), tree.clone());
                scope.spawn(move || {
                    let subject = format!("number {number}");
                    let words = ["commit", "--ref", "r", "--subject", &subject].map(OsStr::new);
                    repository.run(words.into_iter().chain([tree.as_os_str()]))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("threads end").success()).collect()
    });
    let log = repository.run(["log", "r"]).success();
    for id in &ids {
        assert!(log.contains(&id[..8]), "{id} is not in the history:\n{log}");
    }
    repository.assert_clean();
}

#[test]
fn file_changed_during_a_commit_is_never_stored_torn() {
    let sandbox = Sandbox::new("changing");
    let tree = sandbox.directory("tree");
    let path = tree.join("restless");
    // The file always has one letter only; a torn read would have two.
    let write = |letter: u8| fs::write(&path, vec![letter; 8 << 20]).expect("the sandbox is writable");
    write(b'a');
    let repository = sandbox.repository("repository");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&path).expect("it is there");
            for letter in (b'a'..=b'z').cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                use std::os::unix::fs::FileExt as _;
                file.write_all_at(&vec![letter; 8 << 20], 0).expect("the sandbox is writable");
                sleep(Duration::from_millis(20));
            }
        });
        for _ in 0..5 {
            let run = repository.run([OsStr::new("commit"), OsStr::new("--ref"), OsStr::new("r"), tree.as_os_str()]);
            if run.status.success() {
                let content = repository.run(["cat", "r:/restless"]);
                let letters: std::collections::BTreeSet<&u8> = content.stdout.iter().collect();
                assert_eq!(content.stdout.len(), 8 << 20);
                assert_eq!(letters.len(), 1, "a torn file was committed: {letters:?}");
            } else {
                let said = run.any_failure();
                assert!(said.contains("restless"), "the error does not name the file:\n{said}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    repository.assert_clean();
    // Without a writer it is committed.
    repository.commit("r", &tree);
}

#[test]
fn full_disk_fails_a_commit_with_a_message_and_no_loss() {
    let sandbox = Sandbox::new("full");
    let (small, large) = (sandbox.join("small"), sandbox.join("large"));
    trees::medium(&small, 200);
    trees::medium(&large, 4000);
    let disk = sandbox.tmpfs("disk", 12 << 20);
    let repository = Repository::init(disk.join("repository"));
    let id = repository.commit("r", &small);
    for _ in 0..2 {
        let words = [OsStr::new("commit"), OsStr::new("--ref"), OsStr::new("r"), large.as_os_str()];
        let said = repository.run(words).any_failure();
        assert!(said.contains("No space left on device") || said.contains("full"), "not a clear error:\n{said}");
        repository.assert_clean();
        assert!(
            repository.run(["refs"]).success().contains(&id[..8])
                || repository.run(["log", "r"]).success().contains(&id[..8])
        );
    }
    let mounted = repository.mount("r", &sandbox.join("mounted"), &[]);
    assert_same_tree(&small, mounted.path());
    mounted.unmount();
    // After gc nothing of the failed commits is left, and there is room for a small one.
    repository.run(["gc"]).success();
    append(&small.join("more"), b"a little more");
    repository.commit("r", &small);
    repository.assert_clean();
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = File::options().append(true).create(true).open(path).expect("the sandbox is writable");
    file.write_all(bytes).expect("the sandbox is writable");
}
