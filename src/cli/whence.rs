//! The verb `sapwood whence`, which says which packages own a path.
//!
//! *Not here*: reading the commit, see `source`; the table of owners, see `compose::metadata`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::trust_args::TrustArgs;
use super::{db, output, repository};
use crate::cli::context::{Context, Run};
use crate::compose::metadata::{OWNERS_FILE, OwnerIndex};
use crate::model::ImagePath;

/// The largest number of packages that are printed for a path; if there are more, only their number is printed. JSON has all.
const MAX_PACKAGES_NAMED: usize = 8;

/// Say which packages of a commit a path belongs to
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood whence debian/12 /usr/bin/ls
  sapwood whence debian/12 /etc/ssh/sshd_config
      as a machine sees it, or as /usr/etc/ssh/sshd_config
  sapwood whence os:stable /usr/lib/systemd
      for a directory: the packages with files in it

A path that no package owns was made while the commit was composed.")]
pub(crate) struct Args {
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

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let commit = repository::open_commit(&self.source, &self.trust, context)?;
        let list = db::packages_of(&commit, &self.source)?;
        let bytes = commit
            .read_file(OWNERS_FILE)?
            .with_context(|| format!("{} does not say which package owns which file", self.source))?;
        let owners = OwnerIndex::decode(&bytes)?;
        let mut answers = Vec::new();
        for text in &self.paths {
            let path = ImagePath::parse(text.as_bytes())?.to_bytes();
            let places = crate::compose::metadata::candidate_paths(&path);
            let existing = places.iter().find(|place| commit.contains(place).unwrap_or(false));
            let found = owners.owners(existing.unwrap_or(&path));
            if existing.is_none() && !path.starts_with(b"/var/") {
                bail!("there is no {text} in {}", self.source);
            }
            let packages: Vec<_> =
                list.packages.iter().filter(|package| found.contains(&package.name.as_str())).collect();
            if self.json {
                answers.push(json!({ "path": text, "packages": packages }));
            } else if packages.is_empty() {
                output::line(format_args!("{text}: no package; made while composing"))?;
            } else if packages.len() > MAX_PACKAGES_NAMED {
                output::line(format_args!("{text}: {} packages", packages.len()))?;
            } else {
                let words =
                    packages.iter().map(|package| format!("{} {} ({})", package.name, package.version, package.arch));
                output::line(format_args!("{text}: {}", words.collect::<Vec<_>>().join(", ")))?;
            }
        }
        if self.json {
            output::json(&answers)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
