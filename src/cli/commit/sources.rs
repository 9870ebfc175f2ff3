//! The trees that `sapwood commit` puts together: directories, archives and commits, each laid over those before it.
//!
//! *Not here*: reading one of them (`compose::source`).
//!
//! *Used by* `cli::commit`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use crate::cli::repository;
use crate::compose::source::{
    Exclusions, ImportOptions, ImportProgress, MountedImage, OciSource, TarOptions, Whiteouts, overlay, read_directory,
    read_oci, read_tar,
};
use crate::disk;
use crate::image::{Image, NodeId, Tree};
use crate::model::{FileKind, NodeKind};
use crate::mount::{registry, request_image};
use crate::source::{self, LastLink};
use crate::store::{StatCache, StoreWriter};
use crate::sys::Mapping;

/// One tree to commit.
#[derive(Debug, Clone)]
pub(super) enum TreeSource {
    Directory(PathBuf),
    /// An archive; `-` is standard input.
    Tar(PathBuf),
    /// A commit, or a directory of one.
    Commit(String),
    /// A container image.
    Oci(OciSource),
}

impl FromStr for TreeSource {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Directory(path.into())),
            Some(("tar", path)) if !path.is_empty() => Ok(Self::Tar(path.into())),
            Some(("ref", source)) if !source.is_empty() => Ok(Self::Commit(source.to_owned())),
            Some(("oci", source)) if !source.is_empty() => Ok(Self::Oci(OciSource::parse(source))),
            _ => bail!("give dir=DIR, tar=FILE, oci=IMAGE or ref=SOURCE"),
        }
    }
}

/// The value of `--whiteouts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum WhiteoutRule {
    Refuse,
    Verbatim,
}

/// How all of the trees are read.
pub(super) struct SourceOptions {
    pub(super) owner: Option<(u32, u32)>,
    pub(super) one_filesystem: bool,
    /// Whether files of directories that look unchanged are not read.
    pub(super) use_cache: bool,
    pub(super) now: i64,
    pub(super) exclusions: Exclusions,
    pub(super) whiteouts: WhiteoutRule,
    /// The architecture of container images; that of this machine unless given.
    pub(super) architecture: Option<String>,
}

/// What was read.
pub(super) struct Imported {
    pub(super) tree: Tree,
    pub(super) caches: NewCaches,
    /// What is said about a container image.
    pub(super) facts: BTreeMap<String, String>,
}

/// The full paths of the directories that were read, with their new caches of file states.
pub(super) type NewCaches = Vec<(PathBuf, StatCache)>;

/// Reads all sources and lays each over those before it.
pub(super) fn import(
    sources: &[TreeSource],
    writer: &StoreWriter,
    options: &SourceOptions,
    progress: &ImportProgress,
) -> Result<Imported> {
    let (mut whole, mut caches, mut facts) = (None, Vec::new(), BTreeMap::new());
    for source in sources {
        whole = Some(match source {
            TreeSource::Directory(directory) => {
                let (tree, root, cache) = import_directory(directory, writer, options, progress)?;
                caches.push((root, cache));
                let top = tree.root();
                lay_over(whole, tree, top, directory)?
            }
            // The archive is read over the earlier tree, whose directories it need not name and whose files it may link to.
            TreeSource::Tar(file) => import_tar(file, whole, writer, options, progress)?,
            TreeSource::Oci(source) => {
                let over = TarOptions { lower: whole, ..tar_options(options) };
                let image = read_oci(source, options.architecture.as_deref(), writer, &over, progress)?;
                facts.extend(image.facts);
                image.tree
            }
            TreeSource::Commit(source) => {
                let (mut tree, top) = commit_tree(source, writer)?;
                restrict(&mut tree, top, options);
                lay_over(whole, tree, top, Path::new(source))?
            }
        });
    }
    Ok(Imported { tree: whole.context("give a directory, --tar, --oci or --tree")?, caches, facts })
}

/// Lays the directory `top` of a tree over an earlier tree.
fn lay_over(lower: Option<Tree>, upper: Tree, top: NodeId, name: &Path) -> Result<Tree> {
    if lower.is_none() && top == upper.root() {
        return Ok(upper);
    }
    let mut lower = lower.unwrap_or_else(|| Tree::new(upper.node(top).metadata.clone()));
    overlay(&mut lower, &upper, top)
        .with_context(|| format!("cannot lay {} over what is before it", name.display()))?;
    Ok(lower)
}

/// Returns the tree of a commit that is here as a whole, and the directory in it that `source` names.
fn commit_tree(source: &str, writer: &StoreWriter) -> Result<(Tree, NodeId)> {
    let store = writer.store();
    let found = source::locate(store, source, LastLink::Followed, repository::wait_with_notice())?;
    if store.is_lazy(found.id) {
        bail!("of the commit {} only a part is here; 'sapwood pull' fetches the rest", found.id.short());
    }
    if found.image.attributes(found.ino)?.kind != FileKind::Directory {
        bail!("{source} is not a directory");
    }
    let tree = found.image.tree()?;
    let top = tree.resolve(&found.path).with_context(|| format!("there is no {} in {source}", found.path))?;
    Ok((tree, top))
}

/// Removes from the directory `top` of a tree what is left out, and gives everything else the owner of the options.
fn restrict(tree: &mut Tree, top: NodeId, options: &SourceOptions) {
    let mut pending = vec![(top, Vec::new())];
    while let Some((node, path)) = pending.pop() {
        if let Some((uid, gid)) = options.owner {
            let metadata = &mut tree.node_mut(node).metadata;
            (metadata.uid, metadata.gid) = (uid, gid);
        }
        let children: Vec<_> = tree.children(node).map(|(name, child)| (name.clone(), child)).collect();
        for (name, child) in children {
            let path = [&path[..], b"/", name.as_bytes()].concat();
            if options.exclusions.contain(&path, tree.node(child).kind == NodeKind::Directory) {
                tree.remove(node, &name);
            } else {
                pending.push((child, path));
            }
        }
    }
}

fn import_directory(
    directory: &Path,
    writer: &StoreWriter,
    options: &SourceOptions,
    progress: &ImportProgress,
) -> Result<(Tree, PathBuf, StatCache)> {
    let root = directory.canonicalize().with_context(|| format!("cannot find {}", directory.display()))?;
    let old = if options.use_cache { StatCache::load(writer.store(), &root) } else { StatCache::default() };
    let import_options = ImportOptions {
        owner: options.owner,
        one_filesystem: options.one_filesystem,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        now: options.now,
        exclusions: options.exclusions.clone(),
        mounted: if options.use_cache { mounted_image(directory) } else { None },
    };
    let imported = read_directory(directory, writer, &old, &import_options, progress)?;
    Ok((imported.tree, root, imported.cache))
}

/// Returns the image of the mount on which `directory` lies, if it is a mount of Sapwood that this user made and whose image is
/// complete. Returns `None` for other filesystems, and when the image cannot be obtained: the files are read then.
fn mounted_image(directory: &Path) -> Option<MountedImage> {
    let stat = disk::stat_of(disk::open_directory(directory).ok()?).ok()?;
    let device = format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor);
    let registry = registry();
    let mount = registry.list().ok()?.into_iter().find(|mount| mount.device == device)?;
    let file = request_image(&registry.exchange_socket_path(&mount.name)).inspect_err(|error| {
        tracing::debug!("{}: cannot get its image, so its files are read: {error}", mount.mountpoint);
    });
    let image = Image::open(Mapping::of_file(&File::from(file.ok()??)).ok()?).ok()?;
    image.verify().ok()?;
    Some(MountedImage { image, device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor) })
}

fn tar_options(options: &SourceOptions) -> TarOptions {
    TarOptions {
        owner: options.owner,
        exclusions: options.exclusions.clone(),
        whiteouts: match options.whiteouts {
            WhiteoutRule::Refuse => Whiteouts::Refuse,
            WhiteoutRule::Verbatim => Whiteouts::Verbatim,
        },
        lower: None,
    }
}

fn import_tar(
    file: &Path,
    lower: Option<Tree>,
    writer: &StoreWriter,
    options: &SourceOptions,
    progress: &ImportProgress,
) -> Result<Tree> {
    let reader: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(file).with_context(|| format!("cannot open {}", file.display()))?)
    };
    let options = TarOptions { lower, ..tar_options(options) };
    read_tar(reader, writer, options, progress).with_context(|| format!("cannot read the archive {}", file.display()))
}
