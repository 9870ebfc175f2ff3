//! Costs of repositories with many commits: a thousand cost what ten do, also where no more than 256 files may be open.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sapwood::model::CommitId;
use sapwood::store::Store;

use super::cost::{Cost, cost_of, cost_of_mount};
use super::history::{CONSTANT_FILES, REF, changing, constant, extend, make};
use crate::common::sandbox::{Repository, Sandbox};

/// The hard limit of open files for all commands.
const OPEN_FILES_MAX: u64 = 256;

/// Number of commits of which the median cost is taken: an occasional merge costs more, and the total of merges is bounded by
/// the merged bytes.
const COMMITS: usize = 9;

/// Most packs after ten thousand commits: the number of binary digits of that number.
const PACKS_MAX: usize = 14;

/// Age at which an unchanged file is no longer read again.
const UNCHANGED_AGE: Duration = Duration::from_secs(4);

/// A repository with a history, and what the test needs beside it.
struct Fixture {
    repository: Repository,
    first: CommitId,
    count: usize,
    /// The tree of the newest commit.
    tree: PathBuf,
    beside: PathBuf,
}

impl Fixture {
    /// Makes a repository in memory: the counts are the same on every file system, and making many commits durable takes
    /// minutes on a disk.
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
        // Each commit adds some 100 bytes, with its index. On average each byte is merged at most a logarithm of times.
        let most = 150 * count as u64 * 15;
        assert!(merged < most, "{merged} bytes were merged while {count} commits were made");
        Self { repository: Repository::at(path), first, count, tree, beside }
    }

    fn cost(&self, arguments: &[&str]) -> Cost {
        cost_of(&self.repository.command(arguments), OPEN_FILES_MAX, &self.beside.join("record"))
    }

    /// Returns the median cost of a commit, and of each of `others` after it.
    fn cost_of_commits(&self, others: &[&str]) -> Vec<Cost> {
        let tree = self.tree.to_str().expect("UTF-8");
        // The first commits read everything; later ones skip files that were unchanged for some seconds.
        let written = fs::metadata(self.tree.join("c0")).and_then(|file| file.modified()).expect("it exists");
        std::thread::sleep(UNCHANGED_AGE.saturating_sub(written.elapsed().unwrap_or_default()));
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
        cost_of_mount(&command, OPEN_FILES_MAX, &record, &at, read, || self.repository.umount(&at))
    }

    fn packs(&self) -> usize {
        fs::read_dir(self.repository.path().join("packs")).expect("it exists").count()
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
    let (few, many) = (Fixture::new(&sandbox, 10), Fixture::new(&sandbox, many));
    assert!(many.packs() <= PACKS_MAX, "{} packs after {} commits", many.packs(), many.count);
    many.cost_of_mount().assert_is_like(few.cost_of_mount(), "mount");
    let newest = format!("{REF}:/f");
    let verbs: [&[&str]; 6] =
        [&["ls", REF], &["cat", &newest], &["show", REF], &["log", "-n", "5", REF], &["diff", "m^", REF], &["refs"]];
    for verb in verbs {
        many.cost(verb).assert_is_like(few.cost(verb), verb[0]);
    }
    let oldest = |fixture: &Fixture| fixture.cost(&["cat", &format!("{}:/f", fixture.first)]);
    oldest(&many).assert_is_like(oldest(&few), "cat of the oldest");
    let publish = |fixture: &Fixture| {
        let published = format!("file://{}", fixture.beside.join("published").display());
        fixture.cost(&["publish", &published, REF])
    };
    publish(&many).assert_is_like(publish(&few), "publish");
    let others = ["fsck", "gc", "size"];
    let costs = many.cost_of_commits(&others).into_iter().zip(few.cost_of_commits(&others));
    for (what, (many, few)) in ["commit", "fsck", "gc", "size"].into_iter().zip(costs) {
        many.assert_is_like(few, what);
    }
    assert!(many.packs() <= PACKS_MAX, "{} packs", many.packs());
    assert_everything_works_with_few_descriptors(&many);
}

/// Runs every command that reads a repository below the hard limit.
fn assert_everything_works_with_few_descriptors(fixture: &Fixture) {
    let exported = fixture.beside.join("exported");
    let exported = exported.to_str().expect("UTF-8");
    let verbs: [&[&str]; 5] =
        [&["size"], &["log", REF], &["export", REF, exported], &["fsck", "--all"], &["gc", "--all"]];
    for verb in verbs {
        let cost = fixture.cost(verb);
        println!("{}: {cost:?} with {} commits", verb.join(" "), fixture.count);
    }
    let newest = fixture.repository.run(["cat", &format!("{REF}:/f")]).success();
    assert_eq!(newest.as_bytes(), changing(fixture.count + COMMITS - 1).trim_ascii_end());
    let oldest = fixture.repository.run(["cat", &format!("{}:/f", fixture.first)]).success();
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

/// Not a test: `benches/many-commits` makes its repositories by this.
#[test]
#[ignore = "makes a repository for benches/many-commits"]
fn make_a_history_for_a_benchmark() {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} says what to make"));
    let count = variable("SAPWOOD_HISTORY_COUNT").parse().expect("a number");
    make(Path::new(&variable("SAPWOOD_HISTORY_AT")), count);
}

/// Repositories of earlier versions have a pack for each commit. They can be read below the limit, and the next commit merges
/// the packs.
#[test]
fn one_pack_per_commit_is_read_and_merged_by_the_next_commit() {
    let sandbox = Sandbox::new("pack-each");
    let beside = sandbox.tmpfs("memory", 1 << 30);
    let repository = Repository::at(beside.join("repository"));
    let store = scattered(&beside, repository.path(), 300);
    let packs = || fs::read_dir(repository.path().join("packs")).expect("it exists").count();
    assert_eq!(packs(), 300);
    let record = beside.join("record");
    let oldest = format!("{}:/f", store.1);
    for verb in [&["cat", "m:/f"][..], &["cat", &oldest], &["ls", REF], &["size"], &["fsck"], &["gc", "--dry-run"]] {
        let cost = cost_of(&repository.command(verb), OPEN_FILES_MAX, &record);
        assert!(cost.descriptors < 100, "{}: {cost:?}", verb.join(" "));
    }
    extend(&store.0, 300..301);
    assert!(packs() <= PACKS_MAX, "{} packs", packs());
    repository.assert_clean();
    assert_eq!(repository.run(["cat", &oldest]).success().as_bytes(), changing(0).trim_ascii_end());
}

/// Makes a repository with a pack for each commit, by making each commit in a repository of its own.
fn scattered(beside: &Path, path: &Path, count: usize) -> (Store, CommitId) {
    let (first, _) = make(path, 1);
    let set_aside = beside.join("packs");
    fs::create_dir(&set_aside).expect("the sandbox is writable");
    let move_all = |from: &Path, to: &Path| {
        for entry in fs::read_dir(from).expect("it exists") {
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

/// Below any limit of open files, a commit fails or succeeds, and stores no known object again.
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
        // Makes the next commit read all files again.
        let _ = fs::remove_dir_all(repository.path().join("state/stat-cache"));
    }
    assert!(done > 3 && failed > 0, "{done} commits were made and {failed} failed");
    repository.assert_clean();
}
