//! What the processes do that are not in front of the user: hold, serve, unmount, mount anew.
//!
//! They are this program, called by another name and with one argument: the number of the descriptor that describes the
//! mount. The one that holds takes no detour through the rest of the command line, so that it stays small.

use std::ffi::{CString, OsString};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::mman::{MlockAllFlags, mlockall};
use parking_lot::Mutex;

use super::confine;
use super::found::{Found, Shown, fill};
use super::handoff::{Handoff, VERSION, copy, take};
use super::{DAEMON_NAME, READY, daemon_name, log};
use crate::cache::LazyTree;
use crate::cli::record::RecordingFile;
use crate::cli::{error, output};
use crate::fuse::{
    Beginning, Board, Content, Ended, Held, Limits, MetricsOutput, MountOptions, MountRequest, ReadAhead, Registration,
    Roles, RunningMount, Service, Session, Supervisor, Told, Turn, Unmounter, WorkerSignals, end, mount_anew, serve,
};
use crate::model::CommitId;
use crate::store::MountRoot;

/// Who kills the supervisor kills everything that runs from the mount.
const NEVER: i32 = -1000;

/// A worker is killed last of all, but before the machine stands still: another takes its place.
const LAST: i32 = -999;

/// How long an attempt to fetch something may take at most where nobody waits longer.
const ATTEMPT: Duration = Duration::from_secs(30);

/// What a process behind a mount is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Holds what must not be lost.
    Supervisor,
    /// The same, in the place of another version of itself.
    Successor,
    /// Answers the kernel.
    Worker,
    /// The same where workers did not come to serve, to see whether one does now; it ends without a word if not.
    Probe,
    /// Unmounts.
    End,
    /// Mounts anew where the connection was lost.
    Remount,
}

impl Role {
    const ALL: [Self; 6] = [Self::Supervisor, Self::Successor, Self::Worker, Self::Probe, Self::End, Self::Remount];

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Successor => "successor",
            Self::Worker => "worker",
            Self::Probe => "probe",
            Self::End => "end",
            Self::Remount => "remount",
        }
    }

    /// The role that the arguments of a process give it, and the number behind it; none for a command of a user.
    pub fn of(arguments: &[OsString]) -> Option<(Self, &str)> {
        let [name, word, number, ..] = arguments else { return None };
        let is_ours = name.to_str()?.trim_start_matches('@') == DAEMON_NAME;
        let role = Self::ALL.into_iter().find(|role| word.to_str() == Some(role.word()))?;
        Some((role, number.to_str()?)).filter(|_| is_ours)
    }

    /// Plays it to its end.
    pub fn play(self, number: &str) -> ExitCode {
        let played = match self {
            Self::Supervisor => supervise(number, Beginning::New),
            Self::Successor => supervise(number, Beginning::Succession),
            Self::Worker => work(number, Worker::Needed),
            Self::Probe => work(number, Worker::Probed),
            Self::End => unmount(number),
            Self::Remount => remount(number),
        };
        match played {
            Ok(code) => code,
            // It failed as the workers before it did, which have said why.
            Err(_) if self == Self::Probe => ExitCode::FAILURE,
            Err(failure) => error::report(&failure),
        }
    }
}

// ------------------------------------------------------------------------------------------------------- supervisor

fn supervise(number: &str, beginning: Beginning) -> Result<ExitCode> {
    let (handoff, _described) = Handoff::read(number)?;
    let is_foreground = handoff.log == log::LogKind::Terminal;
    if is_foreground {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM).context("cannot follow the terminal")?;
    } else {
        leave_session()?;
    }
    name_process();
    survive_memory_shortage(NEVER);
    let options = handoff.options()?;
    let numbers = handoff.descriptors;
    let keep = |number| crate::sys::inherited(number).context("what was handed on is not there");
    let held = Held {
        board: Board::open(keep(numbers.board)?).context("cannot understand the shared memory")?,
        device: keep(numbers.device)?,
        // It may be used up.
        spare: numbers.spare.and_then(|number| keep(number).ok()),
        connections: numbers.connections.map(keep).transpose()?,
        program: keep(numbers.program)?,
        ready: keep(numbers.ready.0)?,
        go: keep(numbers.go.1)?,
        orders: numbers.registry.map(|(_, _, _, orders)| keep(orders)).transpose()?,
        image: numbers.image.map(keep).transpose()?,
    };
    held.board.set_supervisor(std::process::id());
    let roles = Roles {
        worker: arguments(Role::Worker, number)?,
        probe: arguments(Role::Probe, number)?,
        end: arguments(Role::End, number)?,
        remount: arguments(Role::Remount, number)?,
        successor: arguments(Role::Successor, number)?,
    };
    let limits = Limits { hang: options.watchdog, patience: options.fetch_timeout.unwrap_or(ATTEMPT) };
    let log = keep(numbers.log)?;
    drop((handoff, options));
    let supervisor = Supervisor::new(held, roles, limits, beginning).context("cannot receive signals")?;
    let ended = supervisor.run(|| {
        if beginning == Beginning::New {
            say_ready();
        }
        if !is_foreground {
            leave_terminal(&log);
        }
        stay_in_memory();
    });
    Ok(match ended {
        Ended::Unmounted => ExitCode::SUCCESS,
        Ended::Failed(code) => ExitCode::from(code),
        Ended::Lost => ExitCode::FAILURE,
    })
}

fn arguments(role: Role, number: &str) -> Result<crate::sys::Arguments> {
    let texts = [daemon_name().as_str(), role.word(), number].map(CString::new).into_iter().collect::<Result<_, _>>();
    Ok(crate::sys::Arguments::new(texts.context("a zero in an argument")?))
}

fn leave_session() -> Result<()> {
    // A process that leads its session already, as one started by a service manager, cannot start another.
    if let Err(errno) = nix::unistd::setsid() {
        tracing::debug!("setsid: {errno}");
    }
    nix::unistd::chdir("/").context("cannot go to /")
}

fn name_process() {
    if let Err(errno) = nix::sys::prctl::set_name(c"sapwood-mount") {
        tracing::debug!("set the name of the process: {errno}");
    }
}

/// Best effort: containers may forbid it.
fn survive_memory_shortage(adjustment: i32) {
    let path = "/proc/self/oom_score_adj";
    // At once: the file takes each write for a number of its own.
    let text = adjustment.to_string();
    let set = OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    if let Err(error) = set {
        tracing::debug!("{path}: {error}");
    }
}

fn say_ready() {
    let mut out = io::stdout();
    // Whoever does not listen any more has no need of the word.
    let _ = out.write_all(READY).and_then(|()| out.flush());
}

/// Lets go of the pipe and the terminal: standard error is the log from now on.
fn leave_terminal(log: &OwnedFd) {
    // Nobody is there any more to be told that these failed. Standard input is nothing already.
    let _ = nix::unistd::dup2_stdout(rustix::stdio::stdin());
    let _ = nix::unistd::dup2_stderr(log);
}

/// The pages that were used so far, and those that will be: the program may lie on the filesystem that is served.
fn stay_in_memory() {
    let flags =
        MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    // Others than root may lock little memory; they do without.
    let _ = mlockall(flags);
}

// ----------------------------------------------------------------------------------------------------------- worker

/// Why a worker is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worker {
    /// There is none.
    Needed,
    /// The one that serves refuses everything.
    Probed,
}

fn work(number: &str, why: Worker) -> Result<ExitCode> {
    let (handoff, _) = Handoff::read(number)?;
    name_process();
    survive_memory_shortage(LAST);
    if why == Worker::Needed {
        start_log(&handoff)?;
    }
    die_of_panics();
    let numbers = handoff.descriptors;
    let board = Board::open(take(numbers.board)?).context("cannot understand the shared memory")?;
    let device = take(numbers.device)?;
    let turn = Turn { ready: take(numbers.ready.1)?, go: take(numbers.go.0)? };
    let log = take(numbers.log)?;
    let signals = WorkerSignals::block()?;
    drop_what_is_the_supervisors(&handoff)?;
    let repository = take(numbers.repository)?;
    rustix::process::fchdir(&repository).map_err(io::Error::from).context("cannot go to the repository")?;
    let options = handoff.options()?;
    let read_ahead = ReadAhead::open(&board.device());
    let service = if why == Worker::Probed { Service::Full } else { board.service() };
    let names = confine::enter(&handoff, &options, &repository, (&board, service))?;
    let Opened { commit, shown: Shown { vfs, tree }, root } = Opened::new(&handoff, &options, service)?;
    if why == Worker::Probed {
        start_log(&handoff)?;
    }
    let content = Content::of(&vfs);
    let wake = turn.ready.try_clone().context("there are no descriptors left")?;
    let begin = || Session::begin(Arc::new(vfs), &options, device, &board, Some(wake));
    let announce = |session: &Session| announce(&handoff, &board, commit, tree.as_ref(), session);
    // A new mount is there when it answers and is on the list, and what the kernel does not agree to is known before anybody
    // is told. Whoever takes a connection over has to wait until nobody else has it.
    let (session, registration, recorded) = if board.is_connected() {
        turn.await_it(&board)?;
        let session = begin()?;
        let recorded = record(&handoff, |directory, name| RecordingFile::resume(session.recording(), directory, name))?;
        let registration = announce(&session)?;
        (session, registration, recorded)
    } else {
        let session = begin()?;
        let recorded = record(&handoff, |directory, name| RecordingFile::start(session.recording(), directory, name))?;
        let registration = announce(&session)?;
        read_ahead.set(content);
        turn.await_it(&board)?;
        (session, registration, recorded)
    };
    say_how_it_came(&board, &handoff);
    if let Some(tree) = &tree
        && service == Service::Full
    {
        tree.fill(fill(&handoff, &options));
    }
    leave_terminal(&log);
    if let Some(names) = names {
        names.watch()?;
    }
    let recorded = Arc::new(Mutex::new(recorded));
    let last_words = {
        let (recorded, tree) = (Arc::clone(&recorded), tree.as_ref().map(Arc::downgrade));
        move || write_down(&recorded, tree.and_then(|tree| tree.upgrade()).as_deref())
    };
    serve(session, signals, &board, last_words)?;
    // Only now is there nothing left to serve.
    write_down(&recorded, tree.as_deref());
    tracing::info!("{} unmounted", handoff.mountpoint().display());
    registration.iter().for_each(Registration::end);
    drop(root);
    Ok(ExitCode::SUCCESS)
}

/// Begins to write down what is read, if that is wanted.
fn record(
    handoff: &Handoff,
    begin: impl FnOnce(OwnedFd, OsString) -> Result<RecordingFile>,
) -> Result<Option<RecordingFile>> {
    let Some((name, number)) = handoff.record.as_ref().zip(handoff.descriptors.record) else { return Ok(None) };
    begin(take(number)?, name.get()).map(Some)
}

/// Writes what is only in memory.
fn write_down(recorded: &Mutex<Option<RecordingFile>>, tree: Option<&LazyTree>) {
    drop(recorded.lock().take());
    if let Some(tree) = tree {
        tree.flush();
    }
}

/// What a worker serves.
struct Opened {
    commit: CommitId,
    shown: Shown,
    root: Option<MountRoot>,
}

impl Opened {
    fn new(handoff: &Handoff, options: &MountOptions, service: Service) -> Result<Self> {
        if service == Service::Refusing {
            // The supervisor still holds what protects the commit from being collected.
            return Ok(Self { commit: Found::commit_of(handoff)?, shown: Shown::refusing()?, root: None });
        }
        let found = Found::again(handoff, service)?;
        Ok(Self { commit: found.visit.id(), root: root(handoff, &found)?, shown: found.show(options)? })
    }
}

/// What protects the commit from being collected.
fn root(handoff: &Handoff, found: &Found) -> Result<Option<MountRoot>> {
    let Some((name, number)) = handoff.root.as_ref().zip(handoff.descriptors.root) else { return Ok(None) };
    Ok(Some(found.store.inherit_mount(take(number)?, &name.get())))
}

/// A thread that panics would leave the others to serve as if nothing had happened. The next worker is better.
fn die_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{panic}");
        end_at_once();
    }));
}

#[expect(clippy::disallowed_methods, reason = "nothing of this process is to run on; the next worker takes over")]
fn end_at_once() {
    std::process::abort();
}

/// The descriptors that only the supervisor uses.
fn drop_what_is_the_supervisors(handoff: &Handoff) -> Result<()> {
    let numbers = handoff.descriptors;
    let mut unused = vec![numbers.program, numbers.ready.0, numbers.go.1];
    unused.extend(numbers.connections);
    unused.extend(numbers.image);
    // This one may be used up.
    drop(numbers.spare.map(take));
    unused.extend(numbers.registry.map(|(_, _, _, orders)| orders));
    unused.into_iter().try_for_each(|number| take(number).map(drop))
}

fn say_how_it_came(board: &Board, handoff: &Handoff) {
    let health = board.health();
    match health.last_death {
        None => tracing::info!("{} mounted on {}", handoff.source, handoff.mountpoint().display()),
        Some(death) => tracing::warn!(
            "worker {} {death}; process {} goes on in its place ({} such ends so far, {} of them crashes)",
            board.last_dead(),
            std::process::id(),
            health.deaths,
            health.crashes
        ),
    }
    if health.service == Service::CachedOnly {
        tracing::error!(
            "workers crash again and again ({} times so far): only what is here is served, nothing is fetched",
            health.crashes
        );
    }
    if health.service == Service::Refusing {
        tracing::error!(
            "{}: no worker comes to serve (the messages before say why): each access is an I/O error; one is tried again at \
             least once a minute",
            handoff.mountpoint().display()
        );
    }
}

fn announce(
    handoff: &Handoff,
    board: &Board,
    commit: CommitId,
    tree: Option<&Arc<LazyTree>>,
    session: &Session,
) -> Result<Option<Registration>> {
    let lazy = tree.map_or_else(Weak::new, Arc::downgrade);
    let told = Told { board: board.clone(), lazy, recording: Some(session.recording().clone()) };
    let mount = RunningMount {
        name: handoff.name.clone().unwrap_or_default(),
        mountpoint: crate::fuse::path_text(&handoff.mountpoint()),
        source: handoff.source.clone(),
        repo: handoff.repository.clone(),
        commit,
        mode: handoff.options()?.mode,
        pid: board.supervisor(),
        worker_pid: std::process::id(),
        since: handoff.since.clone(),
        device: board.device(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        handoff: VERSION,
    };
    match metrics(handoff)?.start(mount.clone(), told.clone()) {
        Ok(()) => {}
        // Whoever mounts hears of it; but no mount ends because its figures have no place any more.
        Err(error) if board.health().starts <= 1 => return Err(error).context("cannot tell figures"),
        Err(error) => tracing::warn!("figures are not told any more: {error}"),
    }
    let (Some(_), Some((directory, _, figures, _))) = (&handoff.name, handoff.descriptors.registry) else {
        return Ok(None);
    };
    let announced = Registration::announce(take(directory)?, take(figures)?, &mount, told);
    Ok(announced.inspect_err(|error| tracing::warn!("'sapwood mounts' will not show this worker: {error}")).ok())
}

/// Where figures go.
fn metrics(handoff: &Handoff) -> Result<MetricsOutput> {
    let numbers = handoff.descriptors;
    let file = handoff.metrics_file.as_ref().zip(numbers.metrics_file);
    Ok(MetricsOutput {
        file: file.map(|(name, number)| Ok::<_, anyhow::Error>((take(number)?, name.get()))).transpose()?,
        listener: numbers.metrics_listen.map(take).transpose()?.map(Into::into),
    })
}

// ----------------------------------------------------------------------------------------------------------- others

fn unmounter(handoff: &Handoff) -> Result<Unmounter> {
    let board = Board::open(take(handoff.descriptors.board)?).context("cannot understand the shared memory")?;
    Ok(Unmounter::new(handoff.mountpoint(), board.device()))
}

fn start_log(handoff: &Handoff) -> Result<()> {
    if let Err(problem) = log::start(copy(handoff.descriptors.log)?, handoff.log) {
        output::note(format_args!("sapwood: there will be no log: {problem}"));
    }
    Ok(())
}

fn unmount(number: &str) -> Result<ExitCode> {
    let (handoff, _described) = Handoff::read(number)?;
    start_log(&handoff)?;
    let unmounter = unmounter(&handoff)?;
    match end(&unmounter) {
        Ok(()) => tracing::info!("{} unmounted, as a signal asked", unmounter.mountpoint().display()),
        Err(error) => tracing::error!("{error}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn remount(number: &str) -> Result<ExitCode> {
    let (handoff, _described) = Handoff::read(number)?;
    start_log(&handoff)?;
    let board = Board::open(take(handoff.descriptors.board)?).context("cannot understand the shared memory")?;
    let unmounter = Unmounter::new(handoff.mountpoint(), board.device());
    let device = take(handoff.descriptors.device)?;
    let request =
        MountRequest { source: handoff.source.clone(), mountpoint: handoff.mountpoint(), options: handoff.options()? };
    match mount_anew(&unmounter, &request, &device) {
        Ok(number) => {
            board.set_device(&number);
            tracing::error!(
                "a worker ended and this kernel cannot send again what it had in hand: {} was mounted anew; whatever was open is lost",
                request.mountpoint.display()
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => bail!(error),
    }
}
