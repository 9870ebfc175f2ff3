//! `sapwood mount`: shows a commit as a directory.
//!
//! The work is done by a process of its own in the background, which is this program started again: it mounts, says so in
//! one line on the pipe that is its standard output, and then closes that pipe, so that the command in front returns
//! when the mount answers and not before. It is called `@sapwood-mount` when it runs as root: the `@` asks systemd to
//! leave it alive at shutdown until the filesystem is not needed any more.

use std::env;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};

use crate::fuse::{
    Action, MountOptions, MountRequest, Registry, RunningMount, Session, StopSignals, path_text, remount_read_only, serve,
};
use crate::model::{Commit, CommitId, ImagePath};
use crate::store::Store;
use crate::vfs::{Vfs, Volume};

/// The word on the pipe that says that the mount answers.
const READY: &str = "ready";

/// What the process behind a mount is called.
const DAEMON_NAME: &str = "sapwood-mount";

/// Show a commit as a read-only directory
#[derive(Debug, Clone, clap::Args)]
pub struct MountArgs {
    /// Mount options, separated by commas: subdir=/DIR, allow_other, suid, dev, noexec, passthrough, threads=N,
    /// context=CONTEXT, repo=DIR
    #[arg(short = 'o', long = "options", value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Stay in the foreground and log to the terminal
    #[arg(long)]
    pub foreground: bool,
    /// A ref or commit id, also REF^ and REF~N; REF:/DIR shows only that directory of it
    pub source: String,
    /// An existing directory
    pub mountpoint: PathBuf,
    /// Set when this is the background process: the repository.
    #[arg(long, hide = true, value_name = "REPO")]
    pub daemon: Option<PathBuf>,
}

/// Where a repository is looked for when `-o repo=` does not name one.
pub type FindRepository<'a> = &'a dyn Fn() -> anyhow::Result<PathBuf>;

/// Mounts, in the background unless told otherwise.
///
/// # Errors
/// Everything that kept the mount from coming about, in one chain of words.
pub fn run(args: &MountArgs, find_repository: FindRepository<'_>) -> anyhow::Result<()> {
    let options = MountOptions::parse(&args.options.join(","))?;
    if options.action == Action::Remount {
        return remount(&args.mountpoint, &options);
    }
    if let Some(repository) = &args.daemon {
        return run_behind(args, options, repository);
    }
    let repository = match &options.repository {
        Some(named) => named.clone(),
        None => find_repository()?,
    };
    if args.foreground {
        log_to_terminal();
        return serve_mount(args, options, &repository, || ());
    }
    start_behind(args, &repository)
}

fn remount(mountpoint: &Path, options: &MountOptions) -> anyhow::Result<()> {
    let path = mountpoint.canonicalize().with_context(|| format!("cannot reach {}", mountpoint.display()))?;
    Ok(remount_read_only(&path, options)?)
}

/// Starts this program again and waits for its word.
fn start_behind(args: &MountArgs, repository: &Path) -> anyhow::Result<()> {
    // The new process lives in "/", so relative paths would mean something else there.
    let absolute = |path: &Path| path.canonicalize().with_context(|| format!("cannot reach {}", path.display()));
    let (repository, mountpoint) = (absolute(repository)?, absolute(&args.mountpoint)?);
    let mut command = Command::new("/proc/self/exe");
    command.arg0(daemon_name()).arg("mount").arg("--daemon").arg(repository);
    command.args((!args.options.is_empty()).then(|| format!("-o{}", args.options.join(","))));
    command.arg("--").arg(&args.source).arg(mountpoint);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start the process behind the mount")?;
    let mut pipe = child.stdout.take().context("the pipe was asked for above")?;
    let mut words = String::new();
    pipe.read_to_string(&mut words).context("cannot hear the process behind the mount")?;
    match words.trim_end() {
        READY => Ok(()),
        "" => bail!("the process behind the mount ended without a word: {}", child.wait()?),
        reason => Err(anyhow!(reason.to_owned())),
    }
}

fn daemon_name() -> OsString {
    let mark = if nix::unistd::geteuid().is_root() { "@" } else { "" };
    format!("{mark}{DAEMON_NAME}").into()
}

/// Whether the arguments of a process say that it was started by [`start_behind`]. The helpers for `mount(8)` ask this,
/// since it is they who are started again when they mount.
#[must_use]
pub fn is_daemon(arguments: &[OsString]) -> bool {
    arguments.first().and_then(|name| name.to_str()).is_some_and(|name| name.trim_start_matches('@') == DAEMON_NAME)
}

/// The life of the background process. What goes wrong before the mount answers is told through the pipe, in words.
fn run_behind(args: &MountArgs, options: MountOptions, repository: &Path) -> anyhow::Result<()> {
    log_in_background();
    let result = leave_session().and_then(|()| serve_mount(args, options, repository, || leave_terminal(READY)));
    if let Err(error) = &result {
        tracing::error!("{error:#}");
        // Who waits at the pipe prints it; without the terminal, this process does not print it a second time.
        leave_terminal(&format!("{error:#}"));
    }
    result
}

fn leave_session() -> anyhow::Result<()> {
    // A process that was started by itself under the same name may lead its session already.
    if let Err(errno) = nix::unistd::setsid() {
        tracing::debug!("setsid: {errno}");
    }
    nix::unistd::chdir("/").context("cannot go to /")?;
    if let Err(errno) = nix::sys::prctl::set_name(c"sapwood-mount") {
        tracing::debug!("set the process name: {errno}");
    }
    if nix::unistd::geteuid().is_root() {
        survive_memory_shortage();
    }
    Ok(())
}

/// Who kills the daemon of a mount kills everything that runs from it. Best effort: containers may forbid it.
fn survive_memory_shortage() {
    let path = "/proc/self/oom_score_adj";
    let set = OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(b"-1000"));
    if let Err(error) = set {
        tracing::debug!("{path}: {error}");
    }
}

/// Says the word and lets go of the pipe and the terminal. A failure is nobody's to hear but the log's.
fn leave_terminal(word: &str) {
    let mut out = io::stdout();
    let told = writeln!(out, "{word}").and_then(|()| out.flush());
    let left = OpenOptions::new().write(true).open("/dev/null").and_then(|null| {
        nix::unistd::dup2_stderr(&null)?;
        Ok(nix::unistd::dup2_stdout(&null)?)
    });
    if let Err(error) = told.and(left) {
        tracing::error!("cannot report to the command in front: {error}");
    }
}

/// Opens, mounts, registers, serves until unmounted.
fn serve_mount(
    args: &MountArgs,
    options: MountOptions,
    repository: &Path,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    let (source, subdir) = split_source(&args.source, &options)?;
    let store = Store::open(repository)?;
    let id = store.resolve(source)?;
    // Held until the end, so that no collection takes the objects away.
    let _root = store
        .register_mount(id)
        .inspect_err(|error| tracing::warn!("gc in this repository will not see the mount: {error}"))
        .ok();
    let commit = store.commit(id)?;
    let vfs = filesystem(&store, &commit, &subdir)?;
    let mode = options.mode;
    let request = MountRequest { source: args.source.clone(), mountpoint: args.mountpoint.clone(), options };
    let stop = StopSignals::block()?;
    let session = Session::mount(Arc::new(vfs), &request)?;
    let entry = RunningMount {
        mountpoint: path_text(session.unmounter().mountpoint()),
        source: args.source.clone(),
        repo: path_text(store.path()),
        commit: id,
        mode,
        pid: std::process::id(),
        worker_pid: std::process::id(),
        since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        device: session.unmounter().device().to_owned(),
    };
    announce(&entry, id);
    let registration = registry().register(entry, Arc::clone(session.counters()));
    // A mount that is on no list is still a mount: /run may be read-only.
    let registration =
        registration.inspect_err(|error| tracing::warn!("'sapwood mounts' will not show this mount: {error}")).ok();
    let unmounter = session.unmounter().clone();
    serve(session, stop, registration, ready)?;
    tracing::info!("{} unmounted", unmounter.mountpoint().display());
    Ok(())
}

fn announce(entry: &RunningMount, id: CommitId) {
    tracing::info!("{} ({}) mounted on {}, {}", entry.source, id.short(), entry.mountpoint, entry.mode.word());
}

fn filesystem(store: &Store, commit: &Commit, subdir: &ImagePath) -> anyhow::Result<Vfs> {
    let image = store.image(commit.image)?;
    let held = store.directory().try_clone().context("cannot keep the repository open")?;
    let volume = Volume { content_bytes: commit.content_bytes, store: Some(held) };
    Ok(Vfs::new(image, Arc::new(store.clone()), subdir, volume)?)
}

/// `main:/usr` is `main` with `subdir=/usr`.
fn split_source<'a>(source: &'a str, options: &MountOptions) -> anyhow::Result<(&'a str, ImagePath)> {
    let Some((commit, path)) = source.split_once(":/") else { return Ok((source, options.subdir.clone())) };
    if !options.subdir.is_root() {
        bail!("'{source}' and the mount option 'subdir' both name a directory: give one of them");
    }
    Ok((commit, ImagePath::parse(path.as_bytes())?))
}

/// The list of mounts of this user.
pub(super) fn registry() -> Registry {
    Registry::new(runtime_directory().join("mounts"))
}

/// `/run/sapwood` for root; for others below what the session gives them, else a directory of their own in `/tmp`.
fn runtime_directory() -> PathBuf {
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return PathBuf::from("/run/sapwood");
    }
    match env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()) {
        Some(directory) => PathBuf::from(directory).join("sapwood"),
        None => env::temp_dir().join(format!("sapwood-{user}")),
    }
}

fn log_to_terminal() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Whoever calls this as a library may log somewhere already; that is left alone.
    let _already = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).try_init();
}

/// To the journal where there is one, else to a file beside the list of mounts.
fn log_in_background() {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let level = tracing_subscriber::filter::LevelFilter::INFO;
    if let Ok(journal) = tracing_journald::layer() {
        let journal = journal.with_syslog_identifier(DAEMON_NAME.to_owned());
        let _already = tracing_subscriber::registry().with(level).with(journal).try_init();
        return;
    }
    if let Ok(file) = log_file() {
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Arc::new(file));
        let _already = tracing_subscriber::registry().with(level).with(lines).try_init();
    }
}

fn log_file() -> io::Result<File> {
    let directory = runtime_directory();
    std::fs::create_dir_all(&directory)?;
    OpenOptions::new().create(true).append(true).open(directory.join("mount.log"))
}
