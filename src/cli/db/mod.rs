//! The verb `sapwood db`, which lists and compares the packages of commits.
//!
//! *Not here*: reading the commit, see `source`; comparing the lists, see `compose::packages`. Its part `changelog`
//! reads changelogs. `describe_change` is also *used by* `compose::show`.

mod changelog;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::trust_args::TrustArgs;
use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::compose::packages::{self, PackageChange, PackageList, diff};
use crate::source::CommitReader;

/// Show the packages of commits, and how they differ
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood db list debian/12
  sapwood db diff debian/12^ debian/12
      what the last commit changed
  sapwood db diff --changelogs debian/12^ debian/12
  sapwood db diff os:stable os:testing
      two refs of a remote; no content is fetched

The list is in the commit. Only --changelogs reads files of the newer commit: those of the packages that changed.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the packages of a commit
    List {
        /// A commit, REMOTE:REF or URL#REF
        source: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        trust: TrustArgs,
    },
    /// Show what was added, removed, upgraded, downgraded
    Diff {
        /// The older commit
        a: String,
        /// The newer commit
        b: String,
        /// Also what the changelogs of upgraded packages say
        #[arg(long)]
        changelogs: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        trust: TrustArgs,
    },
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        match &self.action {
            Action::List { source, json, trust } => {
                let commit = repository::open_commit(source, trust, context)?;
                print_packages(&packages_of(&commit, source)?, *json)?
            }
            Action::Diff { a, b, changelogs, json, trust } => {
                let open = |source: &str| repository::open_commit(source, trust, context);
                let (old, new) = (open(a)?, open(b)?);
                let (old_packages, new_packages) = (packages_of(&old, a)?, packages_of(&new, b)?);
                let changes = diff(&old_packages, &new_packages);
                let entries =
                    if *changelogs { changelog::new_entries(&new, new_packages.format, &changes)? } else { Vec::new() };
                print_changes(&changes, &entries, *json)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the list of packages in the record of the commit that `name` names.
///
/// # Errors
/// When the record has no such list, or it cannot be decoded.
pub(crate) fn packages_of(commit: &CommitReader, name: &str) -> Result<PackageList> {
    match commit.commit().extra.get(packages::KEY) {
        Some(text) => Ok(PackageList::decode(text).with_context(|| name.to_owned())?),
        None => bail!("{name} does not say what it was made of: it was not made by 'sapwood compose'"),
    }
}

fn print_packages(list: &PackageList, as_json: bool) -> Result<()> {
    if as_json {
        return Ok(output::json(list)?);
    }
    let row = |package: &crate::compose::packages::Package| {
        vec![package.name.clone(), package.version.clone(), package.arch.clone(), package.source.clone()]
    };
    let rows: Vec<_> = list.packages.iter().map(row).collect();
    Ok(output::table(&["NAME", "VERSION", "ARCH", "SOURCE"], &[], &rows)?)
}

fn print_changes(changes: &[PackageChange], entries: &[changelog::ChangelogEntries], as_json: bool) -> Result<()> {
    let of = |change: &PackageChange| entries.iter().find(|entries| entries.package == change.name());
    if as_json {
        let value = |change: &PackageChange| -> Result<serde_json::Value> {
            let mut value = serde_json::to_value(change).context("cannot write JSON")?;
            if let Some(entries) = of(change) {
                value["changelog"] = json!(entries.text);
            }
            Ok(value)
        };
        return Ok(output::json(&changes.iter().map(value).collect::<Result<Vec<_>>>()?)?);
    }
    for change in changes {
        output::line(describe_change(change))?;
        if let Some(entries) = of(change) {
            for line in entries.text.lines() {
                output::line(format_args!("    {line}").to_string().trim_end())?;
            }
        }
    }
    if changes.is_empty() {
        output::note("the same packages");
    }
    Ok(())
}

/// Describes a change in one line.
pub(crate) fn describe_change(change: &PackageChange) -> String {
    match change {
        PackageChange::Added { package } => format!("+ {} {} ({})", package.name, package.version, package.arch),
        PackageChange::Removed { package } => format!("- {} {} ({})", package.name, package.version, package.arch),
        PackageChange::Upgraded { old, new } => format!("^ {} {} -> {}", new.name, old.version, new.version),
        PackageChange::Downgraded { old, new } => format!("v {} {} -> {}", new.name, old.version, new.version),
        PackageChange::Rebuilt { new, .. } => format!("! {} {} with another content", new.name, new.version),
    }
}
