//! `sapwood prefetch`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::mount::registry;
use super::remote_source::{Origin, RemoteSource, TrustArgs};
use super::{Context, environment, lazy, output, repository, source};
use crate::cache::{LazyTree, ProfileChoice, Selection, Visit, Wholeness};
use crate::disk::MountTable;
use crate::fuse::{MountOptions, RunningMount};
use crate::model::ImagePath;
use crate::remote::Remotes;
use crate::remote::transport::Transport;
use crate::store::Store;

/// Fetch parts of a commit before anything reads them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood prefetch --path /usr/bin --path /usr/lib /mnt     for a running lazy mount
  sapwood prefetch --profile auto debian:12/server          what the publisher says is read first
  sapwood prefetch --profile boot.profile debian:12/server
  sapwood prefetch --all --dry-run debian:12/server         how much that would be
  sapwood prefetch --all --key deb.pub https://host/repo#12/server

Contents go into the repository, from where mounts read them; nothing is fetched twice, and what was
interrupted goes on where it was. With --all the commit becomes one like any other, as if pulled.
'sapwood pull' does that, too, and uses the difference from an older commit if that is here.")]
pub struct Args {
    /// Where a commit is mounted, or which one: REMOTE:REF, URL#REF, or a local one of which parts are missing
    #[arg(value_name = "SOURCE|MOUNTPOINT")]
    source: String,
    /// What is at and below this path; several are possible
    #[arg(long = "path", value_name = "PATH", value_parser = parse_path, conflicts_with_all = ["profile", "all"])]
    paths: Vec<ImagePath>,
    /// What a profile lists: a file, or 'auto' for the published one
    #[arg(long, value_name = "FILE|auto", conflicts_with = "all")]
    profile: Option<PathBuf>,
    /// Everything
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

/// Runs the verb.
///
/// # Errors
/// When there is no such commit or path, or something does not come; what came is kept.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let start = Instant::now();
    let (store, visit, below) = find(args, context)?;
    let selection = selection(args, below)?;
    if store.commit(visit.id()).is_ok() && !store.is_lazy(visit.id()) {
        output::note(format_args!("commit {} is here as a whole", visit.id().short()));
        return Ok(ExitCode::SUCCESS);
    }
    let _root = store.register_mount(visit.id())?;
    let tree = lazy::open(&store, &visit, &MountOptions::default())?;
    let plan = tree.plan_prefetch(&selection)?;
    let mut outcome =
        Outcome { requests: plan.requests, bytes: plan.bytes, content_bytes: plan.content_bytes, whole: false };
    if args.dry_run {
        outcome.print(args, "would fetch")?;
        return Ok(ExitCode::SUCCESS);
    }
    let fetch = || tree.prefetch(&plan, &selection);
    let done = output::while_showing(plan.bytes, || tree.streamed().min(plan.bytes), fetch);
    tree.flush();
    outcome.whole = done.with_context(|| explain(&tree, plan.bytes))? == Wholeness::Whole;
    outcome.print(args, "fetched")?;
    if !args.json {
        output::note(format_args!("in {}", output::duration(start.elapsed())));
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(tree: &LazyTree, bytes: u64) -> String {
    let (done, all) = (output::size(tree.streamed().min(bytes)), output::size(bytes));
    format!("{done} of {all} came and are kept; the same command goes on from there")
}

/// What was or would be done.
#[derive(serde::Serialize)]
struct Outcome {
    requests: u64,
    bytes: u64,
    content_bytes: u64,
    whole: bool,
}

impl Outcome {
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
        if self.whole {
            output::note("everything is here: the commit needs its remote no more");
        }
        Ok(())
    }
}

/// The repository and the commit, and the directory that the source names.
fn find(args: &Args, context: &Context) -> Result<(Store, Visit, ImagePath)> {
    if let Some(mount) = running_mount(&args.source)? {
        let store = Store::open(Path::new(&mount.repo))?;
        let visit = Visit::local(&store, mount.commit)?;
        let visit = match transport_of(&store, &mount.source)? {
            Some(transport) => visit.through(&store, transport),
            None => lazy::visit_local(&store, mount.commit)?,
        };
        return Ok((store, visit, ImagePath::root()));
    }
    let Some(remote) = RemoteSource::parse(&args.source)? else {
        let (spec, path) = source::split(&args.source)?;
        let store = repository::open(context)?;
        let visit = lazy::visit_local(&store, store.resolve(spec)?)?;
        return Ok((store, visit, path));
    };
    let store = lazy::open_or_make(&lazy::repository(&remote, context)?)?;
    let visit = lazy::visit(&store, &remote, &args.trust, lazy::Asking::Attended)?;
    Ok((store, visit, remote.path))
}

/// The mount of ours at this path, if there is one.
///
/// # Errors
/// When the lists of mounts cannot be read.
pub fn running_mount(text: &str) -> Result<Option<RunningMount>> {
    let path = Path::new(text);
    let table = MountTable::read().context("cannot read the list of mounts")?;
    let Some(there) = table.top(path).or_else(|| table.top(&std::path::absolute(path).ok()?)) else { return Ok(None) };
    let device = there.device.clone();
    Ok(registry().list()?.into_iter().find(|mount| mount.device == device))
}

/// The way to where a mount's contents come from. Whom to believe was decided when it was mounted.
fn transport_of(store: &Store, source: &str) -> Result<Option<Transport>> {
    Ok(match RemoteSource::parse(source)?.map(|source| source.origin) {
        None => None,
        Some(Origin::Url(url)) => Some(Transport::open(&url, &environment::transport_options())?),
        Some(Origin::Named(name)) => {
            let config = environment::complete(Remotes::of(store).read(&name)?);
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
        (Some(file), false, true) => Ok(Selection::Profile(ProfileChoice::Listed(lazy::read_profile(file)?))),
        (None, false, true) => bail!("what to fetch? Give --path PATH, --profile FILE|auto, or --all"),
        _ => bail!("a directory behind the source, --profile and --all exclude each other"),
    }
}
