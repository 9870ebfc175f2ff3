//! One compose from beginning to end: resolve, compare with the parent, install, change the root, lay out, label, commit.
//!
//! *Not here*: the steps themselves, each of which is a module of its own.
//!
//! *Invariants*: nothing changes in the repository before the last step, and its lock is taken only for that step.
//!
//! *Used by* `cli/compose`, in the worker that `workspace` starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::base::{self, BaseCommit, BaseError};
use super::commit::{CommitRequest, CommitTreeError, ParentChoice as CommitParent, commit_tree};
use super::engine::{EngineContext, EngineError, FileOwners, Resolution, create_engine};
use super::inputs;
use super::layout::{self, LayoutError, LayoutOptions, os_release, users::ParentUsers};
use super::lock::{LockFile, LockFileError};
use super::metadata::{CHANGELOGS_DIRECTORY, OWNERS_FILE, OwnerIndex, SBOM_FILE, SbomSubject, render_sbom};
use super::packages::{self, PackageChange, PackageFormat, PackageList};
use super::parent::{ParentCommit, ParentError};
use super::process::Runner;
use super::root::{InstalledRoot, InstalledRootError};
use super::selinux::policy::{SelinuxPolicy, SelinuxPolicyError};
use super::source::{DirectoryError, ImportProgress};
use super::staged::{IngestOptions, StagedTree, ingest};
use super::treefile::{EngineKind, InitramfsKind, Treefile};
use crate::disk::Wait;
use crate::model::{Commit, CommitId};
use crate::store::{StatCache, Store, WriteError};

/// The key in a commit's `extra` for the version of the kernel.
pub(crate) const KERNEL_KEY: &str = "compose.kernel";

/// The key in a commit's `extra` for the name of the engine.
pub(crate) const ENGINE_KEY: &str = "compose.engine";

/// Why nothing was committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComposeError {
    /// The package manager failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The commit that `base` names cannot be used.
    #[error("cannot compose on 'base'")]
    Base(#[from] BaseError),
    #[error("the lock cannot be kept")]
    Lock(#[from] LockFileError),
    /// The root cannot be changed as the treefile says.
    #[error(transparent)]
    Root(#[from] InstalledRootError),
    /// The root cannot be read.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The root cannot be laid out as an image.
    #[error("the root cannot become an image")]
    Layout(#[from] LayoutError),
    /// The image cannot be labelled.
    #[error("cannot label the image")]
    Policy(#[from] SelinuxPolicyError),
    /// The parent commit cannot be read.
    #[error(transparent)]
    Parent(#[from] ParentError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Commit(#[from] CommitTreeError),
    /// A file of this machine cannot be read or written.
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// Whether a compose commits or only plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ComposeMode {
    /// Install the packages and commit the root.
    Commit,
    /// Return what would be installed, and stop.
    Plan,
}

/// Everything that one compose needs.
pub(crate) struct ComposeRequest<'a> {
    pub(crate) treefile: &'a Treefile,
    /// The repository that gets the commit.
    pub(crate) store: &'a Store,
    /// The directory in which the engine keeps packages for later composes.
    pub(crate) cache: &'a Path,
    /// The workspace directory of this compose.
    pub(crate) work: &'a Path,
    /// Runs programs and reports their progress.
    pub(crate) runner: Runner<'a>,
    /// The lock file that the resolution has to match, if one is given.
    pub(crate) lock: Option<&'a LockFile>,
    /// An existing root to commit instead of installing packages.
    pub(crate) from_root: Option<&'a Path>,
    pub(crate) mode: ComposeMode,
    /// Whether only the cache is used, and nothing is fetched.
    pub(crate) offline: bool,
    /// Whether to compose even if nothing changed.
    pub(crate) force: bool,
    /// The time of the commit in seconds since 1970; if `None`, that of its youngest package, or of the youngest file of a
    /// given root.
    pub(crate) time: Option<i64>,
    /// The commit's description in one line.
    pub(crate) subject: &'a str,
    /// Counts what is read and stored.
    pub(crate) progress: &'a ImportProgress,
    /// Makes the object that announces a wait for the repository's lock.
    pub(crate) lock_wait: fn() -> Wait<'static>,
    /// The number of threads that read contents.
    pub(crate) threads: usize,
    /// The current time in seconds since 1970, for the cache of file identities.
    pub(crate) now: i64,
}

/// The plan of a compose: what would be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ComposePlan {
    /// The resolved packages.
    pub(crate) resolution: Resolution,
    /// How the packages differ from the parent's.
    pub(crate) changes: Vec<PackageChange>,
    /// Whether the parent was made from the same inputs.
    pub(crate) unchanged: bool,
}

/// The result of [`compose`].
#[derive(Debug)]
pub(crate) enum ComposeOutcome {
    /// [`ComposeMode::Plan`] was asked for.
    Planned(Box<ComposePlan>),
    /// The parent, with this id, was made from the same inputs, of these packages.
    Unchanged(CommitId, Resolution),
    /// A new commit, or the parent if the image is the same.
    Composed(Box<Composed>),
}

/// A finished compose with its commit.
#[derive(Debug)]
pub(crate) struct Composed {
    pub(crate) id: CommitId,
    /// The record of the commit.
    pub(crate) commit: Commit,
    /// Whether the parent was kept, since the image is the same.
    pub(crate) unchanged: bool,
    /// How the packages differ from the parent's.
    pub(crate) changes: Vec<PackageChange>,
    /// The resolved packages; `None` if a root was given.
    pub(crate) resolution: Option<Resolution>,
    /// How long resolving, fetching and installing took.
    pub(crate) engine_time: Duration,
    /// How long scripts and the initramfs took.
    pub(crate) scripts_time: Duration,
    /// How long layout, labels and commit took.
    pub(crate) image_time: Duration,
}

/// Composes a root from packages, or takes a given one, and commits it.
///
/// # Errors
/// [`ComposeError`]; nothing is committed then.
pub(crate) fn compose(request: &ComposeRequest<'_>) -> Result<ComposeOutcome, ComposeError> {
    let parent = ParentCommit::load(request.store, &request.treefile.ref_name)?;
    match request.from_root {
        Some(root) => compose_given_root(request, parent.as_ref(), root),
        None => compose_packages(request, parent.as_ref()),
    }
}

fn compose_packages(
    request: &ComposeRequest<'_>,
    parent: Option<&ParentCommit>,
) -> Result<ComposeOutcome, ComposeError> {
    let start = Instant::now();
    let treefile = request.treefile;
    let format = package_format(treefile.engine);
    let base = treefile.base.as_deref().map(|spec| BaseCommit::load(request.store, spec, format)).transpose()?;
    let databases = request.work.join("base");
    let installed_base = base.as_ref().map(|base| base.write_databases(&databases)).transpose()?;
    let context = EngineContext {
        cache: request.cache,
        work: request.work,
        base: installed_base.as_ref(),
        offline: request.offline,
        runner: request.runner,
    };
    let engine = create_engine(treefile.engine, context)?;
    let locked = request.lock.map(|lock| lock.locked_packages(format)).transpose()?;
    let resolution = engine.resolve(treefile, locked.as_ref())?;
    if let Some(lock) = request.lock {
        lock.check(&resolution)?;
    }
    let list = PackageList::new(format, context.expected(&resolution));
    let inputs = inputs::digest(treefile, base.as_ref().map(|base| base.commit.image), &list)
        .map_err(|(path, source)| ComposeError::Io { action: "read", path, source })?;
    let changes = package_changes(parent, &list);
    let same_inputs = parent.filter(|parent| parent.commit.extra.get(inputs::KEY) == Some(&inputs));
    if request.mode == ComposeMode::Plan {
        return Ok(ComposeOutcome::Planned(Box::new(ComposePlan {
            resolution,
            changes,
            unchanged: same_inputs.is_some(),
        })));
    }
    if let (Some(parent), false) = (same_inputs, request.force) {
        return Ok(ComposeOutcome::Unchanged(parent.id, resolution));
    }
    let newest = engine.fetch(treefile, &resolution)?;
    let newest = newest.max(base.as_ref().map_or(0, |base| base.commit.timestamp));
    let time = request.time.unwrap_or(newest);
    let root = request.work.join("root");
    if let Some(base) = &base {
        request.runner.stage(&format!("writing the files of {}", base.id.short()));
        base.write_root(&root)?;
    }
    engine.install(treefile, &resolution, &root, time)?;
    let engine_time = start.elapsed();
    let start = Instant::now();
    let file_owners = engine.file_owners(&root)?;
    let kept_host_files = change_root(request, &file_owners, &root, time)?;
    let scripts_time = start.elapsed();
    let finished = FinishedRoot {
        root: &root,
        list: with_source_packages(list, &engine.installed(&root)?),
        file_owners,
        kept_host_files,
        inputs,
        time,
        base: base.map(|base| base.id),
    };
    let (committed, image_time) = commit_root(request, parent, finished)?;
    Ok(ComposeOutcome::Composed(Box::new(Composed {
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

fn compose_given_root(
    request: &ComposeRequest<'_>,
    parent: Option<&ParentCommit>,
    given: &Path,
) -> Result<ComposeOutcome, ComposeError> {
    let start = Instant::now();
    let treefile = request.treefile;
    let (cache, work, runner) = (request.cache, request.work, request.runner);
    let context = EngineContext { cache, work, base: None, offline: request.offline, runner };
    let is_rpm = ["usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"].iter().any(|path| given.join(path).is_dir());
    let is_deb = ["usr/lib/sysimage/dpkg/status", "var/lib/dpkg/status"].iter().any(|path| given.join(path).is_file());
    let kind = match (is_deb, is_rpm) {
        (true, _) => Some(EngineKind::Apt),
        (false, true) => Some(EngineKind::Dnf),
        (false, false) => None,
    };
    let engine = kind.map(|kind| create_engine(kind, context)).transpose()?;
    let format = package_format(kind.unwrap_or(treefile.engine));
    let installed = engine.as_ref().map_or_else(|| Ok(Vec::new()), |engine| engine.installed(given))?;
    let list = PackageList::new(format, installed);
    let changes = package_changes(parent, &list);
    if request.mode == ComposeMode::Plan {
        let resolution = Resolution { format, packages: Vec::new() };
        return Ok(ComposeOutcome::Planned(Box::new(ComposePlan { resolution, changes, unchanged: false })));
    }
    let time = match request.time {
        Some(time) => time,
        None => newest_mtime(given)?,
    };
    let root = if InstalledRoot::is_changed_by(treefile) { copy_root(request, given)? } else { given.to_owned() };
    let file_owners = engine.as_ref().map_or_else(|| Ok(FileOwners::default()), |engine| engine.file_owners(&root))?;
    let kept_host_files = if root == given { Vec::new() } else { change_root(request, &file_owners, &root, time)? };
    let scripts_time = start.elapsed();
    let finished =
        FinishedRoot { root: &root, list, file_owners, kept_host_files, inputs: String::new(), time, base: None };
    let (committed, image_time) = commit_root(request, parent, finished)?;
    Ok(ComposeOutcome::Composed(Box::new(Composed {
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

const fn package_format(kind: EngineKind) -> PackageFormat {
    match kind {
        EngineKind::Apt => PackageFormat::Deb,
        EngineKind::Dnf => PackageFormat::Rpm,
    }
}

fn package_changes(parent: Option<&ParentCommit>, list: &PackageList) -> Vec<PackageChange> {
    let empty = PackageList::new(list.format, Vec::new());
    let before = parent.and_then(|parent| parent.packages.as_ref()).unwrap_or(&empty);
    packages::diff(before, list)
}

/// Returns the resolved list with the names of source packages, which only the installed packages tell.
fn with_source_packages(mut list: PackageList, installed: &[packages::Package]) -> PackageList {
    for package in &mut list.packages {
        let same = |other: &&packages::Package| other.name == package.name && other.version == package.version;
        if let Some(found) = installed.iter().find(same) {
            package.source.clone_from(&found.source);
        }
    }
    PackageList::new(list.format, list.packages)
}

/// Applies the treefile's changes to the root on disk, and then makes the initramfs. Returns which of the host's files the treefile
/// wrote.
fn change_root(
    request: &ComposeRequest<'_>,
    file_owners: &FileOwners,
    path: &Path,
    time: i64,
) -> Result<Vec<&'static str>, ComposeError> {
    let root = InstalledRoot::open(path, request.runner, time)?;
    let before = root.host_files();
    root.apply_treefile(request.treefile, file_owners)?;
    let changed = root.host_files().changed_since(&before);
    if request.treefile.initramfs != InitramfsKind::None {
        root.make_initramfs(request.treefile)?;
    }
    Ok(changed)
}

/// A root that is finished on disk, and what is known about it.
struct FinishedRoot<'a> {
    root: &'a Path,
    list: PackageList,
    file_owners: FileOwners,
    kept_host_files: Vec<&'static str>,
    inputs: String,
    time: i64,
    /// The commit that this one is composed on.
    base: Option<CommitId>,
}

fn commit_root(
    request: &ComposeRequest<'_>,
    parent: Option<&ParentCommit>,
    finished: FinishedRoot<'_>,
) -> Result<(super::commit::Committed, Duration), ComposeError> {
    let start = Instant::now();
    let (treefile, runner) = (request.treefile, request.runner);
    runner.stage("laying out the image");
    let mut staged = StagedTree::scan(finished.root)?;
    let before = parent.and_then(|parent| parent.commit.version.as_deref());
    let version = treefile
        .version_prefix
        .as_deref()
        .map(|prefix| os_release::next_version(prefix, treefile.version_suffix, before, finished.time));
    let no_users = ParentUsers::default();
    let options = LayoutOptions {
        treefile,
        parent: parent.map_or(&no_users, |parent| &parent.users),
        version: version.as_deref(),
        time: finished.time,
        kept_host_files: &finished.kept_host_files,
    };
    let layout = layout::apply(&mut staged, &options)?;
    for name in &layout.unknown_names {
        runner.note(&format!("/{name} is in the commit, and a machine that is deployed from it will not show it"));
    }
    for left in &layout.left_out {
        let then = match &left.unit {
            Some(unit) => format!("each machine makes it at its first boot ({unit})"),
            None => "nothing makes it on a machine; 'keep-identities' would keep it".to_owned(),
        };
        runner.note(&format!("{} is left out, since it holds {}: {then}", left.path, left.what));
    }
    write_metadata(&mut staged, treefile, version.as_deref(), &finished)?;
    if treefile.selinux {
        runner.stage("labelling");
        SelinuxPolicy::read(&staged)?.apply(&mut staged)?;
    }
    runner.stage("storing");
    let writer = request.store.writer((request.lock_wait)())?;
    let root_path = finished.root.canonicalize().unwrap_or_else(|_| finished.root.to_owned());
    let cache = StatCache::load(request.store, &root_path);
    let options = IngestOptions { threads: request.threads, now: request.now };
    let (tree, cache) = ingest(staged, &writer, &cache, &options, request.progress)?;
    let mut extra = treefile.commit_metadata.clone();
    if !finished.list.packages.is_empty() {
        extra.insert(packages::KEY.to_owned(), finished.list.encode());
        extra.insert(ENGINE_KEY.to_owned(), treefile.engine.word().to_owned());
    }
    if !finished.inputs.is_empty() {
        extra.insert(inputs::KEY.to_owned(), finished.inputs);
    }
    extra.extend(finished.base.map(|base| (base::KEY.to_owned(), base.to_string())));
    extra.extend(layout.kernel.map(|kernel| (KERNEL_KEY.to_owned(), kernel)));
    let commit_request = CommitRequest {
        ref_name: treefile.ref_name.clone(),
        subject: request.subject.to_owned(),
        version,
        timestamp: finished.time,
        parent: CommitParent::Auto,
        // Committing the same given root twice makes no second commit; `--force` always makes one.
        skip_if_unchanged: request.from_root.is_some() && !request.force,
        extra,
    };
    let committed = commit_tree(&writer, &tree, &commit_request)?;
    if request.from_root.is_some()
        && let Err(error) = cache.save(request.store, &root_path)
    {
        tracing::warn!(%error, "cannot remember what was read; the next compose reads everything again");
    }
    Ok((committed, start.elapsed()))
}

/// Writes the files that describe the image into it: bill of materials, changelogs, owners of paths.
fn write_metadata(
    staged: &mut StagedTree,
    treefile: &Treefile,
    version: Option<&str>,
    finished: &FinishedRoot<'_>,
) -> Result<(), ComposeError> {
    if finished.list.packages.is_empty() {
        return Ok(());
    }
    let subject = SbomSubject {
        name: &treefile.distribution,
        version,
        distribution: &treefile.distribution,
        release: treefile.releasever.as_deref(),
        time: finished.time,
        inputs: &finished.inputs,
    };
    let edit = |error| ComposeError::Layout(LayoutError::Edit(error));
    staged.write(SBOM_FILE, render_sbom(subject, &finished.list), 0o644).map_err(edit)?;
    for (package, text) in &finished.file_owners.changelogs {
        staged.write(format!("{CHANGELOGS_DIRECTORY}/{package}"), text.as_bytes(), 0o644).map_err(edit)?;
    }
    let owners = OwnerIndex::build(staged, &finished.file_owners);
    staged.write(OWNERS_FILE, owners.encode(), 0o644).map_err(edit)
}

/// Returns the modification time of the youngest entry below a given root.
fn newest_mtime(root: &Path) -> Result<i64, ComposeError> {
    let staged = StagedTree::scan(root)?;
    let times = staged.descendants("/").into_iter().map(|(_, id)| staged.tree().node(id).metadata.mtime.seconds);
    Ok(times.max().unwrap_or(0))
}

/// Copies a given root before it is changed: the original belongs to another tool.
fn copy_root(request: &ComposeRequest<'_>, given: &Path) -> Result<PathBuf, ComposeError> {
    let root = request.work.join("root");
    request.runner.stage("copying the root");
    let mut command = std::process::Command::new("cp");
    command.args(["-a", "--reflink=auto", "--one-file-system"]).arg(given.join(".")).arg(&root);
    fs::create_dir_all(&root).map_err(|source| ComposeError::Io { action: "make", path: root.clone(), source })?;
    let copied = request.runner.run("copying the root", &mut command, Duration::from_secs(3600));
    copied.map_err(InstalledRootError::Process)?;
    Ok(root)
}
