//! The start of a mount: attaching it, starting its supervisor with the descriptors that it holds, waiting until it is served.
//!
//! *Not here*: resolving the command line (`cli::mount`); the supervisor's and the worker's own work (`processes`).
//!
//! *Invariants*: a mount that cannot be served is never visible, or is unmounted again.
//!
//! *Used by* `cli::mount`.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use super::READY_MESSAGE;
use super::connections::open_connections;
use super::descriptors::{make_inheritable, open_own_program};
use super::error::{OrCannot as _, ProcessError};
use super::handoff::{FdTable, HandedOptions, Handoff, VERSION};
use super::log::{self, LogKind};
use super::processes::Subcommand;
use super::recording_file::open_parent;
use super::registry::path_text;
use super::runtime::{process_name, registry};
use super::source::{MountSource, profile_choice};
use crate::cache::ProfileChoice;
use crate::fuse::{Attached, MountRequest, SharedState, Unmount};
use crate::store::MountRoot;

/// How long mounting waits for names and attributes that are being fetched: enough for a megabyte over a fast link. Over a slow
/// one the user would wait too long; the worker then requests them again.
const NAMES_WAIT: Duration = Duration::from_millis(150);

/// A mount that is to be started.
pub(crate) struct StartRequest<'a> {
    /// The commit.
    pub(crate) source: &'a MountSource,
    /// The mountpoint, the options, and the source as it is shown.
    pub(crate) mount: MountRequest,
    /// Whether the mount lives no longer than this process, and logs to its terminal.
    pub(crate) is_foreground: bool,
}

/// Mounts, and returns when the mount is served.
///
/// # Errors
/// [`ProcessError`]. Nothing is mounted then.
pub(crate) fn start(request: &StartRequest<'_>) -> Result<SupervisorProcess, ProcessError> {
    let source = request.source;
    // Opened before mounting, so that a mount that cannot be served is never visible.
    if let Some(tree) = source.open(&request.mount.options, None)?.tree {
        tree.wait_for_metadata(NAMES_WAIT);
    }
    let root = source.store.register_mount(source.resolved.id());
    let root = root.inspect_err(|error| tracing::warn!("'sapwood gc' will not see this mount: {error}")).ok();
    let attached = Attached::new(&request.mount)?;
    let mountpoint = attached.unmounter.clone();
    let result = PendingMount { request, attached }.start_supervisor(root);
    result.and_then(SupervisorProcess::wait_until_ready).inspect_err(|_| {
        // An error of unmounting is only logged: the first error is returned.
        if let Err(error) = mountpoint.unmount(Unmount::Lazy) {
            tracing::warn!("after a failed mount: {error}");
        }
    })
}

/// A mount that no process serves yet.
struct PendingMount<'a> {
    request: &'a StartRequest<'a>,
    attached: Attached,
}

/// The supervisor's process, seen by the process that started it.
pub(crate) struct SupervisorProcess {
    child: Child,
    is_foreground: bool,
}

impl PendingMount<'_> {
    /// Starts the supervisor with the descriptors that it holds.
    fn start_supervisor(self, root: Option<MountRoot>) -> Result<SupervisorProcess, ProcessError> {
        let shared = SharedState::create().or_cannot("create the shared memory")?;
        shared.set_device(self.attached.unmounter.device());
        // Without an entry in the list the mount still works: /run may be read-only.
        let entry = registry().reserve(self.attached.unmounter.device());
        let entry =
            entry.inspect_err(|error| tracing::warn!("'sapwood mounts' will not show this mount: {error}")).ok();
        let (log, kind) = self.open_log()?;
        let (ready, go) = (pipe()?, pipe()?);
        rustix::io::ioctl_fionbio(&ready.0, true).map_err(io::Error::from)?;
        let program = open_own_program().or_cannot("open this program")?;
        let spare = open_spare_device();
        let connections = open_connections();
        let connections =
            connections.inspect_err(|error| tracing::debug!("the kernel's count of requests: {error}")).ok();
        let root = root.and_then(MountRoot::hand_over);
        let (source, options) = (self.request.source, &self.request.mount.options);
        let image = source.open_image()?;
        let record = options.profile_record.as_deref().map(open_parent).transpose()?;
        let metrics = options.metrics_file.as_deref().map(open_parent).transpose()?;
        let listener = options.metrics_listen.map(bind_metrics_listener).transpose()?;
        let registry = entry.as_ref().map(|entry| -> io::Result<_> {
            let sockets = (make_inheritable(&entry.control_socket)?, make_inheritable(&entry.exchange_socket)?);
            Ok((make_inheritable(&entry.directory)?, make_inheritable(&entry.lock)?, sockets.0, sockets.1))
        });
        let descriptors = FdTable {
            device: make_inheritable(&self.attached.device)?,
            spare_device: spare.as_ref().map(make_inheritable).transpose()?,
            connections: connections.as_ref().map(make_inheritable).transpose()?,
            shared: make_inheritable(&shared)?,
            program: make_inheritable(&program)?,
            repository: make_inheritable(source.store.directory())?,
            log: make_inheritable(&log)?,
            ready: (make_inheritable(&ready.0)?, make_inheritable(&ready.1)?),
            go: (make_inheritable(&go.0)?, make_inheritable(&go.1)?),
            root: root.as_ref().map(|(root, _)| make_inheritable(root)).transpose()?,
            image: image.as_ref().map(make_inheritable).transpose()?,
            record: record.as_ref().map(|(directory, _)| make_inheritable(directory)).transpose()?,
            metrics_file: metrics.as_ref().map(|(directory, _)| make_inheritable(directory)).transpose()?,
            metrics_listen: listener.as_ref().map(make_inheritable).transpose()?,
            registry: registry.transpose()?,
        };
        let name = entry.as_ref().map(|entry| entry.name.clone());
        let root_name = root.as_ref().map(|(_, name)| name.clone().into());
        let record = record.as_ref().map(|(_, name)| name.clone().into());
        let metrics_file = metrics.as_ref().map(|(_, name)| name.clone().into());
        let handoff = Handoff { name, root: root_name, record, metrics_file, ..self.handoff(kind, descriptors) };
        let file = handoff.write()?;
        self.spawn(&file)
    }

    fn open_log(&self) -> Result<(OwnedFd, LogKind), ProcessError> {
        if self.request.is_foreground {
            let terminal = rustix::io::dup(rustix::stdio::stderr()).map_err(io::Error::from)?;
            return Ok((terminal, LogKind::Terminal));
        }
        log::open().or_cannot("open a log")
    }

    /// Returns the profile in the file that the options name. A file that cannot be used does not prevent the mount.
    fn profile(&self) -> Option<Vec<u8>> {
        match profile_choice(&self.request.mount.options.profile) {
            ProfileChoice::Listed(text) => Some(text.render()),
            _ => None,
        }
    }

    fn handoff(&self, log: LogKind, descriptors: FdTable) -> Handoff {
        let (request, source) = (self.request, self.request.source);
        Handoff {
            version: VERSION,
            name: None,
            mountpoint: self.attached.unmounter.mountpoint().as_os_str().as_encoded_bytes().to_vec(),
            source: request.mount.source.clone(),
            repository: path_text(source.store.path()),
            since: format!("{:.0}", jiff::Timestamp::now()),
            options: HandedOptions::Value(Box::new(request.mount.options.clone())),
            subdir: source.subdir.to_bytes(),
            resolved: source.resolved.to_record(),
            is_complete: source.is_complete,
            remote: source.remote.clone(),
            background_fill: false,
            profile: self.profile(),
            record: None,
            metrics_file: None,
            log,
            root: None,
            descriptors,
        }
    }

    fn spawn(&self, handoff: &OwnedFd) -> Result<SupervisorProcess, ProcessError> {
        let number = make_inheritable(handoff)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(process_name());
        // The environment was read already, and the needed parts are handed on.
        command.env_clear().args([Subcommand::Supervisor.name(), &number.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().or_cannot("start the process behind the mount")?;
        Ok(SupervisorProcess { child, is_foreground: self.request.is_foreground })
    }
}

impl SupervisorProcess {
    /// The signals that a mount in the foreground forwards to its supervisor.
    fn signals() -> SigSet {
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
    }

    /// Waits until the mount is served.
    fn wait_until_ready(mut self) -> Result<Self, ProcessError> {
        if self.is_foreground {
            Self::signals().thread_block().or_cannot("receive signals")?;
        }
        let mut message = Vec::new();
        if let Some(pipe) = self.child.stdout.take() {
            let mut pipe = pipe.take(READY_MESSAGE.len() as u64);
            pipe.read_to_end(&mut message).or_cannot("read from the process behind the mount")?;
        }
        if message == READY_MESSAGE {
            return Ok(self);
        }
        let status = self.child.wait().or_cannot("wait for the process behind the mount")?;
        // A process that exited with a code has reported its error.
        Err(match status.code() {
            Some(1..128) => ProcessError::AlreadyReported,
            _ => ProcessError::EndedSilently(status),
        })
    }

    /// Forwards signals to the supervisor until it has ended, and returns its exit status.
    pub(crate) fn wait_for_end(mut self) -> Result<ExitCode, ProcessError> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let forward = move || {
            while let Ok(signal) = Self::signals().wait() {
                if let Err(errno) = kill(pid, signal) {
                    tracing::debug!("{signal}: {errno}");
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(forward).or_cannot("start a thread")?;
        let status = self.child.wait().or_cannot("wait for the process behind the mount")?;
        Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(u8::try_from(code).unwrap_or(1))))
    }
}

/// Opens the socket on which metrics are served. A worker in its sandbox cannot bind one.
fn bind_metrics_listener(address: SocketAddr) -> Result<TcpListener, ProcessError> {
    TcpListener::bind(address).map_err(|source| ProcessError::MetricsAddress { address, source })
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe()?)
}

/// Opens another connection to the kernel, for kernels that cannot resend lost requests. Only for root: other users cannot
/// mount again without a helper.
fn open_spare_device() -> Option<OwnedFd> {
    let is_root = nix::unistd::geteuid().is_root();
    let open = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    is_root.then(open)?.ok().map(OwnedFd::from)
}
