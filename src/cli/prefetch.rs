//! The verb `sapwood prefetch`.
//!
//! *Not here*: planning and fetching, see `cache`. `find_running_mount` is also *used by* `mounts` and `profile`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::trust_args::TrustArgs;
use super::{output, repository};
use crate::cache::{LazyOptions, LazyTree, ProfileChoice, ResolvedCommit, Selection};
use crate::cli::context::{Context, Run};
use crate::disk::MountTable;
use crate::model::ImagePath;
use crate::mount::{RunningMount, registry};
use crate::remote::Remotes;
use crate::remote::format::ProfileText;
use crate::remote::transport::Transport;
use crate::source::{self, RemoteSource, RemoteSpec, environment};
use crate::store::{CommitCompleteness, Store};

/// Fetch parts of a commit before anything reads them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood prefetch --path /usr/bin --path /usr/lib /mnt
      for a running lazy mount
  sapwood prefetch --profile auto debian:12/server
      what the publisher says is read first
  sapwood prefetch --profile boot.profile debian:12/server
  sapwood prefetch --all --dry-run debian:12/server
      how much that would be
  sapwood prefetch --all --key deb.pub https://host/repo#12/server

Contents go into the repository, from where mounts read them. Nothing is fetched twice, and an interrupted \
prefetch continues where it was. With --all the commit is complete afterwards, as if it had been pulled. \
'sapwood pull' does that, too, and fetches only the difference from an older commit if one is here.")]
pub(crate) struct Args {
    /// A mountpoint, or a commit: REMOTE:REF, URL#REF, or a local one of which parts are missing
    #[arg(value_name = "SOURCE|MOUNTPOINT")]
    source: String,
    /// Fetch what is at and below this path; several are possible
    #[arg(long = "path", value_name = "PATH", value_parser = parse_path, conflicts_with_all = ["profile", "all"])]
    paths: Vec<ImagePath>,
    /// Fetch what this profile lists: a file, or 'auto' for the published one
    #[arg(long, value_name = "FILE|auto", conflicts_with = "all")]
    profile: Option<PathBuf>,
    /// Fetch everything
    #[arg(long)]
    all: bool,
    /// Only say what would be fetched
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    trust: TrustArgs,
}

fn parse_path(text: &str) -> Result<ImagePath> {
    Ok(ImagePath::parse(text.as_bytes())?)
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let start = Instant::now();
        let (store, resolved, below) = resolve_source(self, context)?;
        let selection = selection(self, below)?;
        if store.commit(resolved.id()).is_ok() && !store.is_lazy(resolved.id()) {
            output::note(format_args!("commit {} is here as a whole", resolved.id().short()));
            return Ok(ExitCode::SUCCESS);
        }
        let _root = store.register_mount(resolved.id())?;
        let tree = resolved.open(&store, LazyOptions::default())?;
        let plan = tree.plan_prefetch(&selection)?;
        let mut outcome = PrefetchOutcome {
            requests: plan.requests,
            bytes: plan.bytes,
            content_bytes: plan.content_bytes,
            is_complete: false,
        };
        if self.dry_run {
            outcome.print(self, "would fetch")?;
            return Ok(ExitCode::SUCCESS);
        }
        let fetch = || tree.prefetch(&plan, &selection);
        let done = output::while_showing(plan.bytes, || tree.streamed_bytes().min(plan.bytes), fetch);
        tree.close();
        outcome.is_complete =
            done.with_context(|| describe_progress(&tree, plan.bytes))? == CommitCompleteness::Complete;
        outcome.print(self, "fetched")?;
        if !self.json {
            output::note(format_args!("in {}", output::duration(start.elapsed())));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn describe_progress(tree: &LazyTree, bytes: u64) -> String {
    let (done, all) = (output::size(tree.streamed_bytes().min(bytes)), output::size(bytes));
    format!("{done} of {all} were fetched and are kept; the same command continues from there")
}

/// The result of a prefetch, or of its plan with `--dry-run`.
#[derive(serde::Serialize)]
struct PrefetchOutcome {
    requests: u64,
    bytes: u64,
    content_bytes: u64,
    #[serde(rename = "whole")]
    is_complete: bool,
}

impl PrefetchOutcome {
    fn print(&self, args: &Args, verb: &str) -> Result<()> {
        if args.json {
            return Ok(output::json(self)?);
        }
        output::line(format_args!(
            "{verb} {} in {} requests, {} of content",
            output::size(self.bytes),
            output::count(self.requests),
            output::size(self.content_bytes)
        ))?;
        if self.is_complete {
            output::note("everything is here: the commit needs its remote no more");
        }
        Ok(())
    }
}

/// Returns the repository, the commit, and the directory of the commit that the source names.
fn resolve_source(args: &Args, context: &Context) -> Result<(Store, ResolvedCommit, ImagePath)> {
    if let Some(mount) = find_running_mount(Path::new(&args.source))? {
        let store = Store::open(Path::new(&mount.repo))?;
        let resolved = ResolvedCommit::from_store(&store, mount.commit)?;
        let resolved = match mount_transport(&store, &mount.source)? {
            Some(transport) => resolved.with_transport(&store, transport),
            None => source::resolve_local(&store, mount.commit)?,
        };
        return Ok((store, resolved, ImagePath::root()));
    }
    let Some(remote) = RemoteSource::parse(&args.source)? else {
        let (spec, path) = source::split(&args.source)?;
        let store = repository::open(context)?;
        let resolved = source::resolve_local(&store, store.resolve(spec)?)?;
        return Ok((store, resolved, path));
    };
    let (store, resolved) = repository::resolve_remote(&remote, &args.trust, context)?;
    Ok((store, resolved, remote.path))
}

/// Returns the mount of Sapwood at this path or where its links lead, if this user made one there.
///
/// # Errors
/// When the list of mounts or the registry cannot be read.
pub(crate) fn find_running_mount(path: &Path) -> Result<Option<RunningMount>> {
    let table = MountTable::read().context("cannot read the list of mounts")?;
    // The path itself first: a mount that does not answer cannot be looked at.
    let candidates = [Some(path.to_owned()), std::path::absolute(path).ok()].into_iter().flatten();
    let found = candidates.chain(std::iter::once_with(|| path.canonicalize().ok()).flatten());
    let Some(there) = found.filter_map(|path| table.top(&path)).next() else { return Ok(None) };
    Ok(registry().list()?.into_iter().find(|mount| mount.device == there.device))
}

/// Opens a transport to the remote that a mount's contents come from. Trust was established when it was mounted.
fn mount_transport(store: &Store, source: &str) -> Result<Option<Transport>> {
    Ok(match RemoteSource::parse(source)?.map(|source| source.remote) {
        None => None,
        Some(RemoteSpec::Url(url)) => Some(Transport::open(&url, &environment::transport_options())?),
        Some(RemoteSpec::Named(name)) => {
            let config = environment::with_environment(Remotes::of(store).read(&name)?);
            Some(Transport::open(&config.url, &config.transport)?)
        }
    })
}

fn selection(args: &Args, below: ImagePath) -> Result<Selection> {
    let mut paths = args.paths.clone();
    if !below.is_root() {
        paths.push(below);
    }
    match (&args.profile, args.all, paths.is_empty()) {
        (None, true, true) => Ok(Selection::Everything),
        (None, false, false) => Ok(Selection::Paths(paths)),
        (Some(file), false, true) if file.as_os_str() == "auto" => Ok(Selection::Profile(ProfileChoice::Published)),
        (Some(file), false, true) => Ok(Selection::Profile(ProfileChoice::Listed(ProfileText::read(file)?))),
        (None, false, true) => bail!("say what to fetch: --path PATH, --profile FILE|auto, or --all"),
        _ => bail!("a directory in the source, --profile and --all exclude each other"),
    }
}
