//! The sandbox of a worker: what it needs, and its replacement when files of the resolver change.
//!
//! The sandbox allows files one by one, so a file that is replaced can no longer be opened. For a worker that resolves host
//! names this happens whenever the machine joins another network. It then asks to be replaced by a worker whose sandbox
//! allows the new files.
//!
//! *Not here*: the restrictions themselves (`mount::sandbox`).
//!
//! *Used by* `processes::worker`.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, inotify};
use url::Url;

use super::descriptors::copy_fd;
use super::error::{OrCannot as _, ProcessError};
use super::handoff::Handoff;
use super::sandbox::{BackingFiles, FileAccess, NetworkAccess, RepositoryOwner, WorkerSandbox, WriteAccess};
use super::worker::request_replacement;
use crate::fuse::{Confinement, MountMode, MountOptions, Service, SharedState};
use crate::remote::RemoteConfig;
use crate::store::Store;

/// Paths below a repository that a broker writes.
const BROKER_WRITE_PATHS: [&str; 7] = ["objects", "packs", "images", "parts", "partial", "tmp", "state"];

/// The directory of the resolver's files.
const ETC: &str = "/etc";

/// The files of the resolver that a worker reads.
const RESOLVER_FILES: [&str; 6] = ["resolv.conf", "hosts", "nsswitch.conf", "host.conf", "gai.conf", "ld.so.cache"];

/// Further paths that resolving host names and verifying servers need.
const NETWORK_PATHS: [&str; 13] = [
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

/// The TCP ports of name servers and of web servers.
const COMMON_PORTS: [u16; 3] = [53, 80, 443];

/// Delay between a change and the replacement, in which further changes are completed.
const CHANGE_DELAY: Duration = Duration::from_secs(1);

/// Enters the sandbox for serving the mount. Returns a watch of the resolver's files, for a worker that fetches.
pub(crate) fn enter(
    handoff: &Handoff,
    options: &MountOptions,
    repository: &OwnedFd,
    (shared, service): (&SharedState, Service),
) -> Result<Option<ResolverWatch>, ProcessError> {
    if options.confinement == Confinement::Unconfined {
        return Ok(None);
    }
    let is_fetching = !handoff.is_complete && handoff.remote.is_some() && service == Service::Full;
    let network = if is_fetching { NetworkAccess::Needed } else { NetworkAccess::None };
    let sandbox = WorkerSandbox {
        files: allowed_files(handoff, options, repository, network)?,
        network,
        ports: handoff
            .remote
            .as_ref()
            .filter(|_| is_fetching)
            .map(|remote| ports(&remote.config()))
            .unwrap_or_default(),
        writing: if handoff.is_complete && handoff.record.is_none() && handoff.metrics_file.is_none() {
            WriteAccess::None
        } else {
            WriteAccess::Own
        },
        backing: if options.mode == MountMode::Passthrough { BackingFiles::Registered } else { BackingFiles::None },
        repository: repository_owner(repository)?,
    };
    let watch = is_fetching.then(ResolverWatch::open).transpose();
    let watch = watch.inspect_err(|error| tracing::debug!("{ETC} is not watched: {error}")).ok().flatten();
    shared.set_sandbox(&sandbox.enter());
    Ok(watch)
}

fn allowed_files(
    handoff: &Handoff,
    options: &MountOptions,
    repository: &OwnedFd,
    network: NetworkAccess,
) -> Result<Vec<FileAccess>, ProcessError> {
    let duplicate = |descriptor: BorrowedFd<'_>| descriptor.try_clone_to_owned().or_cannot("duplicate a descriptor");
    let repository_itself = duplicate(repository.as_fd())?;
    let mut files = vec![match options.mode {
        MountMode::Passthrough => FileAccess::read_and_execute_descriptor(repository_itself),
        MountMode::Cached => FileAccess::read_descriptor(repository_itself),
    }];
    if !handoff.is_complete {
        files.extend(partial_directory(handoff)?.map(FileAccess::write_descriptor));
    }
    if let Some((directory, ..)) = handoff.descriptors.registry {
        files.push(FileAccess::write_descriptor(copy_fd(directory)?));
    }
    for directory in [handoff.descriptors.record, handoff.descriptors.metrics_file].into_iter().flatten() {
        files.push(FileAccess::write_descriptor(copy_fd(directory)?));
    }
    let devices = ["/dev/null", "/dev/urandom"].into_iter();
    files.extend(devices.filter_map(|path| FileAccess::read(Path::new(path))));
    if network == NetworkAccess::Needed {
        let mountpoint = handoff.mountpoint();
        let resolver = RESOLVER_FILES.iter().map(|name| Path::new(ETC).join(name));
        let network = NETWORK_PATHS.iter().map(PathBuf::from).filter(|path| !is_below(path, &mountpoint));
        files.extend(resolver.chain(network).filter_map(|path| FileAccess::read(&path)));
        let paths = handoff.remote.as_ref().map(|remote| remote.config().local_paths()).unwrap_or_default();
        files.extend(paths.iter().filter_map(|path| FileAccess::read(path)));
    }
    Ok(files)
}

/// Enters the sandbox of a broker, which writes to the repository and does nothing else.
pub(super) fn enter_broker(repository: &OwnedFd) -> Result<(), ProcessError> {
    let read = repository.try_clone().or_cannot("duplicate a descriptor").map(FileAccess::read_descriptor)?;
    let written = BROKER_WRITE_PATHS.iter().filter_map(|name| open_below(repository, name));
    let devices = ["/dev/null", "/dev/urandom"].into_iter().filter_map(|path| FileAccess::read(Path::new(path)));
    let files = [read].into_iter().chain(written.map(FileAccess::write_descriptor)).chain(devices).collect();
    let owner = repository_owner(repository)?;
    let sandbox = WorkerSandbox { files, writing: WriteAccess::Repository, repository: owner, ..Default::default() };
    let _: crate::fuse::Enforced = sandbox.enter();
    Ok(())
}

fn repository_owner(repository: &OwnedFd) -> Result<RepositoryOwner, ProcessError> {
    let owner = rustix::fs::fstat(repository).or_cannot("read the owner of the repository")?.st_uid;
    let is_own = owner == rustix::process::geteuid().as_raw();
    Ok(if is_own { RepositoryOwner::ThisUser } else { RepositoryOwner::OtherUser })
}

/// Makes and opens the directory of what is fetched in parts for the commit. The working directory is the repository. Returns
/// `None` if the repository cannot be written.
fn partial_directory(handoff: &Handoff) -> Result<Option<OwnedFd>, ProcessError> {
    let (commit, image) = handoff.commit_and_image()?;
    let made = Store::open_working_directory()?.prepare_partial(commit, image);
    Ok(made.inspect_err(|error| tracing::warn!("fetched contents are not stored: {error}")).ok())
}

/// Returns the TCP ports of a remote, its mirrors, its proxy and its endpoints, and those of name servers and of redirects to
/// other web servers.
fn ports(config: &RemoteConfig) -> Vec<u16> {
    let settings = config.transport.settings.values();
    let urls =
        [&config.url].into_iter().chain(&config.transport.mirrors).chain(&config.transport.proxy).chain(settings);
    // A proxy may be given without its scheme.
    let parse =
        |url: &String| Url::parse(url).ok().filter(Url::has_host).or_else(|| Url::parse(&format!("http://{url}")).ok());
    let named = urls.filter_map(|url| parse(url)?.port_or_known_default());
    let ports: BTreeSet<u16> = named.chain(COMMON_PORTS).collect();
    ports.into_iter().collect()
}

/// Returns whether a path leads below `mountpoint`. It does not access the mount: this process may be the one that has to serve
/// it.
fn is_below(path: &Path, mountpoint: &Path) -> bool {
    // Follows the links of a merged /usr. A path that is below the mountpoint by its name is not accessed at all.
    let target = || std::fs::read_link(path).map(|link| Path::new("/").join(link));
    path.starts_with(mountpoint) || target().is_ok_and(|target| target.starts_with(mountpoint))
}

fn open_below(directory: &OwnedFd, name: &str) -> Option<OwnedFd> {
    rustix::fs::openat(directory, name, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).ok()
}

/// A watch of the resolver's files.
pub(crate) struct ResolverWatch(OwnedFd);

impl ResolverWatch {
    fn open() -> rustix::io::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let changes = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::CREATE;
        inotify::add_watch(&watch, ETC, changes)?;
        Ok(Self(watch))
    }

    /// Starts a thread that asks for the replacement of this process when one of the files changes.
    pub(crate) fn start(self) -> Result<(), ProcessError> {
        let watch = move || {
            let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 4096];
            let mut events = inotify::Reader::new(self.0.as_fd(), &mut buffer);
            while let Ok(event) = events.next() {
                let name = event.file_name().and_then(|name| name.to_str().ok()).unwrap_or_default();
                if RESOLVER_FILES.contains(&name) {
                    thread::sleep(CHANGE_DELAY);
                    tracing::info!("{ETC}/{name} has changed: a new worker takes over");
                    return request_replacement();
                }
            }
        };
        thread::Builder::new().name("resolver-watch".to_owned()).spawn(watch).or_cannot("start a thread").map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_below_the_mountpoint_is_recognised() {
        assert!(is_below(Path::new("/usr/lib/ssl"), Path::new("/usr")));
        assert!(!is_below(Path::new("/etc/ssl"), Path::new("/usr")));
        let links = tempfile::tempdir().expect("a temporary directory");
        std::os::unix::fs::symlink("usr/lib", links.path().join("lib")).expect("creates a link");
        assert!(is_below(&links.path().join("lib"), Path::new("/usr")));
    }

    #[test]
    fn ports_of_remote_mirrors_and_proxies_are_allowed() {
        let mut config = RemoteConfig { url: "https://host:8443/repo".to_owned(), ..RemoteConfig::default() };
        config.transport.mirrors = vec!["http://mirror:8080/".to_owned(), "s3://bucket/prefix".to_owned()];
        config.transport.proxy = Some("http://proxy:3128".to_owned());
        for (name, value) in
            [("https_proxy", "other-proxy:3129"), ("AWS_ENDPOINT_URL", "http://minio:9000"), ("AWS_REGION", "eu")]
        {
            config.transport.settings.insert(name.to_owned(), value.to_owned());
        }
        assert_eq!(ports(&config), [53, 80, 443, 3128, 3129, 8080, 8443, 9000]);
    }

    #[test]
    fn missing_files_are_ignored() {
        assert!(FileAccess::read(Path::new("/nonexistent")).is_none());
        assert!(std::fs::metadata(ETC).is_ok_and(|etc| etc.is_dir()));
    }
}
