//! A compose from beginning to end: resolve, decide whether anything changed, install, change, lay out, label, commit.
//!
//! Everything up to the commit is without effect on the repository; its lock is taken only for the last step. Runs in
//! the worker that [`super::confine`] starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::commit::{CommitRequest, CommitTreeError, Parent as CommitParent, commit_tree};
use super::draft::{Draft, IngestOptions, ingest};
use super::engine::{Engine, EngineError, Ownership, Resolution, engine};
use super::inputs;
use super::layout::{self, LayoutError, LayoutOptions, os_release, users::ParentUsers};
use super::lock::{LockFile, LockFileError};
use super::metadata::{CHANGELOGS, OWNERS, Owners, SBOM, Subject, sbom};
use super::packages::{self, Change, Format, PackageList};
use super::parent::{Parent, ParentError};
use super::process::Runner;
use super::root::{Root, RootError};
use super::selinux::policy::{Policy, PolicyError};
use super::source::{DirectoryError, Progress};
use super::treefile::{EngineKind, InitramfsKind, Treefile};
use crate::disk::Wait;
use crate::model::{Commit, CommitId};
use crate::store::{StatCache, Store, WriteError};

/// The key of a commit's facts that holds the kernel's version.
pub const KERNEL: &str = "compose.kernel";

/// The key that holds the engine's name.
pub const ENGINE: &str = "compose.engine";

/// Why nothing was committed.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// The package manager.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The lock.
    #[error("the lock cannot be kept")]
    Lock(#[from] LockFileError),
    /// Changes in the root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Reading the root.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The layout of the image.
    #[error("the root cannot become an image")]
    Layout(#[from] LayoutError),
    /// Labels.
    #[error("cannot label the image")]
    Policy(#[from] PolicyError),
    /// The commit before.
    #[error(transparent)]
    Parent(#[from] ParentError),
    /// The repository.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The commit.
    #[error(transparent)]
    Commit(#[from] CommitTreeError),
    /// A file of this machine.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What to do with what was resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Commit it.
    Commit,
    /// Only say what would be.
    Plan,
}

/// What is made of what.
pub struct Request<'a> {
    /// The treefile.
    pub treefile: &'a Treefile,
    /// Where the commit goes.
    pub store: &'a Store,
    /// Where the engine keeps packages.
    pub cache: &'a Path,
    /// A directory of this compose.
    pub work: &'a Path,
    /// Runs programs and tells of it.
    pub runner: Runner<'a>,
    /// Exact packages.
    pub lock: Option<&'a LockFile>,
    /// A root that is there already, instead of packages.
    pub from_root: Option<&'a Path>,
    /// Commit or plan.
    pub purpose: Purpose,
    /// Compose even if nothing changed.
    pub again: bool,
    /// The commit's time, instead of that of its youngest package.
    pub time: Option<i64>,
    /// One line about the commit.
    pub subject: &'a str,
    /// How far reading the root is.
    pub progress: &'a Progress,
    /// What waits for the repository's lock is told so.
    pub wait: fn() -> Wait<'static>,
    /// Threads that read.
    pub threads: usize,
    /// The time now, for the cache of what was read.
    pub now: i64,
}

/// What would be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Exact packages.
    pub resolution: Resolution,
    /// What that changes.
    pub changes: Vec<Change>,
    /// Whether the parent was made from the same.
    pub unchanged: bool,
}

/// What came out.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing was to be done.
    Planned(Box<Plan>),
    /// The commit before was made from the same.
    Unchanged(CommitId),
    /// A commit, or the one before when the image is the same.
    Composed(Box<Composed>),
}

/// A commit that was composed.
#[derive(Debug)]
pub struct Composed {
    /// Its id.
    pub id: CommitId,
    /// Its record.
    pub commit: Commit,
    /// Whether the commit before was kept, since the image is the same.
    pub unchanged: bool,
    /// What changed in packages.
    pub changes: Vec<Change>,
    /// What was resolved; nothing if a root was given.
    pub resolution: Option<Resolution>,
    /// How long resolving, fetching and installing took.
    pub engine_time: Duration,
    /// How long scripts and the initramfs took.
    pub scripts_time: Duration,
    /// How long layout, labels and commit took.
    pub image_time: Duration,
}

/// Composes.
///
/// # Errors
/// [`ComposeError`]; nothing is committed then.
pub fn compose(request: &Request<'_>) -> Result<Outcome, ComposeError> {
    let parent = Parent::of(request.store, &request.treefile.ref_name)?;
    match request.from_root {
        Some(root) => from_root(request, parent.as_ref(), root),
        None => from_packages(request, parent.as_ref()),
    }
}

fn from_packages(request: &Request<'_>, parent: Option<&Parent>) -> Result<Outcome, ComposeError> {
    let begin = Instant::now();
    let treefile = request.treefile;
    let surroundings = super::engine::Surroundings { cache: request.cache, work: request.work, runner: request.runner };
    let engine = engine(treefile.engine, surroundings)?;
    let format = format_of(treefile.engine);
    let bound = request.lock.map(|lock| lock.bound(format)).transpose()?;
    let resolution = engine.resolve(treefile, bound.as_ref())?;
    if let Some(lock) = request.lock {
        lock.check(&resolution)?;
    }
    let list = PackageList::new(format, resolution.list());
    let inputs =
        inputs::digest(treefile, &list).map_err(|(path, source)| ComposeError::Io { action: "read", path, source })?;
    let changes = changes(parent, &list);
    let same = parent.filter(|parent| parent.commit.extra.get(inputs::KEY) == Some(&inputs));
    if request.purpose == Purpose::Plan {
        return Ok(Outcome::Planned(Box::new(Plan { resolution, changes, unchanged: same.is_some() })));
    }
    if let (Some(parent), false) = (same, request.again) {
        return Ok(Outcome::Unchanged(parent.id));
    }
    let newest = engine.fetch(treefile, &resolution)?;
    let time = request.time.unwrap_or(newest);
    let root = request.work.join("root");
    engine.install(treefile, &resolution, &root, time)?;
    let engine_time = begin.elapsed();
    let begin = Instant::now();
    let ownership = change_root(request, &*engine, &root, time)?;
    let scripts_time = begin.elapsed();
    let made = Made { root: &root, list: with_sources(list, &engine.installed(&root)?), ownership, inputs, time };
    let (committed, image_time) = commit(request, parent, made)?;
    Ok(Outcome::Composed(Box::new(Composed {
        id: committed.id,
        commit: committed.commit,
        unchanged: committed.unchanged,
        changes,
        resolution: Some(resolution),
        engine_time,
        scripts_time,
        image_time,
    })))
}

fn from_root(request: &Request<'_>, parent: Option<&Parent>, given: &Path) -> Result<Outcome, ComposeError> {
    let begin = Instant::now();
    let treefile = request.treefile;
    let surroundings = super::engine::Surroundings { cache: request.cache, work: request.work, runner: request.runner };
    let is_rpm =
        ["usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"].iter().any(|place| given.join(place).is_dir());
    let is_deb =
        ["usr/lib/sysimage/dpkg/status", "var/lib/dpkg/status"].iter().any(|place| given.join(place).is_file());
    let kind = match (is_deb, is_rpm) {
        (true, _) => Some(EngineKind::Apt),
        (false, true) => Some(EngineKind::Dnf),
        (false, false) => None,
    };
    let engine = kind.map(|kind| engine(kind, surroundings)).transpose()?;
    let format = format_of(kind.unwrap_or(treefile.engine));
    let installed = engine.as_ref().map_or_else(|| Ok(Vec::new()), |engine| engine.installed(given))?;
    let list = PackageList::new(format, installed);
    let changes = changes(parent, &list);
    if request.purpose == Purpose::Plan {
        let resolution = Resolution { format, packages: Vec::new() };
        return Ok(Outcome::Planned(Box::new(Plan { resolution, changes, unchanged: false })));
    }
    let time = match request.time {
        Some(time) => time,
        None => newest_file(given)?,
    };
    let root = if Root::is_changed_by(treefile) { copy(request, given)? } else { given.to_owned() };
    let ownership = match &engine {
        Some(engine) if root != given => change_root(request, &**engine, &root, time)?,
        Some(engine) => engine.ownership(&root)?,
        None => Ownership::default(),
    };
    let scripts_time = begin.elapsed();
    let made = Made { root: &root, list, ownership, inputs: String::new(), time };
    let (committed, image_time) = commit(request, parent, made)?;
    Ok(Outcome::Composed(Box::new(Composed {
        id: committed.id,
        commit: committed.commit,
        unchanged: committed.unchanged,
        changes,
        resolution: None,
        engine_time: Duration::ZERO,
        scripts_time,
        image_time,
    })))
}

const fn format_of(kind: EngineKind) -> Format {
    match kind {
        EngineKind::Apt => Format::Deb,
        EngineKind::Dnf => Format::Rpm,
    }
}

fn changes(parent: Option<&Parent>, list: &PackageList) -> Vec<Change> {
    let empty = PackageList::new(list.format, Vec::new());
    let before = parent.and_then(|parent| parent.packages.as_ref()).unwrap_or(&empty);
    packages::diff(before, list)
}

/// The resolved list, with the source packages that only installed ones tell.
fn with_sources(mut list: PackageList, installed: &[packages::Package]) -> PackageList {
    for package in &mut list.packages {
        let same = |other: &&packages::Package| other.name == package.name && other.version == package.version;
        if let Some(found) = installed.iter().find(same) {
            package.source.clone_from(&found.source);
        }
    }
    PackageList::new(list.format, list.packages)
}

/// What the treefile changes in the root, and then the initramfs.
fn change_root(request: &Request<'_>, engine: &dyn Engine, path: &Path, time: i64) -> Result<Ownership, ComposeError> {
    let ownership = engine.ownership(path)?;
    let root = Root::open(path, request.runner, time)?;
    root.change(request.treefile, &ownership)?;
    if request.treefile.initramfs != InitramfsKind::None {
        root.make_initramfs(request.treefile)?;
    }
    Ok(ownership)
}

/// A root that is finished on disk, and what is known of it.
struct Made<'a> {
    root: &'a Path,
    list: PackageList,
    ownership: Ownership,
    inputs: String,
    time: i64,
}

fn commit(
    request: &Request<'_>,
    parent: Option<&Parent>,
    made: Made<'_>,
) -> Result<(super::commit::Committed, Duration), ComposeError> {
    let begin = Instant::now();
    let (treefile, runner) = (request.treefile, request.runner);
    runner.stage("laying out the image");
    let mut draft = Draft::scan(made.root)?;
    let before = parent.and_then(|parent| parent.commit.version.as_deref());
    let version = treefile
        .version_prefix
        .as_deref()
        .map(|prefix| os_release::next_version(prefix, treefile.version_suffix, before, made.time));
    let nobody = ParentUsers::default();
    let options = LayoutOptions {
        treefile,
        parent: parent.map_or(&nobody, |parent| &parent.users),
        version: version.as_deref(),
        time: made.time,
    };
    let layout = layout::apply(&mut draft, &options)?;
    for name in &layout.strange {
        runner.note(&format!("/{name} is in the commit, and a machine that is deployed from it will not show it"));
    }
    describe(&mut draft, treefile, version.as_deref(), &made)?;
    if treefile.selinux {
        runner.stage("labelling");
        Policy::read(&draft)?.apply(&mut draft)?;
    }
    runner.stage("storing");
    let writer = request.store.writer((request.wait)())?;
    let place = made.root.canonicalize().unwrap_or_else(|_| made.root.to_owned());
    let cache = StatCache::load(request.store, &place);
    let options = IngestOptions { threads: request.threads, now: request.now };
    let (tree, cache) = ingest(draft, &writer, &cache, &options, request.progress)?;
    let mut extra = treefile.commit_metadata.clone();
    if !made.list.packages.is_empty() {
        extra.insert(packages::KEY.to_owned(), made.list.encode());
        extra.insert(ENGINE.to_owned(), treefile.engine.word().to_owned());
    }
    if !made.inputs.is_empty() {
        extra.insert(inputs::KEY.to_owned(), made.inputs);
    }
    extra.extend(layout.kernel.map(|kernel| (KERNEL.to_owned(), kernel)));
    let commit_request = CommitRequest {
        ref_name: treefile.ref_name.clone(),
        subject: request.subject.to_owned(),
        version,
        timestamp: made.time,
        parent: CommitParent::Auto,
        // The same root twice is the same commit; a compose that was asked for again makes its own.
        skip_if_unchanged: request.from_root.is_some() && !request.again,
        extra,
    };
    let committed = commit_tree(&writer, &tree, &commit_request)?;
    if request.from_root.is_some()
        && let Err(error) = cache.save(request.store, &place)
    {
        tracing::warn!(%error, "cannot remember what was read; the next compose reads everything again");
    }
    Ok((committed, begin.elapsed()))
}

/// Writes into the image what it says of itself.
fn describe(
    draft: &mut Draft,
    treefile: &Treefile,
    version: Option<&str>,
    made: &Made<'_>,
) -> Result<(), ComposeError> {
    if made.list.packages.is_empty() {
        return Ok(());
    }
    let subject = Subject {
        name: treefile.ref_name.as_str(),
        version,
        distribution: &treefile.distribution,
        release: treefile.releasever.as_deref(),
        time: made.time,
        inputs: &made.inputs,
    };
    let edit = |error| ComposeError::Layout(LayoutError::Draft(error));
    draft.write(SBOM, sbom(subject, &made.list), 0o644).map_err(edit)?;
    for (package, text) in &made.ownership.changelogs {
        draft.write(format!("{CHANGELOGS}/{package}"), text.as_bytes(), 0o644).map_err(edit)?;
    }
    let owners = Owners::of(draft, &made.ownership);
    draft.write(OWNERS, owners.encode(), 0o644).map_err(edit)
}

/// The time of a given root: that of its youngest file.
fn newest_file(root: &Path) -> Result<i64, ComposeError> {
    let draft = Draft::scan(root)?;
    let times = draft.below("/").into_iter().map(|(_, id)| draft.tree().node(id).metadata.mtime.seconds);
    Ok(times.max().unwrap_or(0))
}

/// A copy of a root that is about to be changed: the given one is somebody else's.
fn copy(request: &Request<'_>, given: &Path) -> Result<PathBuf, ComposeError> {
    let root = request.work.join("root");
    request.runner.stage("copying the root");
    let mut command = std::process::Command::new("cp");
    command.args(["-a", "--reflink=auto", "--one-file-system"]).arg(given.join(".")).arg(&root);
    fs::create_dir_all(&root).map_err(|source| ComposeError::Io { action: "make", path: root.clone(), source })?;
    let copied = request.runner.run("copying the root", &mut command, Duration::from_secs(3600));
    copied.map_err(RootError::Process)?;
    Ok(root)
}
