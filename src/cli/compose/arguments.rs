//! The arguments of `sapwood compose`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::model::RefName;

/// Make a commit of packages: resolve, install, lay out, label, commit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood compose examples/debian-minimal.yaml
  sapwood compose --dry-run examples/debian-server.yaml      what would be installed, and what that changes
  sapwood compose --write-lock server.lock server.yaml       and later, for the same packages again:
  sapwood compose --lock server.lock server.yaml
  sapwood compose --unchanged-exit-77 server.yaml            in a timer: status 77 when there is nothing new
  sapwood compose --from-root /srv/root --ref os/stable      a root that debootstrap, mkosi or docker export made

The treefile has the keys of rpm-ostree's treefiles; 'distribution' says which packages are meant. Packages are installed
by apt (mmdebstrap) or dnf, with their keys. As an ordinary user this works where user namespaces are allowed and
/etc/subuid gives the user ids.

The commit id is the last line on standard output. Equal inputs give an equal id: the commit's time is that of its youngest
package, unless --timestamp or $SOURCE_DATE_EPOCH say otherwise. When the inputs are those of the commit before, that is
decided before anything is installed, and its id is printed.

Exit status: 0 done, 1 failed, 2 wrong usage, 77 unchanged (with --unchanged-exit-77).")]
pub struct Args {
    /// The treefile, YAML or JSON
    #[arg(value_name = "TREEFILE", required_unless_present = "from_root")]
    pub treefile: Option<PathBuf>,

    /// The ref that is to name the commit, instead of the treefile's
    #[arg(long = "ref", value_name = "REF")]
    pub reference: Option<RefName>,

    /// Only say what would be installed and what that changes
    #[arg(long)]
    pub dry_run: bool,

    /// Install exactly the packages that this file names
    #[arg(long, value_name = "FILE", conflicts_with = "from_root")]
    pub lock: Option<PathBuf>,

    /// Write the exact packages into this file
    #[arg(long, value_name = "FILE", conflicts_with = "from_root")]
    pub write_lock: Option<PathBuf>,

    /// End with status 77 when nothing changed
    #[arg(long)]
    pub unchanged_exit_77: bool,

    /// Make or touch this file when there is a new commit
    #[arg(long, value_name = "FILE")]
    pub touch_if_changed: Option<PathBuf>,

    /// Compose even when the inputs are those of the commit before
    #[arg(long)]
    pub force: bool,

    /// Take the root in DIR, which another tool made, instead of installing packages; DIR is not changed
    #[arg(long, value_name = "DIR")]
    pub from_root: Option<PathBuf>,

    /// One line about the commit
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub subject: String,

    /// Time of the commit in seconds since 1970, or as 2026-11-22T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub timestamp: Option<String>,

    /// Where packages and metadata are kept for the next time
    #[arg(long, value_name = "DIR")]
    pub cachedir: Option<PathBuf>,

    /// Where the root is built; it is removed afterwards
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,

    /// Leave the built root there
    #[arg(long)]
    pub keep_root: bool,

    /// Print JSON instead of the bare id
    #[arg(long)]
    pub json: bool,

    /// Used by the program itself
    #[arg(long, hide = true, value_name = "DIR")]
    pub worker: Option<PathBuf>,

    /// Used by the program itself
    #[arg(long, hide = true, value_name = "DIR")]
    pub worker_cache: Option<PathBuf>,
}

/// The time that is given, or that of the environment for reproducible builds; `None` when neither says one.
///
/// # Errors
/// When it is no time.
pub fn time(given: Option<&str>) -> Result<Option<i64>> {
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
