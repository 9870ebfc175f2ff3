//! A repository of a thousand commits costs what one of ten does, also where no more than 256 files may be open.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sapwood::model::CommitId;
use sapwood::store::Store;

use super::counted::{Cost, cost_of, cost_of_mount};
use super::history::{CONSTANT_FILES, REF, changing, constant, extend, make};
use crate::common::sandbox::{Repository, Sandbox};

/// The hard limit of open files under which all commands run.
const DESCRIPTORS: u64 = 256;

/// Commits made one after the other, of which the usual one counts: a merge now and then costs more, and what all of them cost
/// together is counted by the bytes that were merged.
const COMMITS: usize = 9;

/// Packs that ten thousand commits leave at most: as many as the number has binary digits.
const MOST_PACKS: usize = 14;

/// A file that has not changed for so long is taken as unchanged.
const SETTLED: Duration = Duration::from_secs(4);

/// A repository whose history is made, with what the test needs beside it.
struct Scene {
    repository: Repository,
    first: CommitId,
    count: usize,
    /// The tree of the newest commit.
    tree: PathBuf,
    beside: PathBuf,
}

impl Scene {
    /// In memory: what is counted is the same on every filesystem, and making many commits durable takes minutes on a disk.
    fn new(sandbox: &Sandbox, count: usize) -> Self {
        let beside = sandbox.tmpfs(&format!("with-{count}"), 4 << 30);
        let tree = beside.join("tree");
        fs::create_dir(&tree).expect("the sandbox is writable");
        for number in 0..CONSTANT_FILES {
            fs::write(tree.join(format!("c{number}")), constant(number)).expect("the sandbox is writable");
        }
        fs::write(tree.join("f"), changing(count - 1)).expect("the sandbox is writable");
        let path = beside.join("repository");
        let (first, merged) = make(&path, count);
        // Each commit brings some 100 bytes, index and all. On average each is copied no oftener than a logarithm allows.
        let most = 150 * count as u64 * 15;
        assert!(merged < most, "{merged} bytes were merged while {count} commits were made");
        Self { repository: Repository::at(path), first, count, tree, beside }
    }

    fn cost(&self, arguments: &[&str]) -> Cost {
        cost_of(&self.repository.command(arguments), DESCRIPTORS, &self.beside.join("record"))
    }

    /// What the usual commit costs, and each of `others` after it, by the median of each number.
    fn cost_of_commits(&self, others: &[&str]) -> Vec<Cost> {
        let tree = self.tree.to_str().expect("UTF-8");
        // The first ones read everything; the others know what has not changed, if that was some seconds before.
        let written = fs::metadata(self.tree.join("c0")).and_then(|file| file.modified()).expect("there");
        std::thread::sleep(SETTLED.saturating_sub(written.elapsed().unwrap_or_default()));
        self.cost(&["commit", "--ref", REF, tree]);
        others.iter().for_each(|other| _ = self.cost(&[other]));
        let rounds: Vec<Vec<Cost>> = (0..COMMITS)
            .map(|number| {
                fs::write(self.tree.join("f"), changing(self.count + number)).expect("the sandbox is writable");
                let commit = self.cost(&["commit", "--ref", REF, tree]);
                [commit].into_iter().chain(others.iter().map(|other| self.cost(&[other]))).collect()
            })
            .collect();
        (0..=others.len()).map(|verb| median(rounds.iter().map(|round| round[verb]).collect())).collect()
    }

    fn cost_of_mount(&self) -> Cost {
        let at = self.beside.join("mounted");
        fs::create_dir_all(&at).expect("the sandbox is writable");
        let command = self.repository.command(["mount", "--foreground", REF, at.to_str().expect("UTF-8")]);
        let read = || {
            assert_eq!(fs::read_dir(&at).expect("mounted").count(), CONSTANT_FILES + 1);
            assert_eq!(fs::read(at.join("f")).expect("mounted"), changing(self.count - 1));
            assert_eq!(fs::read(at.join("c3")).expect("mounted"), constant(3));
        };
        let record = self.beside.join("record");
        cost_of_mount(&command, DESCRIPTORS, &record, &at, read, || self.repository.umount(&at))
    }

    fn packs(&self) -> usize {
        fs::read_dir(self.repository.path().join("packs")).expect("there").count()
    }
}

fn median(costs: Vec<Cost>) -> Cost {
    let middle = |number: fn(&Cost) -> u64| {
        let mut numbers: Vec<u64> = costs.iter().map(number).collect();
        numbers.sort_unstable();
        numbers[numbers.len() / 2]
    };
    Cost {
        calls: middle(|cost| cost.calls),
        bytes: middle(|cost| cost.bytes),
        descriptors: middle(|cost| cost.descriptors),
    }
}

fn compare(many: usize) {
    let sandbox = Sandbox::new("many-commits");
    let (few, many) = (Scene::new(&sandbox, 10), Scene::new(&sandbox, many));
    assert!(many.packs() <= MOST_PACKS, "{} packs after {} commits", many.packs(), many.count);
    many.cost_of_mount().assert_is_like(few.cost_of_mount(), "mount");
    let newest = format!("{REF}:/f");
    let verbs: [&[&str]; 6] =
        [&["ls", REF], &["cat", &newest], &["show", REF], &["log", "-n", "5", REF], &["diff", "m^", REF], &["refs"]];
    for verb in verbs {
        many.cost(verb).assert_is_like(few.cost(verb), verb[0]);
    }
    let oldest = |scene: &Scene| scene.cost(&["cat", &format!("{}:/f", scene.first)]);
    oldest(&many).assert_is_like(oldest(&few), "cat of the oldest");
    let publish = |scene: &Scene| {
        let published = format!("file://{}", scene.beside.join("published").display());
        scene.cost(&["publish", &published, REF])
    };
    publish(&many).assert_is_like(publish(&few), "publish");
    let others = ["fsck", "gc", "size"];
    let costs = many.cost_of_commits(&others).into_iter().zip(few.cost_of_commits(&others));
    for (what, (many, few)) in ["commit", "fsck", "gc", "size"].into_iter().zip(costs) {
        many.assert_is_like(few, what);
    }
    assert!(many.packs() <= MOST_PACKS, "{} packs", many.packs());
    assert_everything_works_with_few_descriptors(&many);
}

/// Every verb that reads a repository, below the hard limit.
fn assert_everything_works_with_few_descriptors(scene: &Scene) {
    let exported = scene.beside.join("exported");
    let exported = exported.to_str().expect("UTF-8");
    let verbs: [&[&str]; 5] =
        [&["size"], &["log", REF], &["export", REF, exported], &["fsck", "--all"], &["gc", "--all"]];
    for verb in verbs {
        let cost = scene.cost(verb);
        println!("{}: {cost:?} with {} commits", verb.join(" "), scene.count);
    }
    let newest = scene.repository.run(["cat", &format!("{REF}:/f")]).success();
    assert_eq!(newest.as_bytes(), changing(scene.count + COMMITS - 1).trim_ascii_end());
    let oldest = scene.repository.run(["cat", &format!("{}:/f", scene.first)]).success();
    assert_eq!(oldest.as_bytes(), changing(0).trim_ascii_end());
}

#[test]
fn a_thousand_commits_cost_what_ten_do() {
    compare(1000);
}

#[test]
#[ignore = "takes minutes: tests/run --long commits"]
fn ten_thousand_commits_cost_what_ten_do() {
    compare(10_000);
}

/// Not a test: `benches/many-commits` has its repositories made by this.
#[test]
#[ignore = "makes a repository for benches/many-commits"]
fn a_history_for_a_benchmark() {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} says what to make"));
    let count = variable("SAPWOOD_HISTORY_COUNT").parse().expect("a number");
    make(Path::new(&variable("SAPWOOD_HISTORY_AT")), count);
}

/// A repository with a pack for each commit, as earlier versions made them, answers below the limit; the next commit merges them.
#[test]
fn a_pack_for_each_commit_is_read_and_merged_by_the_next_commit() {
    let sandbox = Sandbox::new("pack-each");
    let beside = sandbox.tmpfs("memory", 1 << 30);
    let repository = Repository::at(beside.join("repository"));
    let store = scattered(&beside, repository.path(), 300);
    let packs = || fs::read_dir(repository.path().join("packs")).expect("there").count();
    assert_eq!(packs(), 300);
    let record = beside.join("record");
    let oldest = format!("{}:/f", store.1);
    for verb in [&["cat", "m:/f"][..], &["cat", &oldest], &["ls", REF], &["size"], &["fsck"], &["gc", "--dry-run"]] {
        let cost = cost_of(&repository.command(verb), DESCRIPTORS, &record);
        assert!(cost.descriptors < 100, "{}: {cost:?}", verb.join(" "));
    }
    extend(&store.0, 300..301);
    assert!(packs() <= MOST_PACKS, "{} packs", packs());
    repository.assert_clean();
    assert_eq!(repository.run(["cat", &oldest]).success().as_bytes(), changing(0).trim_ascii_end());
}

/// Makes a repository that has a pack for each commit: each is made in one of its own.
fn scattered(beside: &Path, path: &Path, count: usize) -> (Store, CommitId) {
    let (first, _) = make(path, 1);
    let set_aside = beside.join("packs");
    fs::create_dir(&set_aside).expect("the sandbox is writable");
    let move_all = |from: &Path, to: &Path| {
        for entry in fs::read_dir(from).expect("there") {
            let entry = entry.expect("listed");
            fs::rename(entry.path(), to.join(entry.file_name())).expect("one filesystem");
        }
    };
    let store = Store::open(path).expect("just made");
    for number in 1..count {
        move_all(&path.join("packs"), &set_aside);
        extend(&store, number..number + 1);
    }
    move_all(&set_aside, &path.join("packs"));
    (store, first)
}

/// However few files may be open, a commit fails or works, and stores no object again that is here.
#[test]
fn a_commit_with_few_descriptors_stores_no_known_object_again() {
    let sandbox = Sandbox::new("few-descriptors");
    let beside = sandbox.tmpfs("memory", 1 << 30);
    let repository = Repository::at(beside.join("repository"));
    scattered(&beside, repository.path(), 40);
    let tree = beside.join("tree");
    fs::create_dir(&tree).expect("the sandbox is writable");
    (0..40).for_each(|number| fs::write(tree.join(number.to_string()), changing(number)).expect("writable"));
    let (mut failed, mut done) = (0, 0);
    for limit in 5..32 {
        let mut command = std::process::Command::new("prlimit");
        let commit = repository.command(["commit", "--json", "--ref", "other", tree.to_str().expect("UTF-8")]);
        command.arg(format!("--nofile={limit}:{limit}")).arg(commit.get_program()).args(commit.get_args());
        let run = crate::common::sandbox::finish(command);
        assert!(!run.stderr.contains("panicked"), "{limit} descriptors: {}", run.stderr);
        if run.status.success() {
            let said: serde_json::Value = serde_json::from_slice(&run.stdout).expect("JSON");
            assert_eq!(said["new_objects"], 0, "{limit} descriptors: {said}");
            done += 1;
        } else {
            failed += 1;
        }
        // What was read is to be read again by the next.
        let _ = fs::remove_dir_all(repository.path().join("state/stat-cache"));
    }
    assert!(done > 3 && failed > 0, "{done} commits were made and {failed} failed");
    repository.assert_clean();
}
