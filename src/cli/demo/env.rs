//! The environment of a demonstration: a temporary directory with enough free space, the tools for mounting, and the cleanup
//! afterwards, also after Ctrl-C.
//!
//! *Not here*: what is demonstrated and measured, see `demo::mod` and `demo::network`, which use this.

use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{SigSet, Signal};
use parking_lot::Mutex;

use super::super::output;
use crate::disk;

/// The percentage of the free space that the tree may take. It is stored twice: in a repository, and compressed as it is
/// published.
const TREE_PERCENT_OF_FREE_SPACE: u64 = 55;

/// The names in the temporary directory, except for the mountpoint.
const REMOVABLE_PARTS: &[&str] = &["repo", "client", "published", "keys"];

/// The exit status of a process that Ctrl-C ended, as shells report it.
const INTERRUPTED_EXIT_STATUS: i32 = 130;

/// A temporary directory with repositories and a mountpoint. Dropping it unmounts and removes the directory.
pub(crate) struct DemoEnvironment {
    directory: Arc<DemoDirectory>,
    program: PathBuf,
    free_bytes: u64,
}

/// The temporary directory and the server that runs in it. Dropping it ends the server, unmounts and removes the directory.
struct DemoDirectory {
    path: PathBuf,
    server: Mutex<Option<Child>>,
}

/// The machine on which a command is said to run: two repositories in one directory stand for two machines.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Machine {
    /// The machine that makes and publishes commits.
    Publisher,
    /// The machine that fetches them.
    Client,
}

impl DemoEnvironment {
    /// Checks that mounting can work, installing `fusermount3` if needed, and creates the directory where most space is free.
    pub(crate) fn prepare() -> Result<Self> {
        prepare_fuse()?;
        let parents = [env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
        let (free, parent) = parents
            .into_iter()
            .filter_map(|parent| Some((free_bytes_at(&parent).ok()?, parent)))
            .max_by_key(|(free, _)| *free)
            .context("there is no temporary directory")?;
        let path = parent.join(format!("sapwood-demo-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let directory = Arc::new(DemoDirectory { path, server: Mutex::new(None) });
        clean_up_when_stopped(&directory)?;
        let program = env::current_exe().context("cannot find this program")?;
        Ok(Self { directory, program, free_bytes: free })
    }

    /// Returns the directory on which the commit is mounted.
    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.directory.path.join("mnt")
    }

    /// Returns the directory that is published to and served.
    pub(crate) fn published(&self) -> PathBuf {
        self.directory.path.join("published")
    }

    /// Returns the repository of the machine that fetches.
    pub(crate) fn client(&self) -> PathBuf {
        self.directory.path.join("client")
    }

    /// Returns the number of bytes that the tree may take.
    pub(crate) const fn max_tree_bytes(&self) -> u64 {
        self.free_bytes / 100 * TREE_PERCENT_OF_FREE_SPACE
    }

    /// Removes everything in the directory and creates the mountpoint.
    pub(crate) fn clear(&self) -> Result<()> {
        self.directory.stop();
        for part in REMOVABLE_PARTS {
            disk::remove_directory(&self.directory.path.join(part))?;
        }
        match fs::create_dir(self.mountpoint()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Runs this program on the repository of `machine` and returns what it printed.
    pub(crate) fn sapwood(&self, machine: Machine, arguments: &[&str]) -> Result<String> {
        let repo = match machine {
            Machine::Publisher => self.directory.path.join("repo"),
            Machine::Client => self.client(),
        };
        let mut command = Command::new(&self.program);
        command.env("SAPWOOD_KEYS", self.directory.path.join("keys"));
        command.arg("--repo").arg(repo).args(arguments).stderr(Stdio::piped());
        let result = command.output().context("cannot start this program again")?;
        if !result.status.success() {
            bail!("{}", String::from_utf8_lossy(&result.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&result.stdout).into_owned())
    }

    /// Starts a server for what was published, which runs until `stop`, and returns its URL.
    pub(crate) fn serve(&self) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("serve").arg(self.published()).args(["--listen", "127.0.0.1:0"]);
        let mut server = command.stdout(Stdio::piped()).spawn().context("cannot start this program again")?;
        let output = server.stdout.take();
        *self.directory.server.lock() = Some(server);
        let mut url = String::new();
        BufReader::new(output.context("the server has no output")?).read_line(&mut url)?;
        ensure!(!url.is_empty(), "the server ended before it said where it listens");
        Ok(url.trim().to_owned())
    }

    /// Mounts the commit that `source` names.
    pub(crate) fn mount(&self, source: &str) -> Result<()> {
        let mountpoint = self.mountpoint();
        let path = mountpoint.to_str().context("the temporary directory is not UTF-8")?;
        self.sapwood(Machine::Publisher, &["mount", source, path]).map(drop)
    }

    /// Unmounts the commit.
    pub(crate) fn unmount(&self) -> Result<()> {
        let mountpoint = self.mountpoint();
        let path = mountpoint.to_str().context("the temporary directory is not UTF-8")?;
        self.sapwood(Machine::Publisher, &["umount", path]).map(drop)
    }
}

impl DemoDirectory {
    /// Ends the server and unmounts. Errors are only logged, because there may be neither a server nor a mount.
    fn stop(&self) {
        if let Some(mut server) = self.server.lock().take()
            && let Err(error) = server.kill().and_then(|()| server.wait())
        {
            tracing::debug!(%error, "cannot end the server");
        }
        let Ok(program) = env::current_exe() else { return };
        let mut command = Command::new(program);
        command.args(["umount", "--lazy"]).arg(self.path.join("mnt")).stdout(Stdio::null()).stderr(Stdio::null());
        if let Err(error) = command.status() {
            tracing::debug!(%error, "cannot run umount");
        }
    }

    fn remove(&self) {
        self.stop();
        // The mountpoint is removed without its content: if something is still mounted there, that fails, and nothing else
        // is removed.
        for part in ["mnt"].iter().chain(REMOVABLE_PARTS).chain(&[""]) {
            let path = self.path.join(part);
            let removed = if *part == "mnt" { fs::remove_dir(&path) } else { disk::remove_directory(&path) };
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                output::note(format_args!("cannot remove {}: {error}", path.display()));
                return;
            }
        }
    }
}

impl Drop for DemoDirectory {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Starts a thread that waits for SIGINT, SIGTERM and SIGHUP, cleans up and ends the process. All threads block these signals.
fn clean_up_when_stopped(directory: &Arc<DemoDirectory>) -> Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("cannot take over Ctrl-C")?;
    let directory = Arc::downgrade(directory);
    std::thread::Builder::new().name("stop".to_owned()).spawn(move || {
        if signals.wait().is_ok()
            && let Some(directory) = directory.upgrade()
        {
            output::note("\nstopping; removing what the demonstration made");
            directory.remove();
            #[expect(clippy::disallowed_methods, reason = "a signal ends the process, after the cleanup")]
            std::process::exit(INTERRUPTED_EXIT_STATUS);
        }
    })?;
    Ok(())
}

/// Makes sure that `/dev/fuse` and, without root, `fusermount3` exist: loads the kernel module and installs the package.
fn prepare_fuse() -> Result<()> {
    if !Path::new("/dev/fuse").exists() {
        let loaded = Command::new("modprobe").arg("fuse").stderr(Stdio::null()).status();
        if !loaded.is_ok_and(|status| status.success()) || !Path::new("/dev/fuse").exists() {
            bail!(
                "there is no /dev/fuse: load the kernel's module with 'modprobe fuse', or give the container the device"
            );
        }
    }
    let needs_helper = !nix::unistd::geteuid().is_root();
    if needs_helper && !command_succeeds("fusermount3", &["--version"]) {
        output::note("installing fuse3, which mounts for users: sudo apt-get install fuse3");
        if !command_succeeds("sudo", &["-n", "apt-get", "install", "--yes", "--no-install-recommends", "fuse3"]) {
            bail!(
                "users mount through fusermount3, which is not there: install the package fuse3, or run this as root"
            );
        }
    }
    Ok(())
}

fn command_succeeds(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn free_bytes_at(path: &Path) -> io::Result<u64> {
    let volume = rustix::fs::statvfs(path)?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}

/// Returns the trees to try, in this order: `/usr` if it fits into the free space, then the parts of it that fit, largest
/// first.
pub(crate) fn candidate_trees(environment: &DemoEnvironment) -> Result<Vec<PathBuf>> {
    let mut sized = Vec::new();
    for tree in ["/usr", "/usr/lib", "/usr/share", "/usr/bin", "/usr/sbin"] {
        let tree = PathBuf::from(tree);
        if tree.is_dir() && !tree.is_symlink() {
            sized.push((allocated_bytes(&tree)?, tree));
        }
    }
    let whole = sized.first().map_or(0, |(bytes, _)| *bytes);
    sized.retain(|(bytes, _)| *bytes <= environment.max_tree_bytes());
    sized.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    if whole > environment.max_tree_bytes() {
        let (needed, room) = (output::size(whole), output::size(environment.max_tree_bytes()));
        output::note(format_args!("/usr needs {needed}, and there is room for {room}: taking a part of it"));
    }
    if sized.is_empty() {
        bail!(
            "there is too little room in {} for any part of /usr; set TMPDIR to a place with more",
            environment.directory.path.display()
        );
    }
    Ok(sized.into_iter().map(|(_, tree)| tree).collect())
}

/// Returns approximately how many bytes a tree takes on disk: a file with several hard links counts once for each name.
fn allocated_bytes(tree: &Path) -> Result<u64> {
    let mut total = 0;
    let mut pending = vec![tree.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries {
            let entry = entry?;
            let metadata = entry.metadata()?;
            total += metadata.blocks() * 512;
            if metadata.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok(total)
}
