//! The verb `sapwood commit`.
//!
//! *Not here*: reading the trees (`sources`, `compose::source`) and writing the commit (`compose::commit_tree`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::compose::selinux::FileContexts;
use crate::compose::source::{Exclusions, ImportProgress, OciSource};
use crate::compose::{CommitRequest, Committed, ParentChoice, commit_tree};
use crate::disk;
use crate::model::{Commit, RefName};
use crate::store::StoreWriter;

mod sources;

use sources::{Imported, SourceOptions, TreeSource, WhiteoutRule, import};

/// Store directories or tar archives as a commit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood commit --ref debian/12 /srv/root
  sapwood commit --ref debian/12 --version 12.8 --subject 'updates' /srv/root
  docker export c1 | sapwood commit --ref app --tar -
  SOURCE_DATE_EPOCH=0 sapwood commit --ref app --owner 0:0 ./root
      the same first commit on every machine
  sapwood commit --ref app --oci oci-layout-or-archive
      a container image, as skopeo, podman save and docker save write it
  sapwood commit --ref app --exclude /var/cache/ --exclude '*.pyc' ./root
  sapwood commit --ref app --tree ref=debian/12 --tree dir=app --tree tar=c.tar
      later ones over earlier ones

Patterns of --exclude have the meaning that rsync gives them: /NAME is matched from the top, NAME anywhere, NAME/ only for \
directories; * does not match a slash, ** does. What is below a directory that is left out is left out, too.

Container images. --oci reads the layers of one, over each other, with their whiteouts; nothing is unpacked, and every digest is \
checked. From a registry: skopeo copy docker://IMAGE oci:DIR. What the image says about running it is kept as facts of the \
commit (oci.config; 'sapwood show --json'). Labels of SELinux in it are left out; --selinux-file-contexts gives new ones.

The commit id is the only thing on standard output. It covers the tree and what is said about it: parent, sequence, time, \
texts. The image id covers the tree alone, names, metadata and contents: equal trees have equal image ids, whatever their \
history, also where --parent none begins a new one under an existing ref, whose sequence goes on. --json has both, and \
--skip-if-unchanged compares image ids. A file that did not change since the last commit of the same \
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

    /// Make no commit when the tree (its image id) is the same as the parent's; print the parent's id
    #[arg(long)]
    skip_if_unchanged: bool,

    /// Do not descend into other filesystems mounted below DIR
    #[arg(long, short = 'x')]
    one_file_system: bool,

    /// Read every file, also one that looks unchanged since the last commit of the directory
    #[arg(long, conflicts_with = "tar")]
    no_cache: bool,

    /// Leave out what this pattern matches; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<OsString>,

    /// Leave out what the lines of this file match; empty ones and those with # or ; in front say nothing
    #[arg(long, value_name = "FILE")]
    exclude_from: Vec<PathBuf>,

    /// Read this tar archive ('-': standard input), plain or compressed, instead of a directory; several are laid over each
    /// other
    #[arg(long, value_name = "FILE", conflicts_with_all = ["directory", "one_file_system"])]
    tar: Vec<PathBuf>,

    /// Read this container image: a layout's directory, an archive of one, or what docker save wrote; with :NAME if it has several
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["directory", "one_file_system", "tar"])]
    oci: Option<String>,

    /// The architecture of container images that are for several: amd64, arm64, arm/v7 (default: this machine's)
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,

    /// Lay these over each other, later over earlier: dir=DIR, tar=FILE, oci=IMAGE or ref=SOURCE, also ref=SOURCE:/DIR
    #[arg(long, value_name = "KIND=SOURCE", conflicts_with_all = ["directory", "tar", "oci"])]
    tree: Vec<TreeSource>,

    /// What to do with entries named .wh.… in archives, which in layers of container images remove others
    #[arg(long, value_name = "refuse|verbatim", default_value = "refuse", hide_possible_values = true)]
    whiteouts: WhiteoutRule,

    /// The directory
    #[arg(value_name = "DIR", required_unless_present_any = ["tar", "tree", "oci"])]
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
        let options = SourceOptions {
            owner,
            one_filesystem: self.one_file_system,
            use_cache: !self.no_cache,
            now,
            exclusions: exclusions(&self.exclude, &self.exclude_from)?,
            whiteouts: self.whiteouts,
            architecture: self.arch.clone(),
        };
        let Imported { mut tree, caches, facts } =
            output::while_importing(&progress, || import(&self.sources(), &writer, &options, &progress))?;
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
            extra: facts,
        };
        let committed = commit_tree(&writer, &tree, &request)?;
        for (root, cache) in caches {
            // The commit exists already; without the cache only the next one is slower.
            if let Err(error) = cache.save(&store, &root) {
                tracing::warn!(%error, "cannot write the cache of file states; the next commit reads every file again");
            }
        }
        print_report(self, &committed, &writer, &progress, start)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Args {
    /// Returns what is to be committed, the lowest first.
    fn sources(&self) -> Vec<TreeSource> {
        let archives = self.tar.iter().cloned().map(TreeSource::Tar);
        self.directory
            .iter()
            .cloned()
            .map(TreeSource::Directory)
            .chain(archives)
            .chain(self.oci.as_deref().map(|text| TreeSource::Oci(OciSource::parse(text))))
            .chain(self.tree.iter().cloned())
            .collect()
    }
}

/// Returns what the arguments and the lines of files leave out.
fn exclusions(patterns: &[OsString], files: &[PathBuf]) -> Result<Exclusions> {
    let mut exclusions = Exclusions::default();
    patterns.iter().try_for_each(|pattern| exclusions.add(pattern.as_bytes()))?;
    for file in files {
        let cannot = || format!("cannot take the patterns in {}", file.display());
        let text = std::fs::read(file).with_context(cannot)?;
        let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut said = lines.filter(|line| !matches!(line, [] | [b'#' | b';', ..]));
        said.try_for_each(|line| exclusions.add(line)).with_context(cannot)?;
    }
    Ok(exclusions)
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
            "id": committed.id, "image": committed.commit.image, "commit": committed.commit, "unchanged": committed.unchanged,
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
    let midnight = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let time = text.parse::<jiff::Timestamp>().ok().or_else(|| Some(midnight()?.timestamp()));
    let time = time.with_context(|| {
        format!("'{text}' is not a time: give seconds since 1970, 2026-11-22T12:00:00Z, or 2026-11-22 for its midnight in UTC")
    })?;
    Ok(time.as_second())
}

/// Parses `USER:GROUP`, each a name that this machine knows or a number.
fn parse_owner(text: &str) -> Result<(u32, u32)> {
    let parts = text.split_once(':').filter(|(user, group)| !user.is_empty() && !group.is_empty());
    let (user, group) = parts.with_context(|| format!("'{text}' is not USER:GROUP: both are needed, as in 0:0"))?;
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
        for bad in ["root", "0", ":5", "5:", ""] {
            assert!(parse_owner(bad).is_err(), "{bad}");
        }
        assert_eq!(commit_time(Some("-5"), 9).expect("legal"), -5);
        assert_eq!(commit_time(Some("1970-01-01T00:01:00Z"), 9).expect("legal"), 60);
        assert_eq!(commit_time(Some("1970-01-02"), 9).expect("legal"), 86_400);
        assert!(commit_time(Some("yesterday"), 9).is_err());
    }
}
