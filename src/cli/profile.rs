//! The verb `sapwood profile`, which records, shows and merges profiles: lists of what a boot or a program reads first.
//!
//! *Not here*: recording by the mount itself (`-o profile-record`), see `record`; the format, see `remote::format`.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal};

use super::trust_args::TrustArgs;
use super::{output, prefetch, repository};
use crate::cache::LazyOptions;
use crate::cli::context::{Context, Run};
use crate::disk;
use crate::mount::{ControlRequest, ControlResponse, RunningMount, make_runtime_directory, registry};
use crate::remote::format::ProfileText;
use crate::source::RemoteSource;

/// Record, show and join profiles: what a boot or a program reads first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood profile record debian:12/server -o python.profile --chroot -- \\
    python3 -c 'import ssl'
  sapwood publish --profile python.profile file:///srv/www/os debian/12
  sapwood mount debian:12/server /mnt
      now fetches that in a few requests as soon as a file is read

A boot is recorded by the mount itself: mount -o profile-record=/run/boot.profile …")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Record(RecordArgs),
    Show(ShowArgs),
    Merge(MergeArgs),
}

/// Write down which parts of which files are read, in the order of the first time
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood profile record /mnt -o app.profile -- /mnt/usr/bin/app
      of a running mount, while a command runs
  sapwood profile record /mnt -o app.profile --seconds 60
      or for a time, or until Ctrl-C
  sapwood profile record debian/12 --chroot -- /usr/bin/python3
      in a mount of its own, which ends with it

The cache of the mount is emptied first: what the kernel has it reads without asking. The command finds \
the mount in $SAPWOOD_MOUNT. A mount with 'passthrough' cannot be recorded. The exit status is the \
command's.")]
struct RecordArgs {
    /// A mountpoint, or a commit to mount for this: a local one, REMOTE:REF or URL#REF
    #[arg(value_name = "MOUNTPOINT|SOURCE")]
    target: String,
    /// Where to write the profile, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Run the command inside the mount, as its root directory
    #[arg(long, requires = "command")]
    chroot: bool,
    /// End after this many seconds
    #[arg(long, value_name = "N", conflicts_with = "command")]
    seconds: Option<u64>,
    #[command(flatten)]
    trust: TrustArgs,
    /// The command to run while recording
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Print a profile: a file's, or the one published with a commit
#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// A file, or REMOTE:REF or URL#REF
    #[arg(value_name = "FILE|SOURCE")]
    source: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Join profiles: what the first lists, then what only the others list
#[derive(Debug, clap::Args)]
struct MergeArgs {
    /// The profiles
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Where to write the result, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        match &self.action {
            Action::Record(args) => record(args, context),
            Action::Show(args) => show(args, context),
            Action::Merge(args) => merge(args),
        }
    }
}

fn record(args: &RecordArgs, context: &Context) -> Result<ExitCode> {
    if let Some(mount) = prefetch::find_running_mount(Path::new(&args.target))? {
        return record_mount(args, &mount);
    }
    let own = RecordingMount::make(args, context)?;
    let mount = prefetch::find_running_mount(&own.directory)?;
    let done = match mount {
        Some(mount) => record_mount(args, &mount),
        None => bail!("the mount for recording is not on the list of mounts"),
    };
    own.unmount()?;
    done
}

fn record_mount(args: &RecordArgs, mount: &RunningMount) -> Result<ExitCode> {
    let registry = registry();
    // Signals are blocked before any thread exists, so that only the thread that waits for them receives them.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block().context("cannot wait for signals")?;
    match registry.request(mount, ControlRequest::StartRecording)? {
        ControlResponse::Refused(why) => bail!("{}: {why}", mount.mountpoint),
        _ => output::note(format_args!("{}: its cache is empty now; recording", mount.mountpoint)),
    }
    let status = if args.command.is_empty() {
        wait_for_end(args.seconds, signals).map(|()| None)
    } else {
        run_command(args, mount)
    };
    let profile = match registry.request(mount, ControlRequest::StopRecording)? {
        ControlResponse::Profile(text) => ProfileText::parse(&text)?,
        ControlResponse::Refused(why) => bail!("{}: {why}", mount.mountpoint),
        _ => bail!("{}: the mount gave no profile", mount.mountpoint),
    };
    let status = status?;
    write_profile(args.output.as_deref(), &profile)?;
    output::note(describe_profile(&profile));
    Ok(match status {
        Some(status) if !status.success() => {
            output::note(format_args!("the command ended with {status}"));
            ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
        }
        _ => ExitCode::SUCCESS,
    })
}

fn run_command(args: &RecordArgs, mount: &RunningMount) -> Result<Option<ExitStatus>> {
    let mut words = args.command.iter();
    let mut command = if args.chroot {
        let mut command = Command::new("chroot");
        command.arg(&mount.mountpoint).args(words);
        command
    } else {
        let mut command = Command::new(words.next().map_or_else(Default::default, OsString::clone));
        command.args(words);
        command
    };
    command.env("SAPWOOD_MOUNT", &mount.mountpoint);
    command.status().map(Some).with_context(|| format!("cannot run {}", args.command[0].display()))
}

/// Waits for the given time to pass, or for a signal.
fn wait_for_end(seconds: Option<u64>, signals: SigSet) -> Result<()> {
    if seconds.is_none() {
        output::note("Ctrl-C ends it");
    }
    let (sender, receiver) = channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        // Sending fails if the time has passed, because the receiver is gone then.
        let _ = sender.send(signals.wait());
    })?;
    match seconds {
        Some(seconds) => _ = receiver.recv_timeout(Duration::from_secs(seconds)),
        None => _ = receiver.recv(),
    }
    Ok(())
}

/// A mount that is made for one recording, in a directory that only this user can enter.
struct RecordingMount {
    directory: PathBuf,
}

impl RecordingMount {
    fn make(args: &RecordArgs, context: &Context) -> Result<Self> {
        let runtime = make_runtime_directory().context("cannot use the directory for runtime files")?;
        let directory = runtime.join(format!("record-{}", std::process::id()));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.with_context(|| format!("cannot make {}", directory.display()))?;
        let own = Self { directory };
        let mut command = own.command(context);
        let flags = if nix::unistd::geteuid().is_root() { "suid,dev,profile=none" } else { "profile=none" };
        command.args(["mount", "-o", flags]).args(args.trust.to_arguments());
        command.arg("--").arg(&args.target).arg(&own.directory);
        let status = command.status().context("cannot start a mount for recording")?;
        if status.success() {
            return Ok(own);
        }
        own.remove_directory();
        bail!("'{}' is neither a mount of Sapwood nor can it be mounted", args.target)
    }

    fn command(&self, context: &Context) -> Command {
        let mut command = Command::new("/proc/self/exe");
        if let Some(repo) = &context.repo {
            command.arg("--repo").arg(repo);
        }
        command.stdin(Stdio::null());
        command
    }

    fn unmount(self) -> Result<()> {
        let context = Context { repo: None };
        let status = self.command(&context).arg("umount").arg("--lazy").arg(&self.directory).status()?;
        self.remove_directory();
        if status.success() { Ok(()) } else { bail!("{} cannot be unmounted", self.directory.display()) }
    }

    fn remove_directory(&self) {
        if let Err(error) = std::fs::remove_dir(&self.directory) {
            tracing::debug!("{}: {error}", self.directory.display());
        }
    }
}

fn show(args: &ShowArgs, context: &Context) -> Result<ExitCode> {
    let path = Path::new(&args.source);
    let profile = if path.is_file() { ProfileText::read(path)? } else { read_published(args, context)? };
    if args.json {
        let line = |line: &crate::remote::format::ProfileLine| serde_json::json!({ "path": line.path.to_string(), "first": line.first, "blocks": line.blocks });
        output::json(&profile.lines.iter().map(line).collect::<Vec<_>>())?;
    } else {
        output::bytes(&profile.render())?;
        output::note(describe_profile(&profile));
    }
    Ok(ExitCode::SUCCESS)
}

fn read_published(args: &ShowArgs, context: &Context) -> Result<ProfileText> {
    let Some(remote) = RemoteSource::parse(&args.source)? else {
        bail!("{} is neither a file nor REMOTE:REF nor URL#REF", args.source)
    };
    let (store, resolved) = repository::resolve_remote(&remote, &args.trust, context)?;
    let tree = resolved.open(&store, LazyOptions::default())?;
    match tree.published_profile()? {
        Some(profile) => Ok(profile),
        None => bail!("commit {} was published without a profile", resolved.id().short()),
    }
}

fn merge(args: &MergeArgs) -> Result<ExitCode> {
    let profiles = args.files.iter().map(|file| ProfileText::read(file)).collect::<Result<Vec<_>, _>>()?;
    let merged = ProfileText::merge(&profiles);
    write_profile(args.output.as_deref(), &merged)?;
    output::note(describe_profile(&merged));
    Ok(ExitCode::SUCCESS)
}

fn write_profile(output: Option<&Path>, profile: &ProfileText) -> Result<()> {
    match output {
        Some(path) => {
            let path = std::path::absolute(path)?;
            disk::replace(&path, &profile.render()).with_context(|| format!("cannot write {}", path.display()))
        }
        None => Ok(output::bytes(&profile.render())?),
    }
}

fn describe_profile(profile: &ProfileText) -> String {
    let files: std::collections::BTreeSet<_> = profile.lines.iter().map(|line| line.path.to_bytes()).collect();
    format!("{} lines, {} files", output::count(profile.lines.len() as u64), output::count(files.len() as u64))
}
