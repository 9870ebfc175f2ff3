//! The ground a demonstration stands on: a directory with room, the tools it needs, and their removal afterwards, also
//! after Ctrl-C.

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

/// The share of the free room that the tree may take: it is there twice, as a repository and compressed as it is published.
const ROOM_PERCENT: u64 = 55;

/// What is below the directory, but for the mountpoint.
const REMOVABLE: &[&str] = &["repo", "client", "published", "keys"];

/// Exit status of a process that ends by Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;

/// A temporary directory with a repository and a mountpoint. Dropping it unmounts and removes both.
pub struct Ground {
    top: Arc<Top>,
    program: PathBuf,
    free: u64,
}

struct Top {
    path: PathBuf,
    server: Mutex<Option<Child>>,
}

/// Whose repository a command works on: two directories stand for two machines.
#[derive(Debug, Clone, Copy)]
pub enum Machine {
    /// Where commits are made and published.
    Publisher,
    /// Where they are fetched.
    Client,
}

impl Ground {
    /// Makes the directory where there is most room, and sees to it that mounting can work.
    pub fn prepare() -> Result<Self> {
        prepare_fuse()?;
        let places = [env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
        let (free, place) = places
            .into_iter()
            .filter_map(|place| Some((free_bytes(&place).ok()?, place)))
            .max_by_key(|(free, _)| *free)
            .context("there is no temporary directory")?;
        let top = place.join(format!("sapwood-demo-{}", std::process::id()));
        fs::create_dir(&top).with_context(|| format!("cannot create {}", top.display()))?;
        let top = Arc::new(Top { path: top, server: Mutex::new(None) });
        clean_up_when_stopped(&top)?;
        let program = env::current_exe().context("cannot find this program")?;
        Ok(Self { top, program, free })
    }

    /// Where the commit is mounted.
    pub fn mountpoint(&self) -> PathBuf {
        self.top.path.join("mnt")
    }

    /// What a web server would show.
    pub fn published(&self) -> PathBuf {
        self.top.path.join("published")
    }

    /// The repository of the machine that fetches.
    pub fn client(&self) -> PathBuf {
        self.top.path.join("client")
    }

    /// Bytes that the repository may take.
    pub const fn room(&self) -> u64 {
        self.free / 100 * ROOM_PERCENT
    }

    /// Starts anew: no repository, an empty mountpoint.
    pub fn clear(&self) -> Result<()> {
        self.top.stop();
        for part in REMOVABLE {
            disk::remove_directory(&self.top.path.join(part))?;
        }
        match fs::create_dir(self.mountpoint()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Runs this program on one of the repositories and returns what it printed.
    pub fn sapwood(&self, machine: Machine, arguments: &[&str]) -> Result<String> {
        let repo = match machine {
            Machine::Publisher => self.top.path.join("repo"),
            Machine::Client => self.client(),
        };
        let mut command = Command::new(&self.program);
        command.env("SAPWOOD_KEYS", self.top.path.join("keys"));
        command.arg("--repo").arg(repo).args(arguments).stderr(Stdio::piped());
        let result = command.output().context("cannot start this program again")?;
        if !result.status.success() {
            bail!("{}", String::from_utf8_lossy(&result.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&result.stdout).into_owned())
    }

    /// Serves what is published until everything is removed, and returns the URL.
    pub fn serve(&self) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("serve").arg(self.published()).args(["--listen", "127.0.0.1:0"]);
        let mut server = command.stdout(Stdio::piped()).spawn().context("cannot start this program again")?;
        let output = server.stdout.take();
        *self.top.server.lock() = Some(server);
        let mut url = String::new();
        BufReader::new(output.context("the server has no output")?).read_line(&mut url)?;
        ensure!(!url.is_empty(), "the server ended before it said where it listens");
        Ok(url.trim().to_owned())
    }

    /// Mounts the commit that `source` names.
    pub fn mount(&self, source: &str) -> Result<()> {
        let mountpoint = self.mountpoint();
        let path = mountpoint.to_str().context("the temporary directory is not UTF-8")?;
        self.sapwood(Machine::Publisher, &["mount", source, path]).map(drop)
    }

    /// Unmounts it.
    pub fn unmount(&self) -> Result<()> {
        let mountpoint = self.mountpoint();
        let path = mountpoint.to_str().context("the temporary directory is not UTF-8")?;
        self.sapwood(Machine::Publisher, &["umount", path]).map(drop)
    }
}

impl Top {
    /// Unmounts and ends the server. Best effort and without a word: there may well be neither.
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
        // Never descends into the mount: if it is still there, its directory is busy and the rest is removed.
        for part in ["mnt"].iter().chain(REMOVABLE).chain(&[""]) {
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

impl Drop for Top {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Takes over the signals that end a program, and cleans up before it ends.
fn clean_up_when_stopped(top: &Arc<Top>) -> Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("cannot take over Ctrl-C")?;
    let top = Arc::downgrade(top);
    std::thread::Builder::new().name("stop".to_owned()).spawn(move || {
        if signals.wait().is_ok()
            && let Some(top) = top.upgrade()
        {
            output::note("\nstopping; removing what the demonstration made");
            top.remove();
            #[expect(clippy::disallowed_methods, reason = "what a signal ends ends here")]
            std::process::exit(INTERRUPTED);
        }
    })?;
    Ok(())
}

/// Sees to it that `/dev/fuse` and, without root, `fusermount3` are there.
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
    if needs_helper && !runs("fusermount3", &["--version"]) {
        output::note("installing fuse3, which mounts for users: sudo apt-get install fuse3");
        if !runs("sudo", &["-n", "apt-get", "install", "--yes", "--no-install-recommends", "fuse3"]) {
            bail!(
                "users mount through fusermount3, which is not there: install the package fuse3, or run this as root"
            );
        }
    }
    Ok(())
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let volume = rustix::fs::statvfs(path)?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}

/// The trees to try, the best first: `/usr` if there is room for it, else the largest part of it that there is room for.
pub fn candidates(ground: &Ground) -> Result<Vec<PathBuf>> {
    let mut sized = Vec::new();
    for tree in ["/usr", "/usr/lib", "/usr/share", "/usr/bin", "/usr/sbin"] {
        let tree = PathBuf::from(tree);
        if tree.is_dir() && !tree.is_symlink() {
            sized.push((allocated_bytes(&tree)?, tree));
        }
    }
    let whole = sized.first().map_or(0, |(bytes, _)| *bytes);
    sized.retain(|(bytes, _)| *bytes <= ground.room());
    sized.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    if whole > ground.room() {
        let (needed, room) = (output::size(whole), output::size(ground.room()));
        output::note(format_args!("/usr needs {needed}, and there is room for {room}: taking a part of it"));
    }
    if sized.is_empty() {
        bail!(
            "there is too little room in {} for any part of /usr; set TMPDIR to a place with more",
            ground.top.path.display()
        );
    }
    Ok(sized.into_iter().map(|(_, tree)| tree).collect())
}

/// What a tree takes on disk, roughly: hard links count for each of their names.
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
