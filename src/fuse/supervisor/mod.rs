//! The process that never does anything: it holds the connection to the kernel and has a worker answer on it.
//!
//! A worker that dies is replaced, and the kernel sends again what the dead one had in hand; one that answers nothing any
//! more is killed first. Knows neither images nor repositories nor options: only descriptors, which it was given, and
//! programs, which it starts by descriptor.
//!
//! Invariants: after the first worker serves, nothing here allocates, waits for anything but [`nix::poll`], or needs a path:
//! the process may live in an emptied initramfs, without memory, below the filesystem that it serves. A crash of a worker
//! is not a reason to end; only the end of the mount is.
//!
//! | file | holds |
//! | --- | --- |
//! | `policy` | what follows from how workers ended |
//! | `children` | the processes: their starts and ends |
//! | `orders`, `peer` | the exchange of the program under a running mount; which process may order it |
//! | `watchdog` | how a worker that hangs is noticed |

mod children;
mod orders;
mod peer;
mod policy;
mod watchdog;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::board::{Board, Death, now};
use crate::sys::Arguments;
use children::Children;
use orders::Orders;
pub use orders::{OrderError, exchange_program, shown_image};
use watchdog::Watchdog;

/// How the programs are called that a supervisor starts or becomes.
pub struct Roles {
    /// Answers the kernel.
    pub worker: Arguments,
    /// The same, and says nothing if it cannot: whether it can is tried again and again.
    pub probe: Arguments,
    /// Unmounts.
    pub end: Arguments,
    /// Mounts anew, where a connection was lost.
    pub remount: Arguments,
    /// The supervisor itself, of another version, with this one's mount and worker.
    pub successor: Arguments,
}

/// What a supervisor holds for its workers. They have each descriptor under the same number.
pub struct Held {
    /// What outlives workers.
    pub board: Board,
    /// The connection to the kernel.
    pub device: OwnedFd,
    /// An unused one, for a kernel on which a connection can be lost.
    pub spare: Option<OwnedFd>,
    /// Where the kernel counts requests, if it can be looked at.
    pub connections: Option<OwnedFd>,
    /// The program.
    pub program: OwnedFd,
    /// Where workers say that they are ready.
    pub ready: OwnedFd,
    /// Where they are told to begin.
    pub go: OwnedFd,
    /// Where orders come in.
    pub orders: Option<OwnedFd>,
    /// The image that is shown, if all of the commit was here when it was mounted.
    pub image: Option<OwnedFd>,
}

/// What is known of the life of a supervisor before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Of a new mount.
    New,
    /// In the place of another version of itself, whose worker serves.
    Succession,
}

/// The limits of patience.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A worker that answers nothing for so long is replaced; none: never.
    pub hang: Option<Duration>,
    /// So long may a request wait for what is absent.
    pub patience: Duration,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is mounted any more.
    Unmounted,
    /// The first worker never served, and ended with this code.
    Failed(u8),
    /// A lost connection could not be made anew.
    Lost,
}

/// The supervisor.
pub struct Supervisor {
    held: Held,
    roles: Roles,
    signals: SignalFd,
    children: Children,
    watchdog: Watchdog,
    orders: Orders,
    /// Where processes have their names, if that could be looked at when this one began.
    processes: Option<OwnedFd>,
}

impl Supervisor {
    /// Takes what is to be held. Blocks signals, so to be called before there is a second thread.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub fn new(held: Held, roles: Roles, limits: Limits, beginning: Beginning) -> io::Result<Self> {
        let wanted: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect();
        wanted.thread_block()?;
        let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let children = Children::new(&held.board, beginning);
        let watchdog = Watchdog::new(&held.board, limits);
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let processes = rustix::fs::open(c"/proc", flags, rustix::fs::Mode::empty()).ok();
        Ok(Self { held, roles, signals, children, watchdog, orders: Orders::default(), processes })
    }

    /// Has the mount served until it ends. `serving` is called once, when the first worker serves.
    pub fn run(mut self, serving: impl FnOnce()) -> Ended {
        let mut serving = Some(serving);
        loop {
            if self.children.is_wanting(now()) {
                self.start_worker();
            }
            self.wait();
            self.take_signals();
            if let Some(ended) = self.bury_the_dead() {
                return ended;
            }
            self.take_ready();
            if self.children.ever_served()
                && let Some(tell) = serving.take()
            {
                tell();
            }
            if let Some(ended) = self.watch() {
                return ended;
            }
            self.take_orders();
            self.probe();
        }
    }

    /// Waits until something happens, or is to be done.
    fn wait(&mut self) {
        let now = now();
        let times = [self.children.next(now), self.watchdog.next(now, &self.children), self.orders.next(now)];
        let millis = times.into_iter().flatten().min().map(|at| at.saturating_sub(now));
        let timeout = millis.map_or(PollTimeout::NONE, |millis| {
            PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
        });
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let signals = self.signals.as_fd();
        // Four of them, or the same one several times: a list of another length would be memory.
        let order = self.orders.wants_to_read(&self.held, self.children.state()).unwrap_or(signals);
        let mut descriptors = [readable(signals), readable(self.held.ready.as_fd()), readable(order)];
        // Interrupted or not, everything is looked at afterwards.
        let _ = poll(&mut descriptors, timeout);
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            // An ended child is noticed by looking.
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                let ended = self.roles.end.start(&self.held.program);
                say_unless(ended.is_ok(), "cannot start the process that unmounts");
            }
        }
    }

    /// Workers say so by their number on the board and a byte that wakes us; so they do when a process has read much.
    fn take_ready(&mut self) {
        let mut bytes = [0; 64];
        while rustix::io::read(&self.held.ready, &mut bytes).is_ok_and(|length| length == bytes.len()) {}
        self.children.note_ready(&self.held.board);
        self.give_way();
        if let Some(processes) = &self.processes {
            self.held.board.name_readers(processes);
        }
    }

    /// Lets the worker that is ready begin, if nobody is in its way.
    fn give_way(&mut self) {
        if let Some(pid) = self.children.may_begin() {
            self.held.board.set_go(pid.as_raw().cast_unsigned());
            let told = rustix::io::write(&self.held.go, b"g");
            say_unless(told.is_ok(), "cannot tell a worker to begin");
        }
    }
}

/// One line to whoever reads standard error, without allocating.
fn say_unless(fine: bool, text: &str) {
    if !fine {
        say(text);
    }
}

fn say(text: &str) {
    let (line, length) = line("<4>sapwood: ", text);
    // There is no other place to say it.
    let _ = rustix::io::write(rustix::stdio::stderr(), &line[..length]);
}

/// The same in the kernel's log too, as far as this user may, and so on the console: the mount may be what the machine runs from.
fn say_to_everybody(text: &str) {
    say(text);
    let (line, length) = line("<2>sapwood: ", text);
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
    if let Ok(log) = rustix::fs::open(c"/dev/kmsg", flags, rustix::fs::Mode::empty()) {
        let _ = rustix::io::write(log, &line[..length]);
    }
}

fn line(prefix: &str, text: &str) -> ([u8; 160], usize) {
    let mut line = [0; 160];
    let mut length = 0;
    for byte in [prefix, text, "\n"].iter().flat_map(|part| part.bytes()).take(line.len()) {
        line[length] = byte;
        length += 1;
    }
    (line, length)
}
