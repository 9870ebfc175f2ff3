//! `sapwood db`.

mod changelog;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::json;

use super::described::Described;
use super::remote_source::TrustArgs;
use super::{Context, output};
use crate::compose::packages::{Change, PackageList, diff};

/// Show the packages of commits, and how they differ
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood db list debian/12
  sapwood db diff debian/12^ debian/12              what the last commit changed
  sapwood db diff --changelogs debian/12^ debian/12
  sapwood db diff os:stable os:testing              two refs of a remote; no content is fetched

The list is in the commit. Only --changelogs reads files of the newer commit: those of the packages that changed.")]
pub struct Args {
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

/// Runs the verb.
///
/// # Errors
/// When a commit cannot be found or does not say what it was made of.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    match &args.action {
        Action::List { source, json, trust } => list(&Described::find(source, trust, context)?.packages()?, *json)?,
        Action::Diff { a, b, changelogs, json, trust } => {
            let (old, new) = (Described::find(a, trust, context)?, Described::find(b, trust, context)?);
            let changes = diff(&old.packages()?, &new.packages()?);
            let entries = if *changelogs { changelog::entries(&new, &changes)? } else { Vec::new() };
            show(&changes, &entries, *json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(list: &PackageList, as_json: bool) -> Result<()> {
    if as_json {
        return Ok(output::json(list)?);
    }
    let row = |package: &crate::compose::packages::Package| {
        vec![package.name.clone(), package.version.clone(), package.arch.clone(), package.source.clone()]
    };
    let rows: Vec<_> = list.packages.iter().map(row).collect();
    Ok(output::table(&["NAME", "VERSION", "ARCH", "SOURCE"], &[], &rows)?)
}

fn show(changes: &[Change], entries: &[changelog::Entries], as_json: bool) -> Result<()> {
    let of = |change: &Change| entries.iter().find(|entries| entries.package == change.name());
    if as_json {
        let value = |change: &Change| -> Result<serde_json::Value> {
            let mut value = serde_json::to_value(change).context("cannot write JSON")?;
            if let Some(entries) = of(change) {
                value["changelog"] = json!(entries.text);
            }
            Ok(value)
        };
        return Ok(output::json(&changes.iter().map(value).collect::<Result<Vec<_>>>()?)?);
    }
    for change in changes {
        output::line(words(change))?;
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

/// A change in a line.
#[must_use]
pub fn words(change: &Change) -> String {
    match change {
        Change::Added { package } => format!("+ {} {} ({})", package.name, package.version, package.arch),
        Change::Removed { package } => format!("- {} {} ({})", package.name, package.version, package.arch),
        Change::Upgraded { old, new } => format!("^ {} {} -> {}", new.name, old.version, new.version),
        Change::Downgraded { old, new } => format!("v {} {} -> {}", new.name, old.version, new.version),
        Change::Rebuilt { new, .. } => format!("! {} {} with another content", new.name, new.version),
    }
}
