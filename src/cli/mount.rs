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
use std::sync::{Arc, Weak};

use anyhow::{Context as _, Result, bail};

use super::record::RecordingFile;
use super::remote_source::{RemoteSource, TrustArgs};
use super::{Context, lazy, output, repository, source};
use crate::cache::{Fill, LazyTree, Rest, Visit};
use crate::fuse::{
    Action, MountOptions, MountRequest, Registry, RunningMount, Session, StopSignals, Told, path_text,
    remount_read_only, serve,
};
use crate::model::{CommitId, ImagePath};
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
  sapwood mount --key deb.pub https://host/repo#debian/12 /mnt    fetched as it is read

Options: subdir=/DIR, allow_other, suid, dev, noexec (nosuid and nodev unless asked), passthrough (the kernel
reads large files itself; root, Linux 6.9), threads=N, context=CONTEXT, repo=DIR; of what is fetched
as it is read: fetch-timeout=SECONDS (30: how long a reader waits before it gets an error), nowait,
cache-size=SIZE (keep no more than 512M, 2G … of it, what was used last), profile=auto|none|FILE (what
is fetched first: what the publisher recorded, as soon as some file is read, or with 'auto' at once),
background-fill (like --background-fill, for fstab);
profile-record=FILE writes down what is read, for 'sapwood publish --profile'.")]
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
    #[command(flatten)]
    trust: TrustArgs,
    /// What to mount, also REMOTE:REF or URL#REF; SOURCE:/DIR shows only that directory of it
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
    let remote = RemoteSource::parse(&args.source)?;
    let repository = match (&options.repository, &remote) {
        (Some(named), _) => named.clone(),
        (None, Some(remote)) => lazy::repository(remote, context)?,
        (None, None) => repository::path(context)?,
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
    for options in &args.options {
        command.arg("-o").arg(for_elsewhere(options)?);
    }
    command.args(args.background_fill.then_some("--background-fill")).args(args.trust.to_arguments());
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

/// The options for a process that lives elsewhere: files are named by absolute paths, and `--repo` takes the place of
/// `repo=`. Something is left in any case.
fn for_elsewhere(options: &str) -> Result<String> {
    let mut others = vec!["ro".to_owned()];
    for option in options.split(',').filter(|option| !option.starts_with("repo=")) {
        others.push(match option.split_once('=') {
            Some((name @ "profile", file)) if file != "auto" && file != "none" => absolute_option(name, file)?,
            Some((name @ "profile-record", file)) => absolute_option(name, file)?,
            _ => option.to_owned(),
        });
    }
    Ok(others.join(","))
}

fn absolute_option(name: &str, file: &str) -> Result<String> {
    let path = std::path::absolute(file).with_context(|| format!("mount option '{name}={file}'"))?;
    Ok(format!("{name}={}", path.display()))
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
    let found = find(args, &options, repository)?;
    let store = &found.store;
    // Held until the end, so that no collection takes the objects away.
    let _root = store.register_mount(found.visit.id()).inspect_err(|error| not_rooted(error)).ok();
    let tree = found.open(args, &options)?;
    let vfs = filesystem(&found, tree.as_ref())?;
    let request = MountRequest { source: args.source.clone(), mountpoint: args.mountpoint.clone(), options };
    let stop = StopSignals::block()?;
    let session = Session::mount(Arc::new(vfs), &request)?;
    let entry = entry(&session, &request, store, found.visit.id());
    tracing::info!("{} ({}) mounted on {}", entry.source, found.visit.id().short(), entry.mountpoint);
    // A mount that is on no list is still a mount: /run may be read-only.
    let told = Told {
        counters: Arc::clone(session.counters()),
        lazy: tree.as_ref().map_or_else(Weak::new, Arc::downgrade),
        recording: Some(session.recording().clone()),
    };
    let record = |path| RecordingFile::start(session.recording(), path);
    let recorded = request.options.profile_record.as_deref().map(record).transpose()?;
    let registration = registry().register(entry, told);
    let registration =
        registration.inspect_err(|error| tracing::warn!("'sapwood mounts' will not show this mount: {error}")).ok();
    survive_memory_shortage();
    serve(session, stop, registration, ready)?;
    drop(recorded);
    if let Some(tree) = tree {
        tree.flush();
    }
    tracing::info!("{} unmounted", args.mountpoint.display());
    Ok(ExitCode::SUCCESS)
}

/// What is mounted, and from where.
struct Found {
    store: Store,
    visit: Visit,
    subdir: ImagePath,
}

fn find(args: &Args, options: &MountOptions, repository: &Path) -> Result<Found> {
    let Some(remote) = RemoteSource::parse(&args.source)? else {
        let (spec, path) = source::split(&args.source)?;
        let subdir = subdirectory(args, options, path)?;
        let store = Store::open(repository)?;
        let visit = lazy::visit_local(&store, store.resolve(spec)?)?;
        return Ok(Found { store, visit, subdir });
    };
    let subdir = subdirectory(args, options, remote.path.clone())?;
    let store = lazy::open_or_make(repository)?;
    let visit = lazy::visit(&store, &remote, &args.trust)?;
    Ok(Found { store, visit, subdir })
}

impl Found {
    /// The commit as it is fetched; none when all of it is here.
    fn open(&self, args: &Args, options: &MountOptions) -> Result<Option<Arc<LazyTree>>> {
        if self.store.commit(self.visit.id()).is_ok() && !self.store.is_lazy(self.visit.id()) {
            return Ok(None);
        }
        let tree = lazy::open(&self.store, &self.visit, options)?;
        let rest = if args.background_fill { Rest::Everything } else { options.rest };
        tree.fill(Fill { profile: lazy::profile(&options.profile), rest });
        Ok(Some(tree))
    }
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

fn filesystem(found: &Found, tree: Option<&Arc<LazyTree>>) -> Result<Vfs> {
    let (store, commit) = (&found.store, found.visit.commit());
    let directory = store.directory().try_clone().context("cannot keep the repository open")?;
    let volume = Volume { content_bytes: commit.content_bytes, store: Some(directory) };
    match tree {
        None => Ok(Vfs::new(store.image(commit.image)?, Arc::new(store.clone()), &found.subdir, volume)?),
        Some(tree) => Ok(Vfs::lazy(tree.image().clone(), Arc::clone(tree), &found.subdir, volume)?),
    }
}

/// `main:/usr` is `main` with `subdir=/usr`.
fn subdirectory(args: &Args, options: &MountOptions, path: ImagePath) -> Result<ImagePath> {
    match (path.is_root(), options.subdir.is_root()) {
        (true, _) => Ok(options.subdir.clone()),
        (false, true) => Ok(path),
        (false, false) => {
            bail!("'{}' and the mount option 'subdir' both name a directory: give one of them", args.source)
        }
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
