//! `sapwood profile`: what a boot or a program reads, recorded, shown, joined.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal};

use super::mount::{registry, runtime_directory};
use super::remote_source::{RemoteSource, TrustArgs};
use super::{Context, lazy, output, prefetch};
use crate::disk;
use crate::fuse::{Answer, MountOptions, Question, RunningMount};
use crate::remote::format::ProfileText;

/// Record, show and join profiles: what a boot or a program reads first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood profile record debian:12/server -o python.profile --chroot -- python3 -c 'import ssl'
  sapwood publish --profile python.profile file:///srv/www/os debian/12
  sapwood mount debian:12/server /mnt        now fetches that in a few requests as soon as a file is read

A boot is recorded by the mount itself: mount -o profile-record=/run/boot.profile …")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Record(Record),
    Show(Show),
    Merge(Merge),
}

/// Write down which parts of which files are read, in the order of the first time
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood profile record /mnt -o app.profile -- /mnt/usr/bin/app     of a running mount, while a command runs
  sapwood profile record /mnt -o app.profile --seconds 60            or for a time, or until Ctrl-C
  sapwood profile record debian/12 --chroot -- /usr/bin/python3      in a mount of its own, which ends with it

The cache of the mount is emptied first: what the kernel has it reads without asking. The command finds
the mount in $SAPWOOD_MOUNT. A mount with 'passthrough' cannot be recorded. The exit status is the
command's.")]
struct Record {
    /// Where a commit is mounted, or which one to mount for this: also REMOTE:REF or URL#REF
    #[arg(value_name = "MOUNTPOINT|SOURCE")]
    target: String,
    /// Where to write the profile, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Run the command inside the mount, as its root directory
    #[arg(long, requires = "command")]
    chroot: bool,
    /// End after so many seconds
    #[arg(long, value_name = "N", conflicts_with = "command")]
    seconds: Option<u64>,
    #[command(flatten)]
    trust: TrustArgs,
    /// What to run meanwhile
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Print a profile: a file's, or the one published with a commit
#[derive(Debug, clap::Args)]
struct Show {
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
struct Merge {
    /// The profiles
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Where to write the result, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// When a mount cannot be recorded, or a file is no profile.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    match &args.verb {
        Verb::Record(args) => record(args, context),
        Verb::Show(args) => show(args, context),
        Verb::Merge(args) => merge(args),
    }
}

fn record(args: &Record, context: &Context) -> Result<ExitCode> {
    if let Some(mount) = prefetch::running_mount(&args.target)? {
        return record_mount(args, &mount);
    }
    let own = OwnMount::make(args, context)?;
    let mount = prefetch::running_mount(&own.directory.to_string_lossy())?;
    let done = match mount {
        Some(mount) => record_mount(args, &mount),
        None => bail!("the mount for recording is not on the list of mounts"),
    };
    own.end()?;
    done
}

fn record_mount(args: &Record, mount: &RunningMount) -> Result<ExitCode> {
    let registry = registry();
    // Before any thread exists, so that only the one that waits for signals sees them.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block().context("cannot wait for signals")?;
    match registry.ask(mount, Question::StartRecording)? {
        Answer::Refused(why) => bail!("{}: {why}", mount.mountpoint),
        _ => output::note(format_args!("{}: its cache is empty now; recording", mount.mountpoint)),
    }
    let status =
        if args.command.is_empty() { wait(args.seconds, signals).map(|()| None) } else { run_command(args, mount) };
    let profile = match registry.ask(mount, Question::StopRecording)? {
        Answer::Profile(text) => ProfileText::parse(&text)?,
        Answer::Refused(why) => bail!("{}: {why}", mount.mountpoint),
        _ => bail!("{}: the mount gave no profile", mount.mountpoint),
    };
    let status = status?;
    write(args.output.as_deref(), &profile)?;
    output::note(summary(&profile));
    Ok(match status {
        Some(status) if !status.success() => {
            output::note(format_args!("the command ended with {status}"));
            ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
        }
        _ => ExitCode::SUCCESS,
    })
}

fn run_command(args: &Record, mount: &RunningMount) -> Result<Option<ExitStatus>> {
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

/// Waits for the time that is given, or for a signal.
fn wait(seconds: Option<u64>, signals: SigSet) -> Result<()> {
    if seconds.is_none() {
        output::note("Ctrl-C ends it");
    }
    let (told, heard) = channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        // Nobody listens any more once the time is over.
        let _ = told.send(signals.wait());
    })?;
    match seconds {
        Some(seconds) => _ = heard.recv_timeout(Duration::from_secs(seconds)),
        None => _ = heard.recv(),
    }
    Ok(())
}

/// A mount that exists for one recording, where only its owner looks.
struct OwnMount {
    directory: PathBuf,
}

impl OwnMount {
    fn make(args: &Record, context: &Context) -> Result<Self> {
        let directory = runtime_directory().join(format!("record-{}", std::process::id()));
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

    fn end(self) -> Result<()> {
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

fn show(args: &Show, context: &Context) -> Result<ExitCode> {
    let path = Path::new(&args.source);
    let profile = if path.is_file() { lazy::read_profile(path)? } else { published(args, context)? };
    if args.json {
        let line = |line: &crate::remote::format::ProfileLine| serde_json::json!({ "path": line.path.to_string(), "first": line.first, "blocks": line.blocks });
        output::json(&profile.lines.iter().map(line).collect::<Vec<_>>())?;
    } else {
        output::bytes(&profile.render())?;
        output::note(summary(&profile));
    }
    Ok(ExitCode::SUCCESS)
}

fn published(args: &Show, context: &Context) -> Result<ProfileText> {
    let Some(source) = RemoteSource::parse(&args.source)? else {
        bail!("{} is neither a file nor REMOTE:REF nor URL#REF", args.source)
    };
    let store = lazy::open_or_make(&lazy::repository(&source, context)?)?;
    let visit = lazy::visit(&store, &source, &args.trust, lazy::Asking::Attended)?;
    let tree = lazy::open(&store, &visit, &MountOptions::default())?;
    match tree.published_profile()? {
        Some(profile) => Ok(profile),
        None => bail!("commit {} was published without a profile", visit.id().short()),
    }
}

fn merge(args: &Merge) -> Result<ExitCode> {
    let profiles = args.files.iter().map(|file| lazy::read_profile(file)).collect::<Result<Vec<_>>>()?;
    let merged = ProfileText::merged(&profiles);
    write(args.output.as_deref(), &merged)?;
    output::note(summary(&merged));
    Ok(ExitCode::SUCCESS)
}

fn write(output: Option<&Path>, profile: &ProfileText) -> Result<()> {
    match output {
        Some(path) => {
            let path = std::path::absolute(path)?;
            disk::replace(&path, &profile.render()).with_context(|| format!("cannot write {}", path.display()))
        }
        None => Ok(output::bytes(&profile.render())?),
    }
}

fn summary(profile: &ProfileText) -> String {
    let files: std::collections::BTreeSet<_> = profile.lines.iter().map(|line| line.path.to_bytes()).collect();
    format!("{} lines, {} files", output::count(profile.lines.len() as u64), output::count(files.len() as u64))
}
