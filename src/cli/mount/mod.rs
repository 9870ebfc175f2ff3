//! `sapwood mount`: shows a commit as a directory.
//!
//! What is done here, in front of the user: find the commit, look into it, mount. Then two processes take over, which are
//! this program started again: a supervisor, which holds what must not be lost, and a worker, which answers the kernel.
//! What goes wrong until the worker serves is said here, on the terminal, and undone here.
//!
//! | file | holds |
//! | --- | --- |
//! | `found` | from words to a commit, from a commit to a filesystem |
//! | `handoff` | what the processes hand on to one another |
//! | `confine` | what a worker may open, and how it notices that it should look again |
//! | `roles` | what the processes do that are not in front of the user |
//! | `log` | where those write to |

mod confine;
mod found;
mod handoff;
mod log;
mod roles;

use std::ffi::OsString;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use super::lazy::Asking;
use super::remote_source::{RemoteSource, TrustArgs};
use super::{Context, lazy, output, record, repository};
use crate::cache::ProfileChoice;
use crate::fuse::{
    Action, Attached, Board, MountOptions, MountRequest, Registry, Unmount, open_connections, path_text,
    remount_read_only,
};
use crate::remote::transport::without_secret;
use found::Found;
pub use handoff::{Handoff, VERSION as HANDOFF_VERSION, own_program};
use handoff::{Numbers, hand_on};
use log::LogKind;
pub use roles::Role;

/// The word on the pipe that says that the mount answers.
const READY: &[u8] = b"ready\n";

/// How long a mount waits for the names and attributes that are on their way when it could be made: a megabyte over a fast
/// line. On a slow one they would keep the user waiting, and the worker asks for them once more.
const NAMES_PATIENCE: Duration = Duration::from_millis(150);

/// What the processes behind a mount are called. As root an `@` comes before it, which asks systemd to leave them alone at
/// shutdown until nothing is needed from their filesystem any more.
pub const DAEMON_NAME: &str = "sapwood-mount";

/// Show a commit as a read-only directory
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood mount debian/12 /mnt
  sapwood mount debian/12^:/usr /mnt              the /usr of the commit before
  sapwood mount -o allow_other,suid debian/12 /mnt
  sapwood mount --key deb.pub https://host/repo#debian/12 /mnt    fetched as it is read

Options: subdir=/DIR, allow_other, suid, dev, noexec (nosuid and nodev unless asked), passthrough (the kernel
reads large files itself; root, Linux 6.9), threads=N, context=CONTEXT, repo=DIR; of what is fetched
as it is read: fetch-timeout=SECONDS (30: how long a reader waits before it gets an error), nowait,
cache-size=SIZE (keep no more than 512M, 2G … of it, what was used last), profile=auto|none|FILE (what
is fetched first: what the publisher recorded, as soon as some file is read, or with 'auto' at once),
background-fill (like --background-fill, for fstab);
profile-record=FILE writes down what is read, for 'sapwood publish --profile'.

What comes is compared with its name before it is kept. verify=open compares it once more when a mount
reads it first, verify=full whenever it is read; what is damaged is fetched again if a remote has it,
else it is an I/O error. metrics-file=FILE and metrics-listen=ADDRESS:PORT are options, too, for fstab.

The processes behind a mount watch over each other: watchdog=SECONDS (30; 0: never) replaces one that
answers nothing for so long; nosandbox lets it do whatever its user may.")]
pub struct Args {
    /// Mount options, separated by commas
    #[arg(short = 'o', long = "options", value_name = "OPTIONS")]
    options: Vec<String>,
    /// Stay in the foreground, log to the terminal, unmount on Ctrl-C
    #[arg(long)]
    foreground: bool,
    /// Fetch everything while nothing urgent is to be done, not only what is read
    #[arg(long)]
    background_fill: bool,
    /// Write the figures of this mount, in OpenMetrics, to a file every 10 s
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    /// Tell the figures of this mount, in OpenMetrics, over HTTP
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// Started by a service, not at a terminal: a remote is asked for no more than 2 s for news of what is here
    #[arg(long, hide = true)]
    unattended: bool,
    #[command(flatten)]
    trust: TrustArgs,
    /// What to mount, also REMOTE:REF or URL#REF; SOURCE:/DIR shows only that directory of it
    source: String,
    /// An existing directory
    mountpoint: PathBuf,
}

impl Args {
    /// What a machine mounts of itself: a directory of a commit in its repository.
    pub fn of_the_system(source: String, mountpoint: PathBuf, options: Vec<String>) -> Self {
        Self { options, source, mountpoint, unattended: true, ..Self::default() }
    }

    const fn asking(&self) -> Asking {
        if self.unattended { Asking::Unattended } else { Asking::Attended }
    }
}

/// Runs the verb.
///
/// # Errors
/// Whatever kept the mount from coming about.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let mut options = MountOptions::parse(&args.options.join(","))?;
    options.metrics_file = args.metrics_file.clone().or(options.metrics_file);
    options.metrics_listen = args.metrics_listen.or(options.metrics_listen);
    if options.action == Action::Remount {
        let path = absolute(&args.mountpoint)?;
        remount_read_only(&path, &options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let remote = RemoteSource::parse(&args.source)?;
    let repository = match (&options.repository, &remote) {
        (Some(named), _) => named.clone(),
        (None, Some(remote)) => lazy::repository(remote, context)?,
        (None, None) => repository::path(context)?,
    };
    let found = Found::look(args, &options, &repository)?;
    // Looked into before anything is mounted: a mount that cannot be served should never be seen.
    if let Some(tree) = found.show(&options)?.tree {
        tree.await_names(NAMES_PATIENCE);
    }
    let root = found.store.register_mount(found.visit.id()).inspect_err(|error| not_rooted(error)).ok();
    let request = MountRequest { source: without_secret(&args.source), mountpoint: args.mountpoint.clone(), options };
    let attached = Attached::new(&request)?;
    let mountpoint = attached.unmounter.clone();
    let begun = Front { args, options: &request.options, found: &found, attached }
        .hand_over(root)
        .and_then(|supervisor| supervisor.follow());
    begun.inspect_err(|_| {
        // The error that matters is the one on its way out.
        if let Err(error) = mountpoint.unmount(Unmount::Lazy) {
            tracing::warn!("after a failed mount: {error}");
        }
    })
}

fn not_rooted(error: &dyn std::fmt::Display) {
    tracing::warn!("'sapwood gc' will not see this mount: {error}");
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot reach {}", path.display()))
}

/// A mount that is made and not yet served.
struct Front<'a> {
    args: &'a Args,
    options: &'a MountOptions,
    found: &'a Found,
    attached: Attached,
}

/// The supervisor, seen from the process that started it.
struct Supervisor {
    child: Child,
    is_foreground: bool,
}

impl Front<'_> {
    /// Starts the supervisor with everything it is to hold.
    fn hand_over(self, root: Option<crate::store::MountRoot>) -> Result<Supervisor> {
        let board = Board::create().context("cannot set shared memory up")?;
        board.set_device(self.attached.unmounter.device());
        // A mount that is on no list is still a mount: /run may be read-only.
        let reserved = registry().reserve(self.attached.unmounter.device());
        let reserved =
            reserved.inspect_err(|error| tracing::warn!("'sapwood mounts' will not show this mount: {error}")).ok();
        let (log, kind) = self.log()?;
        let (ready, go) = (pipe()?, pipe()?);
        rustix::io::ioctl_fionbio(&ready.0, true).map_err(io::Error::from)?;
        let program = own_program()?;
        let spare = spare_device();
        let connections = open_connections();
        let connections =
            connections.inspect_err(|error| tracing::debug!("the kernel's count of requests: {error}")).ok();
        let root = root.and_then(crate::store::MountRoot::hand_over);
        let image = self.found.image_file()?;
        let record = self.options.profile_record.as_deref().map(record::place).transpose()?;
        let metrics = self.options.metrics_file.as_deref().map(record::place).transpose()?;
        let listener = self.options.metrics_listen.map(listen).transpose()?;
        let entry = reserved.as_ref().map(|r| -> Result<_> {
            Ok((hand_on(&r.directory)?, hand_on(&r.lock)?, hand_on(&r.figures)?, hand_on(&r.orders)?))
        });
        let descriptors = Numbers {
            device: hand_on(&self.attached.device)?,
            spare: spare.as_ref().map(hand_on).transpose()?,
            connections: connections.as_ref().map(hand_on).transpose()?,
            board: hand_on(&board)?,
            program: hand_on(&program)?,
            repository: hand_on(self.found.store.directory())?,
            log: hand_on(&log)?,
            ready: (hand_on(&ready.0)?, hand_on(&ready.1)?),
            go: (hand_on(&go.0)?, hand_on(&go.1)?),
            root: root.as_ref().map(|(root, _)| hand_on(root)).transpose()?,
            image: image.as_ref().map(hand_on).transpose()?,
            record: record.as_ref().map(|(directory, _)| hand_on(directory)).transpose()?,
            metrics_file: metrics.as_ref().map(|(directory, _)| hand_on(directory)).transpose()?,
            metrics_listen: listener.as_ref().map(hand_on).transpose()?,
            registry: entry.transpose()?,
        };
        let name = reserved.as_ref().map(|reserved| reserved.name.clone());
        let root_name = root.as_ref().map(|(_, name)| name.clone().into());
        let record = record.as_ref().map(|(_, name)| name.clone().into());
        let metrics_file = metrics.as_ref().map(|(_, name)| name.clone().into());
        let handoff = Handoff { name, root: root_name, record, metrics_file, ..self.describe(kind, descriptors) };
        let described = handoff.write()?;
        self.start(&described)
    }

    fn log(&self) -> Result<(OwnedFd, LogKind)> {
        if self.args.foreground {
            let terminal = rustix::io::dup(rustix::stdio::stderr()).map_err(io::Error::from)?;
            return Ok((terminal, LogKind::Terminal));
        }
        log::open().context("there is no place for a log")
    }

    /// What is fetched first, if a file says so. One that cannot be used is no reason not to mount.
    fn profile(&self) -> Option<Vec<u8>> {
        match lazy::profile(&self.options.profile) {
            ProfileChoice::Listed(text) => Some(text.render()),
            _ => None,
        }
    }

    fn describe(&self, log: LogKind, descriptors: Numbers) -> Handoff {
        let (args, found) = (self.args, self.found);
        Handoff {
            version: HANDOFF_VERSION,
            name: None,
            mountpoint: self.attached.unmounter.mountpoint().as_os_str().as_encoded_bytes().to_vec(),
            source: without_secret(&args.source),
            repository: path_text(found.store.path()),
            since: format!("{:.0}", jiff::Timestamp::now()),
            options: args.options.join(","),
            subdir: found.subdir.to_bytes(),
            visit: found.visit.record(),
            is_whole: found.is_whole,
            remote: found.remote.clone(),
            background_fill: args.background_fill,
            profile: self.profile(),
            record: None,
            metrics_file: None,
            log,
            root: None,
            descriptors,
        }
    }

    fn start(&self, described: &OwnedFd) -> Result<Supervisor> {
        let number = hand_on(described)?;
        let mut command = Command::new("/proc/self/exe");
        std::os::unix::process::CommandExt::arg0(&mut command, daemon_name());
        // What it needs of the environment was read already and is handed on.
        command.env_clear().args([Role::Supervisor.word(), &number.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().context("cannot start the process behind the mount")?;
        Ok(Supervisor { child, is_foreground: self.args.foreground })
    }
}

impl Supervisor {
    /// Waits for its word; in the foreground also for its end.
    fn follow(mut self) -> Result<ExitCode> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        if self.is_foreground {
            signals.thread_block().context("cannot receive signals")?;
        }
        let mut word = Vec::new();
        if let Some(pipe) = self.child.stdout.take() {
            let mut pipe = pipe.take(READY.len() as u64);
            pipe.read_to_end(&mut word).context("cannot hear the process behind the mount")?;
        }
        if word != READY {
            let status = self.child.wait().context("cannot wait for the process behind the mount")?;
            // A worker that ended with a code has said why.
            let code = status.code().filter(|code| *code > 0 && *code < 128);
            let Some(_) = code else { bail!("the process behind the mount ended without a word: {status}") };
            return Err(super::error::Told.into());
        }
        if !self.is_foreground {
            return Ok(ExitCode::SUCCESS);
        }
        output::note("mounted; Ctrl-C unmounts");
        self.wait_for_end(&signals)
    }

    /// Passes signals on until it has ended.
    fn wait_for_end(mut self, signals: &SigSet) -> Result<ExitCode> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let signals = *signals;
        let pass_on = move || {
            while let Ok(signal) = signals.wait() {
                if let Err(errno) = kill(pid, signal) {
                    tracing::debug!("{signal}: {errno}");
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(pass_on).context("cannot start a thread")?;
        let status = self.child.wait().context("cannot wait for the process behind the mount")?;
        Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(u8::try_from(code).unwrap_or(1))))
    }
}

/// Where figures are told. Bound here: a worker may bind nothing.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot tell figures on {address}"))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe().map_err(|errno| io::Error::from(errno).into())
}

/// Another connection to the kernel for old ones, which cannot send lost requests again. Root's: others cannot mount anew
/// without a helper.
fn spare_device() -> Option<OwnedFd> {
    let is_root = nix::unistd::geteuid().is_root();
    let open = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    is_root.then(open)?.ok().map(OwnedFd::from)
}

/// How a process behind a mount is called.
fn daemon_name() -> String {
    let mark = if nix::unistd::geteuid().is_root() { "@" } else { "" };
    format!("{mark}{DAEMON_NAME}")
}

/// The list of mounts of this user.
pub fn registry() -> Registry {
    Registry::new(runtime_directory().join("running"))
}

/// `/run/sapwood` for root; for others below what their session gives them, else a directory of their own in `/tmp`.
pub fn runtime_directory() -> PathBuf {
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return PathBuf::from("/run/sapwood");
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|directory: &OsString| !directory.is_empty()) {
        Some(directory) => PathBuf::from(directory).join("sapwood"),
        None => std::env::temp_dir().join(format!("sapwood-{user}")),
    }
}
