//! `sapwood commit`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{Context, mount, output, repository};
use crate::compose::selinux::FileContexts;
use crate::compose::source::{DirectoryOptions, MountedImage, Progress, TarOptions, read_directory, read_tar};
use crate::compose::{CommitRequest, Committed, Parent, commit_tree};
use crate::disk;
use crate::fuse::shown_image;
use crate::image::{Image, Tree};
use crate::model::{Commit, RefName};
use crate::store::{StatCache, StoreWriter};
use crate::sys::Mapping;

/// Store a directory or a tar archive as a commit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood commit --ref debian/12 /srv/root
  sapwood commit --ref debian/12 --version 12.8 --subject 'security updates' /srv/root
  docker export c1 | sapwood commit --ref app --tar -
  SOURCE_DATE_EPOCH=0 sapwood commit --ref app --owner 0:0 ./root    the same id on every machine

The commit id is the only thing on standard output. A file that did not change since the last commit of the same
directory is not read again, where its times can be trusted: on ext4, XFS, Btrfs, F2FS and tmpfs (and overlays of them)
that are mounted for writing. On other filesystems, such as images, networks and FUSE, every file is read.")]
pub struct Args {
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

    /// The commit before: what the ref names now (auto), nothing (none), or a commit
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

/// Runs the verb.
///
/// # Errors
/// When the tree cannot be read or stored; the ref is then as it was.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let start = Instant::now();
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    Commit::check_text(&args.subject, args.version.as_deref())?;
    let timestamp = timestamp(args.timestamp.as_deref(), now)?;
    let owner = args.owner.as_deref().map(owner).transpose()?;
    let contexts = args.selinux_file_contexts.as_deref().map(contexts).transpose()?;
    let store = repository::open(context)?;
    store.check_ref(&args.reference)?;
    let writer = store.writer(repository::announced())?;
    let parent = match args.parent.as_str() {
        "auto" => Parent::Auto,
        "none" => Parent::None,
        spec => Parent::Is(store.resolve(spec)?),
    };
    let progress = Progress::default();
    let (mut tree, cache) = output::while_importing(&progress, || import(args, &writer, owner, now, &progress))?;
    if let Some(contexts) = contexts {
        contexts.apply(&mut tree)?;
    }
    let request = CommitRequest {
        ref_name: args.reference.clone(),
        subject: args.subject.clone(),
        version: args.version.clone(),
        timestamp,
        parent,
        skip_if_unchanged: args.skip_if_unchanged,
        extra: std::collections::BTreeMap::new(),
    };
    let committed = commit_tree(&writer, &tree, &request)?;
    if let Some((root, cache)) = cache {
        // The commit is made; without the cache the next one is slower.
        if let Err(error) = cache.save(&store, &root) {
            tracing::warn!(%error, "cannot remember what was read; the next commit reads everything again");
        }
    }
    report(args, &committed, &writer, &progress, start)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads what is to be committed; for a directory also what to remember of it, and its full path.
fn import(
    args: &Args,
    writer: &StoreWriter,
    owner: Option<(u32, u32)>,
    now: i64,
    progress: &Progress,
) -> Result<(Tree, Option<(PathBuf, StatCache)>)> {
    match (&args.tar, &args.directory) {
        (Some(file), _) => Ok((from_tar(file, writer, owner, progress)?, None)),
        (None, Some(directory)) => {
            let options = DirectoryOptions {
                owner,
                one_filesystem: args.one_file_system,
                threads: std::thread::available_parallelism().map_or(1, usize::from),
                now,
                mounted: if args.no_cache { None } else { mounted_image(directory) },
            };
            let (tree, cache) = from_directory(directory, args, writer, &options, progress)?;
            Ok((tree, Some(cache)))
        }
        (None, None) => bail!("give a directory or --tar"),
    }
}

/// Returns the image of the mount of this user that `directory` lies on, if it is one of ours, all of which is here. Nothing is
/// asked of other filesystems, and what cannot be found out is read.
fn mounted_image(directory: &Path) -> Option<MountedImage> {
    let stat = disk::stat_of(disk::open_directory(directory).ok()?).ok()?;
    let device = format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor);
    let registry = mount::registry();
    let there = registry.list().ok()?.into_iter().find(|mount| mount.device == device)?;
    let file = shown_image(&registry.orders_socket(&there.name)).inspect_err(|error| {
        tracing::debug!("{}: its image cannot be asked for, so files are read: {error}", there.mountpoint);
    });
    let image = Image::open(Mapping::of_file(&File::from(file.ok()??)).ok()?).ok()?;
    image.verify().ok()?;
    Some(MountedImage { image, device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor) })
}

fn from_directory(
    directory: &Path,
    args: &Args,
    writer: &StoreWriter,
    options: &DirectoryOptions,
    progress: &Progress,
) -> Result<(Tree, (PathBuf, StatCache))> {
    let root = directory.canonicalize().with_context(|| format!("cannot find {}", directory.display()))?;
    let old = if args.no_cache { StatCache::default() } else { StatCache::load(writer.store(), &root) };
    let imported = read_directory(directory, writer, &old, options, progress)?;
    Ok((imported.tree, (root, imported.cache)))
}

fn from_tar(file: &Path, writer: &StoreWriter, owner: Option<(u32, u32)>, progress: &Progress) -> Result<Tree> {
    let reader: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(file).with_context(|| format!("cannot open {}", file.display()))?)
    };
    let options = TarOptions { owner };
    read_tar(reader, writer, options, progress).with_context(|| format!("cannot read the archive {}", file.display()))
}

fn report(args: &Args, committed: &Committed, writer: &StoreWriter, progress: &Progress, start: Instant) -> Result<()> {
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

fn contexts(file: &Path) -> Result<FileContexts> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    FileContexts::parse(&text).with_context(|| format!("cannot use {}", file.display()))
}

/// The time to record: given, or from the environment for reproducible builds, or now.
fn timestamp(given: Option<&str>, now: i64) -> Result<i64> {
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

/// Reads `USER:GROUP`, names of this machine or numbers.
fn owner(text: &str) -> Result<(u32, u32)> {
    let (user, group) = text.split_once(':').with_context(|| format!("'{text}' is not USER:GROUP"))?;
    let uid = match user.parse() {
        Ok(uid) => uid,
        Err(_) => nix::unistd::User::from_name(user)?.with_context(|| format!("no user '{user}'"))?.uid.as_raw(),
    };
    let gid = match group.parse() {
        Ok(gid) => gid,
        Err(_) => nix::unistd::Group::from_name(group)?.with_context(|| format!("no group '{group}'"))?.gid.as_raw(),
    };
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_times_are_names_or_numbers() {
        assert_eq!(owner("0:4294967294").expect("legal"), (0, 4_294_967_294));
        assert_eq!(owner("root:root").expect("legal"), (0, 0));
        assert!(owner("root").is_err());
        assert_eq!(timestamp(Some("-5"), 9).expect("legal"), -5);
        assert_eq!(timestamp(Some("1970-01-01T00:01:00Z"), 9).expect("legal"), 60);
        assert!(timestamp(Some("yesterday"), 9).is_err());
    }
}
