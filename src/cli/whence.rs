//! `sapwood whence`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::described::Described;
use super::remote_source::TrustArgs;
use super::{Context, output};
use crate::compose::metadata::{OWNERS, Owners};
use crate::model::ImagePath;

/// Packages that are named; of a directory of many only their number is told. JSON names all.
const NAMED: usize = 8;

/// Say which packages of a commit a path belongs to
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood whence debian/12 /usr/bin/ls
  sapwood whence debian/12 /etc/ssh/sshd_config     as a machine sees it, or as /usr/etc/ssh/sshd_config
  sapwood whence os:stable /usr/lib/systemd         for a directory: who has something in it

A path that no package owns was made while the commit was composed.")]
pub struct Args {
    /// A commit, REMOTE:REF or URL#REF
    source: String,

    /// Paths in it
    #[arg(required = true)]
    paths: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    trust: TrustArgs,
}

/// Runs the verb.
///
/// # Errors
/// When there is no such commit or path, or the commit does not say what it was made of.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let commit = Described::find(&args.source, &args.trust, context)?;
    let list = commit.packages()?;
    let bytes =
        commit.read(OWNERS)?.with_context(|| format!("{} does not say which package owns which file", args.source))?;
    let owners = Owners::decode(&bytes)?;
    let mut answers = Vec::new();
    for text in &args.paths {
        let path = ImagePath::parse(text.as_bytes())?.to_bytes();
        let places = crate::compose::metadata::places(&path);
        let existing = places.iter().find(|place| commit.has(place).unwrap_or(false));
        let found = existing.map(|place| owners.owners(place)).unwrap_or_default();
        if existing.is_none() && !path.starts_with(b"/var/") {
            bail!("there is no {text} in {}", args.source);
        }
        let packages: Vec<_> = list.packages.iter().filter(|package| found.contains(&package.name.as_str())).collect();
        if args.json {
            answers.push(json!({ "path": text, "packages": packages }));
        } else if packages.is_empty() {
            output::line(format_args!("{text}: no package; made while composing"))?;
        } else if packages.len() > NAMED {
            output::line(format_args!("{text}: {} packages", packages.len()))?;
        } else {
            let words =
                packages.iter().map(|package| format!("{} {} ({})", package.name, package.version, package.arch));
            output::line(format_args!("{text}: {}", words.collect::<Vec<_>>().join(", ")))?;
        }
    }
    if args.json {
        output::json(&answers)?;
    }
    Ok(ExitCode::SUCCESS)
}
