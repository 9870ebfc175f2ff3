//! Fixtures of the compose tests: the package cache, a composer, and commits that several tests read.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::common::sandbox::{Repository, Run, Sandbox, finish_within, remove_tree, run};

/// Longest time of a compose under load and on a slow network.
const COMPOSE_TIMEOUT: Duration = Duration::from_secs(1500);

/// Returns the directory in which fetched package files are kept from one run to the next.
pub fn cache() -> PathBuf {
    std::env::var_os("SAPWOOD_COMPOSE_CACHE").map_or_else(|| "/var/tmp/sapwood-compose-cache".into(), PathBuf::from)
}

/// Returns the path of a file of `examples/`.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// A repository and a working directory to compose in.
pub struct Composer {
    pub repository: Repository,
    pub cache: PathBuf,
    pub work: PathBuf,
}

impl Composer {
    /// Makes a repository and a working directory in `directory`.
    pub fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("writable");
        let repository = Repository::init(directory.join("repo"));
        Self { repository, cache: cache(), work: directory.join("work") }
    }

    /// Returns `sapwood compose` with these arguments, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut words: Vec<OsString> = vec!["compose".into(), "--cachedir".into(), self.cache.clone().into()];
        words.extend(["--workdir".into(), self.work.clone().into()]);
        words.extend(arguments.iter().map(OsString::from));
        let mut command = self.repository.command(words);
        command.env_remove("SOURCE_DATE_EPOCH").env_remove("TMPDIR");
        command
    }

    /// Runs `sapwood compose` with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Run {
        finish_within(self.command(arguments), COMPOSE_TIMEOUT)
    }

    /// Runs it and returns the id of the commit, which is the last line.
    #[track_caller]
    pub fn compose(&self, arguments: &[&str]) -> String {
        let text = self.run(arguments).success();
        let id = text.lines().last().unwrap_or_default().to_owned();
        assert!(id.len() == 64, "the last line is no commit id: {text}");
        id
    }

    /// Fails unless a failed compose left nothing: no commit, no directory, no mount.
    #[track_caller]
    pub fn assert_nothing_left(&self, name: &str) {
        assert!(self.repository.run(["log", name]).status.code() != Some(0), "something was committed");
        self.assert_no_leftovers();
        self.repository.assert_clean();
    }

    /// Fails unless the working directory is empty and nothing is mounted below it.
    #[track_caller]
    pub fn assert_no_leftovers(&self) {
        let left: Vec<_> = fs::read_dir(&self.work)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        assert!(left.is_empty(), "left behind: {left:?}");
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("proc is mounted");
        let inside = format!("{}/", self.work.display());
        assert!(!mounts.contains(&inside), "still mounted:\n{mounts}");
    }
}

/// A commit that several tests read.
pub struct SharedCommit {
    pub composer: Composer,
    pub id: String,
    pub name: &'static str,
}

/// Held during a compose: two at a time would only slow each other down.
static ONE: Mutex<()> = Mutex::new(());

fn shared(slot: &'static OnceLock<SharedCommit>, file: &str, name: &'static str) -> &'static SharedCommit {
    slot.get_or_init(|| {
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("compose-{}", file.replace('.', "-")));
        remove_tree(&directory);
        let composer = Composer::new(&directory);
        let lock = directory.join("lock");
        let lock = lock.to_string_lossy();
        let id = composer.compose(&["--write-lock", &lock, &example(file).to_string_lossy()]);
        SharedCommit { composer, id, name }
    })
}

/// Returns `examples/debian-minimal.yaml`, composed by root.
pub fn minimal() -> &'static SharedCommit {
    static SLOT: OnceLock<SharedCommit> = OnceLock::new();
    shared(&SLOT, "debian-minimal.yaml", "debian/12/x86_64/minimal")
}

/// Returns `examples/debian-server.yaml`, composed by root.
pub fn server() -> &'static SharedCommit {
    static SLOT: OnceLock<SharedCommit> = OnceLock::new();
    shared(&SLOT, "debian-server.yaml", "debian/12/x86_64/server")
}

impl SharedCommit {
    /// Returns the lock file, which names the exact packages.
    pub fn lock(&self) -> PathBuf {
        self.composer.repository.path().parent().expect("it has one").join("lock")
    }

    /// Runs `sapwood` on the repository and returns what it prints.
    #[track_caller]
    pub fn sapwood(&self, arguments: &[&str]) -> String {
        self.composer.repository.run(arguments).success()
    }

    /// Mounts the commit in a sandbox, with the defaults of `/etc` in `/etc`.
    #[track_caller]
    pub fn mount(&self, sandbox: &Sandbox) -> crate::common::sandbox::Mounted {
        mount(&self.composer.repository, self.name, sandbox)
    }
}

/// Mounts a commit as a root: devices, `/proc`, and empty file systems to write to; of one that machines boot, its `/usr/etc` also
/// as `/etc`.
#[track_caller]
pub fn mount(repository: &Repository, name: &str, sandbox: &Sandbox) -> crate::common::sandbox::Mounted {
    let at = sandbox.join("root");
    let mounted = repository.mount(name, &at, &["suid", "dev"]);
    let path = |inside: &str| at.join(inside).to_string_lossy().into_owned();
    if at.join("usr/etc").is_dir() {
        run("mount", ["--bind", &path("usr/etc"), &path("etc")]).success();
        run("mount", ["-t", "tmpfs", "tmpfs", &path("var")]).success();
    }
    run("mount", ["-t", "tmpfs", "tmpfs", &path("tmp")]).success();
    run("mount", ["-t", "proc", "proc", &path("proc")]).success();
    run("mount", ["--rbind", "/dev", &path("dev")]).success();
    mounted
}

/// Runs a program in a mounted root.
#[track_caller]
pub fn chroot(root: &Path, command: &[&str]) -> Run {
    let root = root.to_string_lossy();
    let words = [&[root.as_ref()][..], command].concat();
    run("chroot", words)
}
