//! The verb `sapwood compose`.
//!
//! It runs as two processes. The first one creates a working directory, starts this program again with `--worker` in
//! namespaces of its own, waits for it and removes the directory. The worker composes the commit and prints the result. See
//! [`crate::compose::workspace`].
//!
//! *Not here*: composing, see `crate::compose`. Its parts: `arguments` holds the options, `show` prints progress and outcome.

mod arguments;
mod show;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

pub(crate) use arguments::Args;

use self::show::StageDisplay;
use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::compose::lock::LockFile;
use crate::compose::pipeline::{ComposeMode, ComposeOutcome, ComposeRequest, compose};
use crate::compose::process::{ComposeLog, Runner};
use crate::compose::source::ImportProgress;
use crate::compose::treefile::{self, Treefile};
use crate::compose::workspace::{self, WorkerExit, Workspace};
use crate::disk::{self, open_directory};
use crate::store::Store;

/// The exit status of a compose that changed nothing, if `--unchanged-exit-77` was given.
const UNCHANGED_EXIT_STATUS: u8 = 77;

/// The directory for packages and metadata when root composes.
const SYSTEM_CACHE_DIRECTORY: &str = "/var/cache/sapwood/compose";

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        match &self.worker {
            Some(directory) => run_worker(self, context, directory),
            None => run_supervised(self, context),
        }
    }
}

/// Runs the first process: it creates the working directory, starts the worker in it, waits for it and cleans up.
fn run_supervised(args: &Args, context: &Context) -> Result<ExitCode> {
    // Mistakes in the treefile and the repository are reported before anything is started.
    let treefile = load_treefile(args)?;
    show::print_keys_without_effect(&treefile);
    if args.check {
        output::line(format_args!("{}: the treefile can be used", treefile.ref_name))?;
        return Ok(ExitCode::SUCCESS);
    }
    drop(repository::open(context)?);
    let cache = match &args.cachedir {
        Some(cache) => cache.clone(),
        None => default_cache()?,
    };
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let cache = cache.canonicalize()?;
    workspace::become_root()?;
    let parent = args.workdir.clone().unwrap_or_else(default_work_directory);
    let workspace = Workspace::create(&parent)?;
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let own = ["--worker".into(), workspace.path().into(), "--worker-cache".into(), cache.into()];
    // They are inserted before a `--`: after it they would not be options any more.
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    arguments.splice(end..end, own);
    let exit = workspace.run_worker(&arguments)?;
    match exit {
        WorkerExit::Interrupted(signal) => {
            output::note(format_args!("sapwood: interrupted by {signal}: nothing was committed"))
        }
        WorkerExit::Status(status) if status.code().is_none() => {
            output::note(format_args!("sapwood: the compose was ended from outside ({status}): nothing was committed"));
        }
        WorkerExit::Status(_) => {}
    }
    Ok(ExitCode::from(exit.exit_code()))
}

/// Runs the worker process: it composes the commit and prints the result.
fn run_worker(args: &Args, context: &Context, directory: &Path) -> Result<ExitCode> {
    workspace::isolate_worker()?;
    let treefile = load_treefile(args)?;
    let store = repository::open(context)?;
    let cache = args.worker_cache.clone().context("--worker is for sapwood itself")?;
    let log_name = format!("{}.log", treefile.ref_name.as_str().replace('/', "-"));
    let log = ComposeLog::create(&cache.join("log").join(log_name)).context("cannot write the log")?;
    let display = StageDisplay::new();
    let report = |event: crate::compose::process::ComposeEvent<'_>| display.show(event);
    let runner = Runner { log: &log, report: &report };
    if args.keep_root {
        Workspace::keep(directory)?;
    }
    let result = compose_commit(args, &treefile, &store, (&cache, directory), runner);
    display.finish();
    if args.keep_root {
        output::note(format_args!(
            "the root is in {}; remove it when it is not needed any more",
            directory.join("root").display()
        ));
    }
    result.inspect_err(show::print_log_tail)
}

fn compose_commit(
    args: &Args,
    treefile: &Treefile,
    store: &Store,
    (cache, directory): (&Path, &Path),
    runner: Runner<'_>,
) -> Result<ExitCode> {
    let lock = args.lock.as_deref().map(read_lock).transpose()?;
    // rpm takes only absolute paths.
    let from_root = args.from_root.as_deref().map(std::path::absolute).transpose()?;
    let progress = ImportProgress::default();
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let request = ComposeRequest {
        treefile,
        store,
        cache,
        work: directory,
        runner,
        lock: lock.as_ref(),
        from_root: from_root.as_deref(),
        offline: args.offline,
        mode: if args.dry_run { ComposeMode::Plan } else { ComposeMode::Commit },
        force: args.force,
        time: arguments::commit_time(args.timestamp.as_deref())?,
        subject: &args.subject,
        progress: &progress,
        lock_wait: repository::wait_with_notice,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        now,
    };
    let outcome = output::while_importing(&progress, || compose(&request))?;
    let resolution = match &outcome {
        ComposeOutcome::Planned(plan) => Some(&plan.resolution),
        ComposeOutcome::Composed(composed) => composed.resolution.as_ref(),
        ComposeOutcome::Unchanged(_, resolution) => Some(resolution),
    };
    if let (Some(file), Some(resolution)) = (&args.write_lock, resolution) {
        let text = LockFile::from_resolution(resolution).render();
        write_readable(file, text.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    report_outcome(args, &outcome)
}

/// Replaces a file that is for other programs: it has the mode that the caller's umask gives to new files.
fn write_readable(file: &Path, bytes: &[u8]) -> Result<()> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().context("it has no file name")?;
    Ok(disk::replace_in(&open_directory(parent)?, name, bytes)?)
}

/// Prints the outcome, touches the file of `--touch-if-changed` if there is a new commit, and returns the exit status.
fn report_outcome(args: &Args, outcome: &ComposeOutcome) -> Result<ExitCode> {
    let unchanged = match outcome {
        ComposeOutcome::Planned(plan) => plan.unchanged,
        ComposeOutcome::Unchanged(..) => true,
        ComposeOutcome::Composed(composed) => composed.unchanged,
    };
    show::print_outcome(args, outcome)?;
    if let (Some(file), false, false) = (&args.touch_if_changed, unchanged, args.dry_run) {
        write_readable(file, b"").with_context(|| format!("cannot touch {}", file.display()))?;
    }
    Ok(if unchanged && args.unchanged_exit_77 { ExitCode::from(UNCHANGED_EXIT_STATUS) } else { ExitCode::SUCCESS })
}

/// Loads the treefile and replaces the values that the command line overrides.
fn load_treefile(args: &Args) -> Result<Treefile> {
    let mut treefile = match (&args.treefile, &args.reference) {
        (Some(path), _) => treefile::load(path, env::consts::ARCH)
            .with_context(|| format!("cannot use the treefile {}", path.display()))?,
        (None, Some(name)) => treefile::Treefile::bare(name.clone(), env::consts::ARCH),
        (None, None) => bail!("give a treefile, or --from-root DIR with --ref REF"),
    };
    if let Some(name) = &args.reference {
        treefile.ref_name = name.clone();
    }
    Ok(treefile)
}

fn read_lock(path: &Path) -> Result<LockFile> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    LockFile::parse(&text).with_context(|| format!("cannot use the lock {}", path.display()))
}

fn default_cache() -> Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok(SYSTEM_CACHE_DIRECTORY.into());
    }
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => env::home_dir().context("no --cachedir given, and no home directory for a cache")?.join(".cache"),
    };
    Ok(cache.join("sapwood/compose"))
}

fn default_work_directory() -> PathBuf {
    // Not /tmp, which may be in memory: a root is large.
    env::var_os("TMPDIR").filter(|path| !path.is_empty()).map_or_else(|| "/var/tmp".into(), PathBuf::from)
}
