//! The supervisor: holds the connection to the kernel and restarts the worker process that serves it.
//!
//! A worker that ends is replaced, and the kernel resends the requests that it had not replied to. A worker that makes no
//! progress is killed first. The supervisor does no I/O for the filesystem.
//!
//! *Not here*: images, repositories, options. The supervisor only has descriptors, which it was given, and programs, which
//! it starts by descriptor.
//!
//! *Invariants*: after the first worker serves, nothing here allocates, waits except in [`nix::poll`], or needs a path: the
//! process may be in an emptied initramfs, without free memory, below the filesystem that it holds. A crash of a worker does
//! not end the supervisor; only the end of the mount does.
//!
//! *Used by* `processes::supervisor`.
//!
//! | file | holds |
//! | --- | --- |
//! | `policy` | the decisions that follow from the ends of workers |
//! | `children` | the starts and ends of processes |
//! | `exchange` | the exchange of the program under a running mount |
//! | `peer` | the test whether a client of the exchange socket is a worker |
//! | `watchdog` | detection of workers that hang and of lost requests |

mod children;
mod exchange;
mod peer;
mod policy;
mod watchdog;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::fuse::{Death, SharedState, now_ms};
use crate::sys::ProgramArguments;
use children::Children;
use exchange::Exchange;
pub use exchange::ExchangeError;
pub use exchange::exchange_program;
pub(crate) use exchange::request_image;
use watchdog::Watchdog;

/// How much longer than a request may wait for absent content a worker that is replaced may take to end, in milliseconds.
const LEAVE_MARGIN_MS: u64 = 5_000;

/// The arguments of the processes that a supervisor starts or becomes.
pub(crate) struct ProcessArguments {
    /// A worker.
    pub(crate) worker: ProgramArguments,
    /// A worker that is started periodically while all accesses are refused, and that logs nothing if it cannot serve.
    pub(crate) probe: ProgramArguments,
    /// The process that unmounts.
    pub(crate) unmount: ProgramArguments,
    /// The process that mounts again after the connection was lost.
    pub(crate) remount: ProgramArguments,
    /// The supervisor of another version, which takes over this one's mount and worker.
    pub(crate) takeover: ProgramArguments,
}

/// The descriptors that a supervisor holds for its workers, which have each under the same number.
pub(crate) struct SupervisorFds {
    /// The shared pages.
    pub(crate) shared: SharedState,
    /// The connection to the kernel.
    pub(crate) device: OwnedFd,
    /// An unused connection, for kernels on which the first one can be lost.
    pub(crate) spare_device: Option<OwnedFd>,
    /// The directory with the kernel's counts of requests, if it could be opened.
    pub(crate) connections: Option<OwnedFd>,
    pub(crate) program: OwnedFd,
    /// The pipe on which workers report that they are ready.
    pub(crate) ready: OwnedFd,
    /// The pipe that wakes a worker when it may serve.
    pub(crate) go: OwnedFd,
    /// The socket for exchanges of the program.
    pub(crate) exchange_socket: Option<OwnedFd>,
    /// The file of the mounted image, if the commit was complete when it was mounted.
    pub(crate) image: Option<OwnedFd>,
}

/// The way in which a supervisor starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartKind {
    /// It holds a new mount, which has no worker yet.
    New,
    /// It takes over from another version of itself, whose worker serves.
    Takeover,
}

/// The time limits of a mount.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A worker that makes no progress for this time is replaced; `None` for never.
    pub(crate) hang_timeout: Option<Duration>,
    /// How long a request may wait for absent content.
    pub(crate) fetch_timeout: Duration,
}

/// The way in which a supervisor ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The filesystem was unmounted.
    Unmounted,
    /// The first worker failed to start and exited with this code.
    Failed(u8),
    /// The connection was lost and the mount could not be made again.
    ConnectionLost,
}

pub(crate) struct Supervisor {
    fds: SupervisorFds,
    arguments: ProcessArguments,
    signals: SignalFd,
    children: Children,
    watchdog: Watchdog,
    exchange: Exchange,
    /// How long a worker that is replaced may go on replying to its pending requests, in milliseconds.
    leave_limit: u64,
    /// The directory `/proc`, for the names of bulk readers, if it could be opened at the start.
    proc: Option<OwnedFd>,
}

impl Supervisor {
    /// Creates a supervisor. Blocks signals, so it must be called before there is a second thread.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub(crate) fn new(
        fds: SupervisorFds,
        arguments: ProcessArguments,
        limits: Limits,
        kind: StartKind,
    ) -> io::Result<Self> {
        let wanted: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect();
        wanted.thread_block()?;
        let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let children = Children::new(&fds.shared, kind);
        let watchdog = Watchdog::new(&fds.shared, limits);
        let leave_limit = u64::try_from(limits.fetch_timeout.as_millis()).unwrap_or(u64::MAX / 4) + LEAVE_MARGIN_MS;
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let proc = rustix::fs::open(c"/proc", flags, rustix::fs::Mode::empty()).ok();
        Ok(Self { fds, arguments, signals, children, watchdog, exchange: Exchange::default(), leave_limit, proc })
    }

    /// Runs until the mount ends. `on_serving` is called once, when the first worker serves.
    pub(crate) fn run(mut self, on_serving: impl FnOnce()) -> Ended {
        let mut on_serving = Some(on_serving);
        loop {
            if self.children.needs_worker(now_ms()) {
                self.start_worker();
            }
            self.wait_for_event();
            self.handle_signals();
            if let Some(ended) = self.reap_children() {
                return ended;
            }
            self.handle_ready_workers();
            if self.children.ever_served()
                && let Some(on_serving) = on_serving.take()
            {
                on_serving();
            }
            if let Some(ended) = self.check_worker() {
                return ended;
            }
            self.children.end_leaving(now_ms());
            self.handle_exchange();
            self.probe_for_recovery();
        }
    }

    /// Waits until a descriptor is readable or a deadline has passed.
    fn wait_for_event(&mut self) {
        let now = now_ms();
        let times = [
            self.children.next_deadline(now),
            self.watchdog.next_deadline(now, &self.children),
            self.exchange.next_deadline(now),
        ];
        let millis = times.into_iter().flatten().min().map(|at| at.saturating_sub(now));
        let timeout = millis.map_or(PollTimeout::NONE, |millis| {
            PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
        });
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let signals = self.signals.as_fd();
        // Always three descriptors, possibly one of them twice, since a list of variable length would allocate.
        let exchange = self.exchange.readable_fd(&self.fds, self.children.worker_state()).unwrap_or(signals);
        let mut descriptors = [readable(signals), readable(self.fds.ready.as_fd()), readable(exchange)];
        // All sources are checked afterwards, also after an error or interruption.
        let _ = poll(&mut descriptors, timeout);
    }

    fn handle_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            // SIGCHLD only wakes: `reap_children` collects the ended children.
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                let started = self.arguments.unmount.start(&self.fds.program);
                log_unless(started.is_ok(), "cannot start the process that unmounts");
            }
        }
    }

    /// Handles workers that became ready. A worker records its process number in the shared pages and wakes the supervisor by a
    /// byte. It sends a byte also for a new bulk reader, whose name the supervisor then reads.
    fn handle_ready_workers(&mut self) {
        let mut bytes = [0; 64];
        while rustix::io::read(&self.fds.ready, &mut bytes).is_ok_and(|length| length == bytes.len()) {}
        self.children.note_ready(&self.fds.shared);
        self.let_ready_worker_serve();
        if let Some(proc) = &self.proc {
            self.fds.shared.fill_reader_names(proc);
        }
    }

    /// Gives the go-ahead to a worker that is ready, unless the previous one has not ended yet.
    fn let_ready_worker_serve(&mut self) {
        if let Some(pid) = self.children.begin_serving() {
            self.fds.shared.set_go_ahead(pid.as_raw().cast_unsigned());
            let written = rustix::io::write(&self.fds.go, b"g");
            log_unless(written.is_ok(), "cannot wake a worker that is ready");
        }
    }
}

/// Logs a line unless `success`.
fn log_unless(success: bool, text: &str) {
    if !success {
        log_line(text);
    }
}

/// Writes a line to standard error, which is the log, without allocating.
fn log_line(text: &str) {
    let (line, length) = format_line("<4>sapwood: ", text);
    // There is no other place to report an error of this.
    let _ = rustix::io::write(rustix::stdio::stderr(), &line[..length]);
}

/// Writes a line to standard error and, if this user may, to the kernel's log and so to the console, since the machine may run
/// from the mount.
fn log_to_console(text: &str) {
    log_line(text);
    let (line, length) = format_line("<2>sapwood: ", text);
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
    if let Ok(log) = rustix::fs::open(c"/dev/kmsg", flags, rustix::fs::Mode::empty()) {
        let _ = rustix::io::write(log, &line[..length]);
    }
}

/// Returns a line without allocating, truncated to 160 bytes.
fn format_line(prefix: &str, text: &str) -> ([u8; 160], usize) {
    let mut line = [0; 160];
    let mut length = 0;
    for byte in [prefix, text, "\n"].iter().flat_map(|part| part.bytes()).take(line.len()) {
        line[length] = byte;
        length += 1;
    }
    (line, length)
}
