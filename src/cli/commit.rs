//! The verb `sapwood commit`.
//!
//! *Not here*: reading the tree (`compose::source`) and writing the commit (`compose::commit_tree`).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::compose::selinux::FileContexts;
use crate::compose::source::{ImportOptions, ImportProgress, MountedImage, TarOptions, read_directory, read_tar};
use crate::compose::{CommitRequest, Committed, ParentChoice, commit_tree};
use crate::disk;
use crate::image::{Image, Tree};
use crate::model::{Commit, RefName};
use crate::mount::{registry, request_image};
use crate::store::{StatCache, StoreWriter};
use crate::sys::Mapping;

/// Store a directory or a tar archive as a commit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood commit --ref debian/12 /srv/root
  sapwood commit --ref debian/12 --version 12.8 --subject 'updates' /srv/root
  docker export c1 | sapwood commit --ref app --tar -
  SOURCE_DATE_EPOCH=0 sapwood commit --ref app --owner 0:0 ./root
      the same id on every machine

The commit id is the only thing on standard output. A file that did not change since the last commit of the same \
directory is not read again, where its times can be trusted: on ext4, XFS, Btrfs, F2FS and tmpfs (and overlays of them) \
that are mounted for writing. On other filesystems, such as images, networks and FUSE, every file is read.")]
pub(crate) struct Args {
    /// The ref that is to name the commit
    #[arg(long = "ref", value_name = "REF")]
    reference: RefName,

    /// One line about the commit
    #[arg(long, value_name = "TEXT", default_value = "")]
    subject: String,

    /// The version of the operating system
    #[arg(long, value_name = "TEXT")]
    version: Option<String>,

    /// Time of the commit in seconds since 1970, or as 2026-11-22T12:00:00Z (default: $SOURCE_DATE_EPOCH, else now)
    #[arg(long, value_name = "TIME")]
    timestamp: Option<String>,

    /// The parent: the commit that the ref names now (auto), no commit (none), or the commit with this id
    #[arg(long, value_name = "auto|none|ID", default_value = "auto")]
    parent: String,

    /// Give every entry its label from this file_contexts file, instead of the one it has
    #[arg(long, value_name = "FILE")]
    selinux_file_contexts: Option<PathBuf>,

    /// Record this owner and group (names or numbers) for everything
    #[arg(long, value_name = "USER:GROUP")]
    owner: Option<String>,

    /// Make no commit when the tree is the same as the parent's; print the parent's id
    #[arg(long)]
    skip_if_unchanged: bool,

    /// Do not descend into other filesystems mounted below DIR
    #[arg(long, short = 'x')]
    one_file_system: bool,

    /// Read every file, also one that looks unchanged since the last commit of the directory
    #[arg(long, conflicts_with = "tar")]
    no_cache: bool,

    /// Read this tar archive ('-': standard input), plain or compressed, instead of a directory
    #[arg(long, value_name = "FILE", conflicts_with_all = ["directory", "one_file_system"])]
    tar: Option<PathBuf>,

    /// The directory
    #[arg(value_name = "DIR", required_unless_present = "tar")]
    directory: Option<PathBuf>,

    /// Print JSON instead of the bare id
    #[arg(long)]
    json: bool,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let start = Instant::now();
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        Commit::check_text(&self.subject, self.version.as_deref())?;
        let timestamp = commit_time(self.timestamp.as_deref(), now)?;
        let owner = self.owner.as_deref().map(parse_owner).transpose()?;
        let contexts = self.selinux_file_contexts.as_deref().map(read_file_contexts).transpose()?;
        let store = repository::open(context)?;
        store.check_ref(&self.reference)?;
        let writer = store.writer(repository::wait_with_notice())?;
        let parent = match self.parent.as_str() {
            "auto" => ParentChoice::Auto,
            "none" => ParentChoice::None,
            spec => ParentChoice::Is(store.resolve(spec)?),
        };
        let progress = ImportProgress::default();
        let (mut tree, cache) =
            output::while_importing(&progress, || import_tree(self, &writer, owner, now, &progress))?;
        if let Some(contexts) = contexts {
            contexts.apply(&mut tree)?;
        }
        let request = CommitRequest {
            ref_name: self.reference.clone(),
            subject: self.subject.clone(),
            version: self.version.clone(),
            timestamp,
            parent,
            skip_if_unchanged: self.skip_if_unchanged,
            extra: std::collections::BTreeMap::new(),
        };
        let committed = commit_tree(&writer, &tree, &request)?;
        if let Some((root, cache)) = cache {
            // The commit exists already; without the cache only the next one is slower.
            if let Err(error) = cache.save(&store, &root) {
                tracing::warn!(%error, "cannot write the cache of file states; the next commit reads every file again");
            }
        }
        print_report(self, &committed, &writer, &progress, start)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads the tree that is to be committed. For a directory it also returns its full path and the new cache of file states.
fn import_tree(
    args: &Args,
    writer: &StoreWriter,
    owner: Option<(u32, u32)>,
    now: i64,
    progress: &ImportProgress,
) -> Result<(Tree, Option<(PathBuf, StatCache)>)> {
    match (&args.tar, &args.directory) {
        (Some(file), _) => Ok((import_tar(file, writer, owner, progress)?, None)),
        (None, Some(directory)) => {
            let options = ImportOptions {
                owner,
                one_filesystem: args.one_file_system,
                threads: std::thread::available_parallelism().map_or(1, usize::from),
                now,
                mounted: if args.no_cache { None } else { mounted_image(directory) },
            };
            let (tree, cache) = import_directory(directory, args, writer, &options, progress)?;
            Ok((tree, Some(cache)))
        }
        (None, None) => bail!("give a directory or --tar"),
    }
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

fn import_directory(
    directory: &Path,
    args: &Args,
    writer: &StoreWriter,
    options: &ImportOptions,
    progress: &ImportProgress,
) -> Result<(Tree, (PathBuf, StatCache))> {
    let root = directory.canonicalize().with_context(|| format!("cannot find {}", directory.display()))?;
    let old = if args.no_cache { StatCache::default() } else { StatCache::load(writer.store(), &root) };
    let imported = read_directory(directory, writer, &old, options, progress)?;
    Ok((imported.tree, (root, imported.cache)))
}

fn import_tar(file: &Path, writer: &StoreWriter, owner: Option<(u32, u32)>, progress: &ImportProgress) -> Result<Tree> {
    let reader: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(file).with_context(|| format!("cannot open {}", file.display()))?)
    };
    let options = TarOptions { owner };
    read_tar(reader, writer, options, progress).with_context(|| format!("cannot read the archive {}", file.display()))
}

fn print_report(
    args: &Args,
    committed: &Committed,
    writer: &StoreWriter,
    progress: &ImportProgress,
    start: Instant,
) -> Result<()> {
    let stats = writer.stats();
    if args.json {
        output::json(&json!({
            "id": committed.id, "commit": committed.commit, "unchanged": committed.unchanged,
            "new_objects": stats.new_objects, "new_bytes": stats.new_bytes, "known_objects": stats.known_objects,
            "bytes_read": progress.bytes_read(), "seconds": start.elapsed().as_secs_f64(),
        }))?;
    } else {
        output::line(committed.id)?;
    }
    let (entries, bytes) = (output::count(committed.commit.entries), output::size(committed.commit.content_bytes));
    let (objects, new) = (output::count(stats.new_objects), output::size(stats.new_bytes));
    let (read, time) = (output::size(progress.bytes_read()), output::duration(start.elapsed()));
    let what = if committed.unchanged { "unchanged, no new commit" } else { committed.commit.ref_name.as_str() };
    output::note(format_args!(
        "{what}: {entries} entries, {bytes}; read {read}, {objects} new objects ({new}), {time}"
    ));
    Ok(())
}

fn read_file_contexts(file: &Path) -> Result<FileContexts> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    FileContexts::parse(&text).with_context(|| format!("cannot use {}", file.display()))
}

/// Returns the time to record in the commit: `given`, else `$SOURCE_DATE_EPOCH` (for reproducible builds), else `now`.
fn commit_time(given: Option<&str>, now: i64) -> Result<i64> {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|text| !text.is_empty());
    let Some(text) = given.map(str::to_owned).or(epoch) else { return Ok(now) };
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let time: jiff::Timestamp = text
        .parse()
        .with_context(|| format!("'{text}' is not a time: give seconds since 1970 or 2026-11-22T12:00:00Z"))?;
    Ok(time.as_second())
}

/// Parses `USER:GROUP`, each a name that this machine knows or a number.
fn parse_owner(text: &str) -> Result<(u32, u32)> {
    let (user, group) = text.split_once(':').with_context(|| format!("'{text}' is not USER:GROUP"))?;
    let uid = match user.parse() {
        Ok(uid) => uid,
        Err(_) => disk::user_id(user)?.with_context(|| format!("no user '{user}' in /etc/passwd"))?,
    };
    let gid = match group.parse() {
        Ok(gid) => gid,
        Err(_) => disk::group_id(group)?.with_context(|| format!("no group '{group}' in /etc/group"))?,
    };
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_and_time_accept_names_and_numbers() {
        assert_eq!(parse_owner("0:4294967294").expect("legal"), (0, 4_294_967_294));
        assert_eq!(parse_owner("root:root").expect("legal"), (0, 0));
        assert!(parse_owner("root").is_err());
        assert_eq!(commit_time(Some("-5"), 9).expect("legal"), -5);
        assert_eq!(commit_time(Some("1970-01-01T00:01:00Z"), 9).expect("legal"), 60);
        assert!(commit_time(Some("yesterday"), 9).is_err());
    }
}
