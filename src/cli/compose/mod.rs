//! `sapwood compose`.
//!
//! The command that is typed makes the place to work and watches; it starts itself again with `--worker` inside, which
//! does the work and reports. See [`crate::compose::confine`].

mod arguments;
mod show;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

pub use arguments::Args;

use self::show::Display;
use super::{Context, output, repository};
use crate::compose::confine::{self, Ending, Workplace};
use crate::compose::journey::{Outcome, Purpose, Request, compose};
use crate::compose::lock::LockFile;
use crate::compose::process::{Log, Runner};
use crate::compose::source::Progress;
use crate::compose::treefile::{self, Treefile};
use crate::disk;
use crate::store::Store;

/// What ends a compose that changed nothing, where that was asked for.
const UNCHANGED: u8 = 77;

/// Packages and metadata on behalf of the system.
const SYSTEM_CACHE: &str = "/var/cache/sapwood/compose";

/// Runs the verb.
///
/// # Errors
/// When anything of it fails; nothing is committed then.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    match &args.worker {
        Some(directory) => work(args, context, directory),
        None => watch(args, context),
    }
}

/// Outside: makes the place, starts the worker in it, waits, cleans up.
fn watch(args: &Args, context: &Context) -> Result<ExitCode> {
    // Mistakes are found before anything is started.
    drop(load(args)?);
    drop(repository::open(context)?);
    let cache = match &args.cachedir {
        Some(cache) => cache.clone(),
        None => default_cache()?,
    };
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let cache = cache.canonicalize()?;
    confine::become_root()?;
    let parent = args.workdir.clone().unwrap_or_else(default_work);
    let place = Workplace::make(&parent)?;
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let own = ["--worker".into(), place.path().into(), "--worker-cache".into(), cache.into()];
    // Before a `--` they are still options.
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    arguments.splice(end..end, own);
    let ending = place.watch(&arguments)?;
    match ending {
        Ending::Interrupted(signal) => {
            output::note(format_args!("sapwood: interrupted by {signal}: nothing was committed"))
        }
        Ending::Status(status) if status.code().is_none() => {
            output::note(format_args!("sapwood: the compose was ended from outside ({status}): nothing was committed"));
        }
        Ending::Status(_) => {}
    }
    Ok(ExitCode::from(ending.code()))
}

/// Inside: does the work.
fn work(args: &Args, context: &Context, directory: &Path) -> Result<ExitCode> {
    confine::settle_in()?;
    let treefile = load(args)?;
    let store = repository::open(context)?;
    let cache = args.worker_cache.clone().context("--worker is for sapwood itself")?;
    let log_name = format!("{}.log", treefile.ref_name.as_str().replace('/', "-"));
    let log = Log::create(&cache.join("log").join(log_name)).context("cannot write the log")?;
    let display = Display::new();
    let report = |event: crate::compose::process::Event<'_>| display.event(event);
    let runner = Runner { log: &log, report: &report };
    if args.keep_root {
        Workplace::keep(directory)?;
    }
    let result = make(args, &treefile, &store, (&cache, directory), runner);
    display.finish();
    if args.keep_root {
        output::note(format_args!(
            "the root is in {}; remove it when it is not needed any more",
            directory.join("root").display()
        ));
    }
    result.inspect_err(show::tail)
}

fn make(
    args: &Args,
    treefile: &Treefile,
    store: &Store,
    (cache, directory): (&Path, &Path),
    runner: Runner<'_>,
) -> Result<ExitCode> {
    let lock = args.lock.as_deref().map(read_lock).transpose()?;
    let progress = Progress::default();
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let request = Request {
        treefile,
        store,
        cache,
        work: directory,
        runner,
        lock: lock.as_ref(),
        from_root: args.from_root.as_deref(),
        purpose: if args.dry_run { Purpose::Plan } else { Purpose::Commit },
        again: args.force,
        time: arguments::time(args.timestamp.as_deref())?,
        subject: &args.subject,
        progress: &progress,
        wait: repository::announced,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        now,
    };
    let outcome = output::while_importing(&progress, || compose(&request))?;
    let resolution = match &outcome {
        Outcome::Planned(plan) => Some(&plan.resolution),
        Outcome::Composed(composed) => composed.resolution.as_ref(),
        Outcome::Unchanged(_) => None,
    };
    if let (Some(file), Some(resolution)) = (&args.write_lock, resolution) {
        let text = LockFile::of(resolution).render();
        disk::replace(file, text.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    finish(args, &outcome)
}

/// Reports, and says by status and file whether anything changed.
fn finish(args: &Args, outcome: &Outcome) -> Result<ExitCode> {
    let unchanged = match outcome {
        Outcome::Planned(plan) => plan.unchanged,
        Outcome::Unchanged(_) => true,
        Outcome::Composed(composed) => composed.unchanged,
    };
    show::outcome(args, outcome)?;
    if let (Some(file), false, false) = (&args.touch_if_changed, unchanged, args.dry_run) {
        disk::replace(file, b"").with_context(|| format!("cannot touch {}", file.display()))?;
    }
    Ok(if unchanged && args.unchanged_exit_77 { ExitCode::from(UNCHANGED) } else { ExitCode::SUCCESS })
}

/// The treefile, with what the command line says instead.
fn load(args: &Args) -> Result<Treefile> {
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
        return Ok(SYSTEM_CACHE.into());
    }
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => env::home_dir().context("no --cachedir given, and no home directory for a cache")?.join(".cache"),
    };
    Ok(cache.join("sapwood/compose"))
}

fn default_work() -> PathBuf {
    // Not /tmp: a root is large, and that may be memory.
    env::var_os("TMPDIR").filter(|path| !path.is_empty()).map_or_else(|| "/var/tmp".into(), PathBuf::from)
}
