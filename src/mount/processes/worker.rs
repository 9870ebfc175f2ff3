//! The worker's process: from the hand-over to a worker that serves.
//!
//! *Not here*: waiting, draining and ending (`mount::worker`); the protocol (`fuse`).
//!
//! *Used by* the subcommands `worker` and `probe`.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::setup::{abort_on_panic, detach_terminal, name_process, open_shared_state, set_oom_adjustment, start_log};
use crate::cache::{ContentWriter, LazyTree};
use crate::fuse::{ContentSource, KernelReadAhead, MountOptions, Service, Session, SharedState};
use crate::model::CommitId;
use crate::mount::broker;
use crate::mount::confine;
use crate::mount::control::ControlState;
use crate::mount::descriptors::{copy_fd, take_fd};
use crate::mount::error::{OrCannot as _, ProcessError};
use crate::mount::handoff::Handoff;
use crate::mount::metrics::MetricsOutput;
use crate::mount::recording_file::RecordingFile;
use crate::mount::registry::{Registration, RunningMount, path_text};
use crate::mount::source::{MountSource, OpenMount, fill_settings};
use crate::mount::worker::{StartGate, WorkerSignals, serve};

/// OOM score adjustment of a worker: killed only if nothing else is left, since another worker replaces it.
const WORKER_OOM_ADJUST: i32 = -999;

/// The reason why a worker is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartReason {
    /// No worker serves.
    Needed,
    /// The worker that serves refuses all accesses.
    Probe,
}

/// Serves the mount until it is unmounted, or until this worker is to be replaced.
pub(super) fn run(number: &str, reason: StartReason) -> Result<ExitCode, ProcessError> {
    let (handoff, handoff_file) = Handoff::read(number)?;
    name_process();
    set_oom_adjustment(WORKER_OOM_ADJUST);
    if reason == StartReason::Needed {
        start_log(&handoff)?;
    }
    abort_on_panic();
    let numbers = handoff.descriptors;
    let shared = open_shared_state(&handoff)?;
    let device = take_fd(numbers.device)?;
    let start_gate = StartGate { ready: take_fd(numbers.ready.1)?, go: take_fd(numbers.go.0)? };
    let signals = WorkerSignals::block()?;
    let repository = copy_fd(numbers.repository)?;
    rustix::process::fchdir(&repository).or_cannot("change to the directory of the repository")?;
    let options = handoff.options()?;
    let read_ahead = KernelReadAhead::open(&shared.device());
    let service = if reason == StartReason::Probe { Service::Full } else { shared.service() };
    let writer = broker::start(number, &handoff, &options, service)?;
    drop(handoff_file);
    let log = take_fd(numbers.log)?;
    close_supervisor_fds(&handoff)?;
    let resolver_watch = confine::enter(&handoff, &options, &repository, (&shared, service))?;
    let WorkerMount { commit, mount: OpenMount { vfs, tree } } = WorkerMount::new(&handoff, &options, service, writer)?;
    if reason == StartReason::Probe {
        start_log(&handoff)?;
    }
    let content = ContentSource::of(&vfs);
    let wake = start_gate.ready.try_clone().or_cannot("duplicate a descriptor")?;
    let start = || Session::start(Arc::new(vfs), &options, device, &shared, Some(wake));
    let announce = |session: &Session| announce(&handoff, &shared, commit, tree.as_ref(), session);
    // The first worker of a mount starts the session and announces the mount before it reports that it is ready, so that errors
    // of the handshake are known before. A later worker first waits until no other worker serves the connection.
    let (session, registration, recorded) = if shared.is_connected() {
        start_gate.wait(&shared)?;
        let session = start()?;
        let recorded =
            open_recording(&handoff, |directory, name| RecordingFile::resume(session.recording(), directory, name))?;
        let registration = announce(&session)?;
        (session, registration, recorded)
    } else {
        let session = start()?;
        let recorded =
            open_recording(&handoff, |directory, name| RecordingFile::start(session.recording(), directory, name))?;
        let registration = announce(&session)?;
        read_ahead.set(content);
        start_gate.wait(&shared)?;
        (session, registration, recorded)
    };
    log_start(&shared, &handoff);
    if let Some(tree) = &tree
        && service == Service::Full
    {
        tree.start_fill(fill_settings(&handoff, &options));
    }
    detach_terminal(&log);
    if let Some(resolver_watch) = resolver_watch {
        resolver_watch.start()?;
    }
    let recorded = Arc::new(Mutex::new(recorded));
    let on_drain = {
        let (recorded, tree) = (Arc::clone(&recorded), tree.as_ref().map(Arc::downgrade));
        move || flush_state(&recorded, tree.and_then(|tree| tree.upgrade()).as_deref())
    };
    serve(session, signals, &shared, on_drain)?;
    // The filesystem is unmounted.
    flush_state(&recorded, tree.as_deref());
    tracing::info!("{} unmounted", handoff.mountpoint().display());
    registration.iter().for_each(Registration::remove);
    Ok(ExitCode::SUCCESS)
}

/// Opens the file into which reads are recorded, if the options request it.
fn open_recording(
    handoff: &Handoff,
    start: impl FnOnce(OwnedFd, OsString) -> Result<RecordingFile, ProcessError>,
) -> Result<Option<RecordingFile>, ProcessError> {
    let Some((name, number)) = handoff.record.as_ref().zip(handoff.descriptors.record) else { return Ok(None) };
    start(take_fd(number)?, name.to_os_string()).map(Some)
}

/// Writes the recording and the cache's state that are only in memory.
fn flush_state(recorded: &Mutex<Option<RecordingFile>>, tree: Option<&LazyTree>) {
    drop(recorded.lock().take());
    if let Some(tree) = tree {
        tree.close();
    }
}

/// The mount that a worker serves.
struct WorkerMount {
    commit: CommitId,
    mount: OpenMount,
}

impl WorkerMount {
    fn new(
        handoff: &Handoff,
        options: &MountOptions,
        service: Service,
        writer: Option<Arc<dyn ContentWriter>>,
    ) -> Result<Self, ProcessError> {
        if service == Service::Refusing {
            // The supervisor still holds the file that protects the commit from garbage collection.
            return Ok(Self { commit: handoff.commit_and_image()?.0, mount: OpenMount::refusing()? });
        }
        let source = MountSource::reopen(handoff, service)?;
        Ok(Self { commit: source.resolved.id(), mount: source.open(options, writer)? })
    }
}

/// Closes the descriptors that only the supervisor uses.
fn close_supervisor_fds(handoff: &Handoff) -> io::Result<()> {
    let numbers = handoff.descriptors;
    let mut unused = vec![numbers.program, numbers.repository, numbers.ready.0, numbers.go.1];
    unused.extend(numbers.connections);
    unused.extend(numbers.image);
    // This one may have been used.
    drop(numbers.spare_device.map(take_fd));
    unused.extend(numbers.registry.map(|(_, _, _, exchange)| exchange));
    unused.into_iter().try_for_each(|number| take_fd(number).map(drop))
}

fn log_start(shared: &SharedState, handoff: &Handoff) {
    let health = shared.health();
    match health.last_death {
        None => tracing::info!("{} mounted on {}", handoff.source, handoff.mountpoint().display()),
        Some(death) => tracing::warn!(
            "worker {} {death}; process {} replaces it ({} workers have ended so far, {} of them by crashes)",
            shared.last_dead_pid(),
            std::process::id(),
            health.deaths,
            health.crashes
        ),
    }
    if health.service == Service::CachedOnly {
        tracing::error!(
            "workers crash again and again ({} times so far): only local content is served, nothing is fetched",
            health.crashes
        );
    }
    if health.service == Service::Refusing {
        tracing::error!(
            "{}: no worker comes to serve (see the errors above): each access is an I/O error; a worker is tried again at \
             least once a minute",
            handoff.mountpoint().display()
        );
    }
}

fn announce(
    handoff: &Handoff,
    shared: &SharedState,
    commit: CommitId,
    tree: Option<&Arc<LazyTree>>,
    session: &Session,
) -> Result<Option<Registration>, ProcessError> {
    let lazy = tree.map_or_else(Weak::new, Arc::downgrade);
    let state = ControlState { shared: shared.clone(), lazy, recording: Some(session.recording().clone()) };
    let mount = RunningMount {
        name: handoff.name.clone().unwrap_or_default(),
        mountpoint: path_text(&handoff.mountpoint()),
        source: handoff.source.clone(),
        repo: handoff.repository.clone(),
        commit,
        mode: handoff.options()?.mode,
        pid: shared.supervisor_pid(),
        worker_pid: std::process::id(),
        since: handoff.since.clone(),
        device: shared.device(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        handoff: handoff.version,
    };
    match metrics_output(handoff)?.start(mount.clone(), state.clone()) {
        Ok(()) => {}
        // An error prevents a new mount, but does not end a running one.
        Err(error) if shared.health().starts <= 1 => return Err(error).or_cannot("serve metrics"),
        Err(error) => tracing::warn!("metrics are no longer served: {error}"),
    }
    let (Some(_), Some((directory, _, control_socket, _))) = (&handoff.name, handoff.descriptors.registry) else {
        return Ok(None);
    };
    let announced = Registration::announce(take_fd(directory)?, take_fd(control_socket)?, &mount, state);
    Ok(announced.inspect_err(|error| tracing::warn!("'sapwood mounts' will not show this worker: {error}")).ok())
}

/// Returns the outputs of metrics.
fn metrics_output(handoff: &Handoff) -> io::Result<MetricsOutput> {
    let numbers = handoff.descriptors;
    let file = handoff.metrics_file.as_ref().zip(numbers.metrics_file);
    Ok(MetricsOutput {
        file: file.map(|(name, number)| Ok::<_, io::Error>((take_fd(number)?, name.to_os_string()))).transpose()?,
        listener: numbers.metrics_listen.map(take_fd).transpose()?.map(Into::into),
    })
}
