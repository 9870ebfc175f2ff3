//! The arguments of `sapwood compose`. *Used by* `compose::mod` and `compose::show`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::model::RefName;

/// Make a commit of packages: resolve, install, lay out, label, commit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood compose examples/debian-minimal.yaml
  sapwood compose --dry-run examples/debian-server.yaml
      what would be installed, and what that changes
  sapwood compose --check server.yaml
      whether the treefile and what it includes can be used; asks no mirror
  sapwood compose --write-lock server.lock server.yaml
      and later, for the same packages again:
  sapwood compose --lock server.lock server.yaml
  sapwood compose --unchanged-exit-77 server.yaml
      in a timer: status 77 when there is nothing new
  sapwood compose --from-root /srv/root --ref os/stable
      a root that debootstrap, mkosi or docker export made

The treefile has the keys of rpm-ostree's treefiles; 'distribution' says which packages are meant. Packages are installed \
by apt (mmdebstrap) or dnf, with their keys. As an ordinary user this works where user namespaces are allowed and \
/etc/subuid gives the user ids.

The commit id is the last line on standard output. Equal inputs give an equal id: the commit's time is that of its youngest \
package, unless --timestamp or $SOURCE_DATE_EPOCH say otherwise. When the inputs are those of the commit before, that is \
decided before anything is installed, and its id is printed.

Exit status: 0 done, 1 failed, 2 wrong usage, 77 unchanged (with --unchanged-exit-77).")]
pub(crate) struct Args {
    /// The treefile, YAML or JSON
    #[arg(value_name = "TREEFILE", required_unless_present = "from_root")]
    pub(crate) treefile: Option<PathBuf>,

    /// The ref that is to name the commit, instead of the treefile's
    #[arg(long = "ref", value_name = "REF")]
    pub(crate) reference: Option<RefName>,

    /// Only say what would be installed and what that changes
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Only read the treefile and what it includes, and tell all problems; needs neither repository nor network
    #[arg(long, conflicts_with_all = ["dry_run", "from_root", "json", "lock", "write_lock"])]
    pub(crate) check: bool,

    /// Fetch nothing: use the package lists and files that an earlier compose left in the cache
    #[arg(long, conflicts_with = "from_root")]
    pub(crate) offline: bool,

    /// Install exactly the packages that this file names
    #[arg(long, value_name = "FILE", conflicts_with = "from_root")]
    pub(crate) lock: Option<PathBuf>,

    /// Write the exact packages into this file
    #[arg(long, value_name = "FILE", conflicts_with = "from_root")]
    pub(crate) write_lock: Option<PathBuf>,

    /// End with status 77 when nothing changed
    #[arg(long)]
    pub(crate) unchanged_exit_77: bool,

    /// Make or touch this file when there is a new commit
    #[arg(long, value_name = "FILE")]
    pub(crate) touch_if_changed: Option<PathBuf>,

    /// Compose even when the inputs are those of the commit before
    #[arg(long)]
    pub(crate) force: bool,

    /// Take the root in DIR, which another tool made, instead of installing packages; DIR is not changed
    #[arg(long, value_name = "DIR")]
    pub(crate) from_root: Option<PathBuf>,

    /// One line about the commit
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) subject: String,

    /// Time of the commit in seconds since 1970, or as 2026-11-22T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) timestamp: Option<String>,

    /// The directory that keeps downloaded packages and metadata for the next compose
    #[arg(long, value_name = "DIR")]
    pub(crate) cachedir: Option<PathBuf>,

    /// The directory in which the root is built; the root is removed afterwards
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,

    /// Do not remove the built root
    #[arg(long)]
    pub(crate) keep_root: bool,

    /// Print JSON instead of the bare id
    #[arg(long)]
    pub(crate) json: bool,

    /// Work in this directory, as the worker process; used by the program itself
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) worker: Option<PathBuf>,

    /// The cache directory of the worker process; used by the program itself
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) worker_cache: Option<PathBuf>,
}

/// Returns the time to record in the commit: `given`, else `$SOURCE_DATE_EPOCH` (for reproducible builds), else `None`.
///
/// # Errors
/// When the text is not a time.
pub(crate) fn commit_time(given: Option<&str>) -> Result<Option<i64>> {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|text| !text.is_empty());
    let Some(text) = given.map(str::to_owned).or(epoch) else { return Ok(None) };
    if let Ok(seconds) = text.parse() {
        return Ok(Some(seconds));
    }
    let time: jiff::Timestamp = text
        .parse()
        .with_context(|| format!("'{text}' is not a time: give seconds since 1970 or 2026-11-22T12:00:00Z"))?;
    Ok(Some(time.as_second()))
}
