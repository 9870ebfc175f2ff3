//! `sapwood mount`: shows a commit as a directory.
//!
//! The work is done by a process of its own in the background, which is this program started again: it mounts, says so by
//! a word on the pipe that is its standard output, and closes that pipe, so that the command in front returns when the
//! mount answers and not before. What goes wrong until then the process says on the terminal itself.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use super::{Context, output, repository, source};
use crate::fuse::{
    Action, MountOptions, MountRequest, Registry, RunningMount, Session, StopSignals, path_text, remount_read_only,
    serve,
};
use crate::model::{Commit, CommitId, ImagePath};
use crate::store::Store;
use crate::vfs::{Vfs, Volume};

/// The word on the pipe that says that the mount answers.
const READY: &[u8] = b"ready\n";

/// What the process behind a mount is called. As root an `@` comes before it, which asks systemd to leave the process
/// alone at shutdown until nothing is needed from its filesystem any more.
pub const DAEMON_NAME: &str = "sapwood-mount";

/// Show a commit as a read-only directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood mount debian/12 /mnt
  sapwood mount debian/12^:/usr /mnt              the /usr of the commit before
  sapwood mount -o allow_other,suid debian/12 /mnt

Options: subdir=/DIR, allow_other, suid, dev, noexec (nosuid and nodev unless asked), passthrough (the kernel
reads large files itself; root, Linux 6.9), threads=N, context=CONTEXT, repo=DIR.")]
pub struct Args {
    /// Mount options, separated by commas
    #[arg(short = 'o', long = "options", value_name = "OPTIONS")]
    options: Vec<String>,
    /// Stay in the foreground, log to the terminal, unmount on Ctrl-C
    #[arg(long)]
    foreground: bool,
    /// What to mount; SOURCE:/DIR shows only that directory of it
    source: String,
    /// An existing directory
    mountpoint: PathBuf,
    /// Set when this is the process in the background
    #[arg(long, hide = true)]
    daemon: bool,
}

impl Args {
    /// Whether this is the process in the background, whose log is not the terminal.
    pub const fn is_daemon(&self) -> bool {
        self.daemon
    }
}

/// Runs the verb.
///
/// # Errors
/// Whatever kept the mount from coming about.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let options = MountOptions::parse(&args.options.join(","))?;
    if options.action == Action::Remount {
        let path = absolute(&args.mountpoint)?;
        remount_read_only(&path, &options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let repository = match &options.repository {
        Some(named) => named.clone(),
        None => repository::path(context)?,
    };
    if args.daemon {
        leave_session()?;
        return serve_mount(args, options, &repository, leave_terminal);
    }
    if args.foreground {
        return serve_mount(args, options, &repository, || output::note("mounted; Ctrl-C unmounts"));
    }
    start_daemon(args, &repository)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot reach {}", path.display()))
}

/// Starts this program again and waits for its word.
fn start_daemon(args: &Args, repository: &Path) -> Result<ExitCode> {
    // The new process lives in "/", where relative paths would mean something else. One that does not exist is for the
    // new process to complain about.
    let repository = repository.canonicalize().unwrap_or_else(|_| repository.to_owned());
    let mark = if nix::unistd::geteuid().is_root() { "@" } else { "" };
    let mut command = Command::new("/proc/self/exe");
    command.arg0(format!("{mark}{DAEMON_NAME}")).arg("--repo").arg(&repository).args(["mount", "--daemon"]);
    command.args(args.options.iter().flat_map(|options| ["-o".to_owned(), without_repository(options)]));
    command.arg("--").arg(&args.source).arg(absolute(&args.mountpoint)?);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start the process behind the mount")?;
    let mut word = Vec::new();
    if let Some(pipe) = &mut child.stdout {
        pipe.read_to_end(&mut word).context("cannot hear the process behind the mount")?;
    }
    if word == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().context("cannot wait for the process behind the mount")?;
    match status.code() {
        // It has said why.
        Some(code) if code != 0 => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        _ => bail!("the process behind the mount ended without a word: {status}"),
    }
}

/// The options without `repo=`, whose place `--repo` takes with an absolute path. Something is left in any case.
fn without_repository(options: &str) -> String {
    let others = options.split(',').filter(|option| !option.starts_with("repo="));
    ["ro"].into_iter().chain(others).collect::<Vec<_>>().join(",")
}

fn leave_session() -> Result<()> {
    // A process that leads its session already, as one started by a service manager, cannot start another.
    if let Err(errno) = nix::unistd::setsid() {
        tracing::debug!("setsid: {errno}");
    }
    nix::unistd::chdir("/").context("cannot go to /")?;
    if let Err(errno) = nix::sys::prctl::set_name(c"sapwood-mount") {
        tracing::debug!("set the name of the process: {errno}");
    }
    Ok(())
}

/// Says the word and lets go of the pipe and the terminal. A failure is the log's to tell: the mount itself works.
fn leave_terminal() {
    let mut out = io::stdout();
    let told = out.write_all(READY).and_then(|()| out.flush());
    let left = OpenOptions::new().write(true).open("/dev/null").and_then(|null| {
        nix::unistd::dup2_stderr(&null)?;
        Ok(nix::unistd::dup2_stdout(&null)?)
    });
    if let Err(error) = told.and(left) {
        tracing::error!("cannot report to the command in front: {error}");
    }
}

/// Opens, mounts, enters into the list, serves until unmounted.
fn serve_mount(args: &Args, options: MountOptions, repository: &Path, ready: impl FnOnce()) -> Result<ExitCode> {
    let (spec, subdir) = split_source(&args.source, &options)?;
    let store = Store::open(repository)?;
    let id = store.resolve(spec)?;
    // Held until the end, so that no collection takes the objects away.
    let _root = store.register_mount(id).inspect_err(|error| not_rooted(error)).ok();
    let vfs = filesystem(&store, &store.commit(id)?, &subdir)?;
    let request = MountRequest { source: args.source.clone(), mountpoint: args.mountpoint.clone(), options };
    let stop = StopSignals::block()?;
    let session = Session::mount(Arc::new(vfs), &request)?;
    let entry = entry(&session, &request, &store, id);
    tracing::info!("{} ({}) mounted on {}", entry.source, id.short(), entry.mountpoint);
    // A mount that is on no list is still a mount: /run may be read-only.
    let registration = registry().register(entry, Arc::clone(session.counters()));
    let registration =
        registration.inspect_err(|error| tracing::warn!("'sapwood mounts' will not show this mount: {error}")).ok();
    survive_memory_shortage();
    serve(session, stop, registration, ready)?;
    tracing::info!("{} unmounted", args.mountpoint.display());
    Ok(ExitCode::SUCCESS)
}

fn not_rooted(error: &dyn std::fmt::Display) {
    tracing::warn!("'sapwood gc' will not see this mount: {error}");
}

fn entry(session: &Session, request: &MountRequest, store: &Store, commit: CommitId) -> RunningMount {
    RunningMount {
        mountpoint: path_text(session.unmounter().mountpoint()),
        source: request.source.clone(),
        repo: path_text(store.path()),
        commit,
        mode: request.options.mode,
        pid: std::process::id(),
        worker_pid: std::process::id(),
        since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        device: session.unmounter().device().to_owned(),
    }
}

fn filesystem(store: &Store, commit: &Commit, subdir: &ImagePath) -> Result<Vfs> {
    let image = store.image(commit.image)?;
    let directory = store.directory().try_clone().context("cannot keep the repository open")?;
    let volume = Volume { content_bytes: commit.content_bytes, store: Some(directory) };
    Ok(Vfs::new(image, Arc::new(store.clone()), subdir, volume)?)
}

/// `main:/usr` is `main` with `subdir=/usr`.
fn split_source<'a>(source: &'a str, options: &MountOptions) -> Result<(&'a str, ImagePath)> {
    let (spec, path) = source::split(source)?;
    match (path.is_root(), options.subdir.is_root()) {
        (true, _) => Ok((spec, options.subdir.clone())),
        (false, true) => Ok((spec, path)),
        (false, false) => bail!("'{source}' and the mount option 'subdir' both name a directory: give one of them"),
    }
}

/// Who kills the process behind a mount kills everything that runs from it. Best effort: containers may forbid it.
fn survive_memory_shortage() {
    let path = "/proc/self/oom_score_adj";
    let set = OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(b"-1000"));
    if let Err(error) = set {
        tracing::debug!("{path}: {error}");
    }
}

/// The list of mounts of this user.
pub fn registry() -> Registry {
    Registry::new(runtime_directory().join("mounts"))
}

/// `/run/sapwood` for root; for others below what their session gives them, else a directory of their own in `/tmp`.
fn runtime_directory() -> PathBuf {
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return PathBuf::from("/run/sapwood");
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|directory: &OsString| !directory.is_empty()) {
        Some(directory) => PathBuf::from(directory).join("sapwood"),
        None => std::env::temp_dir().join(format!("sapwood-{user}")),
    }
}

/// The log of the process in the background: the journal where there is one, else a file beside the list of mounts.
pub fn start_daemon_log() {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let level = tracing_subscriber::filter::LevelFilter::INFO;
    let result = match tracing_journald::layer() {
        Ok(journal) => {
            let journal = journal.with_syslog_identifier(DAEMON_NAME.to_owned());
            tracing_subscriber::registry().with(level).with(journal).try_init()
        }
        Err(_) => match log_file() {
            Ok(file) => {
                let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Arc::new(file));
                tracing_subscriber::registry().with(level).with(lines).try_init()
            }
            Err(error) => return output::note(format_args!("sapwood: there will be no log: {error}")),
        },
    };
    if let Err(error) = result {
        output::note(format_args!("sapwood: there will be no log: {error}"));
    }
}

fn log_file() -> io::Result<File> {
    let directory = runtime_directory();
    std::fs::create_dir_all(&directory)?;
    OpenOptions::new().create(true).append(true).open(directory.join("mount.log"))
}
