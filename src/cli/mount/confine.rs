//! What a worker may open, for its sandbox.
//!
//! Files are allowed one by one, and one that is replaced is out of reach from then on. For a worker that looks names of
//! servers up that happens whenever the machine joins another network; then it makes room for another, which sees the new
//! files.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags, inotify};

use super::handoff::Handoff;
use crate::fuse::{
    Access, Backing, Board, Confinement, Mode as MountMode, MountOptions, Network, Owner, Sandbox, Service, Writing,
    ask_to_be_replaced,
};

/// Where the lazy parts of a repository are written, below its directory.
const WRITTEN: [&str; 6] = ["objects", "packs", "images", "partial", "tmp", "state"];

/// Where a mount of which everything is here removes its registration.
const REGISTERED: [&str; 1] = ["state/mounts"];

/// The directory of the files that say how names are looked up, and those of them that matter.
const ETC: &str = "/etc";
const ETC_FILES: [&str; 6] = ["resolv.conf", "hosts", "nsswitch.conf", "host.conf", "gai.conf", "ld.so.cache"];

/// What else looking names up and trusting servers takes.
const NETWORK: [&str; 13] = [
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/lib/ssl",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/proc/sys/net/core/somaxconn",
];

/// How long after a change nothing more is changed.
const SETTLED: Duration = Duration::from_secs(1);

/// Confines this process to what serving the mount takes. Returns what tells that names are looked up in another way.
pub fn enter(
    handoff: &Handoff,
    options: &MountOptions,
    repository: &OwnedFd,
    (board, service): (&Board, Service),
) -> Result<Option<NameFiles>> {
    if options.confinement == Confinement::Free {
        return Ok(None);
    }
    let is_fetching = !handoff.is_whole && handoff.remote.is_some() && service == Service::Full;
    let network = if is_fetching { Network::Needed } else { Network::None };
    let owner = rustix::fs::fstat(repository).context("cannot look at the repository")?.st_uid;
    let is_ours = owner == rustix::process::geteuid().as_raw();
    let sandbox = Sandbox {
        files: files(handoff, options, repository, network)?,
        network,
        writing: if handoff.is_whole && handoff.record.is_none() && handoff.metrics_file.is_none() {
            Writing::None
        } else {
            Writing::Needed
        },
        backing: if options.mode == MountMode::Passthrough { Backing::Registered } else { Backing::None },
        repository: if is_ours { Owner::Own } else { Owner::Other },
    };
    let names = is_fetching.then(NameFiles::open).transpose();
    let names = names.inspect_err(|error| tracing::debug!("{ETC} is not watched: {error}")).ok().flatten();
    board.set_sandbox(&sandbox.enter());
    Ok(names)
}

fn files(handoff: &Handoff, options: &MountOptions, repository: &OwnedFd, network: Network) -> Result<Vec<Access>> {
    let own = |descriptor: BorrowedFd<'_>| descriptor.try_clone_to_owned().context("too many open files");
    let repository_itself = own(repository.as_fd())?;
    let mut files = vec![match options.mode {
        MountMode::Passthrough => Access::lend_in(repository_itself),
        MountMode::Cached => Access::read_in(repository_itself),
    }];
    let written = if handoff.is_whole { &REGISTERED[..] } else { &WRITTEN };
    files.extend(written.iter().filter_map(|name| open_below(repository, name)).map(Access::write_in));
    if let Some((directory, ..)) = handoff.descriptors.registry {
        files.push(Access::write_in(super::handoff::copy(directory)?));
    }
    for directory in [handoff.descriptors.record, handoff.descriptors.metrics_file].into_iter().flatten() {
        files.push(Access::write_in(super::handoff::copy(directory)?));
    }
    let everywhere = ["/dev/null", "/dev/urandom"].into_iter();
    files.extend(everywhere.filter_map(|path| Access::read(Path::new(path))));
    if network == Network::Needed {
        let mountpoint = handoff.mountpoint();
        let names = ETC_FILES.iter().map(|name| Path::new(ETC).join(name));
        let elsewhere = NETWORK.iter().map(PathBuf::from).filter(|path| !is_below(path, &mountpoint));
        files.extend(names.chain(elsewhere).filter_map(|path| Access::read(&path)));
        let paths = handoff.remote.as_ref().map(|remote| remote.get().local_paths()).unwrap_or_default();
        files.extend(paths.iter().filter_map(|path| Access::read(path)));
    }
    Ok(files)
}

/// Whether a path leads to what is mounted at `mountpoint`. Known without going there: if this process is to serve it, nobody
/// answers yet.
fn is_below(path: &Path, mountpoint: &Path) -> bool {
    // The links of a merged /usr; what is below it itself is not even asked whether it is one.
    let target = || std::fs::read_link(path).map(|link| Path::new("/").join(link));
    path.starts_with(mountpoint) || target().is_ok_and(|target| target.starts_with(mountpoint))
}

fn open_below(directory: &OwnedFd, name: &str) -> Option<OwnedFd> {
    rustix::fs::openat(directory, name, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).ok()
}

/// The files that say how names are looked up.
pub struct NameFiles(OwnedFd);

impl NameFiles {
    fn open() -> rustix::io::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let changes = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::CREATE;
        inotify::add_watch(&watch, ETC, changes)?;
        Ok(Self(watch))
    }

    /// Has this process replaced when they change.
    pub fn watch(self) -> Result<()> {
        let watch = move || {
            let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 4096];
            let mut events = inotify::Reader::new(self.0.as_fd(), &mut buffer);
            while let Ok(event) = events.next() {
                let name = event.file_name().and_then(|name| name.to_str().ok()).unwrap_or_default();
                if ETC_FILES.contains(&name) {
                    thread::sleep(SETTLED);
                    tracing::info!("{ETC}/{name} has changed: a new worker takes over");
                    return ask_to_be_replaced();
                }
            }
        };
        thread::Builder::new().name("names".to_owned()).spawn(watch).context("cannot start a thread").map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_is_not_looked_at() {
        assert!(is_below(Path::new("/usr/lib/ssl"), Path::new("/usr")));
        assert!(!is_below(Path::new("/etc/ssl"), Path::new("/usr")));
        let links = tempfile::tempdir().expect("a temporary directory");
        std::os::unix::fs::symlink("usr/lib", links.path().join("lib")).expect("made");
        assert!(is_below(&links.path().join("lib"), Path::new("/usr")));
    }

    #[test]
    fn files_that_are_not_there_are_no_obstacle() {
        assert!(Access::read(Path::new("/nonexistent")).is_none());
        assert!(std::fs::metadata(ETC).is_ok_and(|etc| etc.is_dir()));
    }
}
