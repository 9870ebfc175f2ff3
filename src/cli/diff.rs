//! The verb `sapwood diff`.
//!
//! *Not here*: the comparison itself, see `image::diff`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::image::{Aspect, Change, ChangeKind, Image, Ino, diff};
use crate::model::FileKind;
use crate::source::{self, LastLink};

/// Show what differs between two commits
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood diff debian/12                      what the last commit changed
  sapwood diff debian/12~3 debian/12          what the last three changed
  sapwood diff --stat debian/11 debian/12     only the sums

Each line is A (added), D (removed) or M (changed, with what: content, mode, owner, mtime, xattrs, …) and a path.")]
pub(crate) struct Args {
    /// The older commit; if it is the only one, it is compared with its parent
    a: OsString,

    /// The newer commit
    b: Option<OsString>,

    /// Leave out what differs in modification times only
    #[arg(long)]
    no_mtime: bool,

    /// Print only how many paths and bytes
    #[arg(long)]
    stat: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The numbers that `--stat` prints.
#[derive(Debug, Default, serde::Serialize)]
struct DiffSummary {
    added: u64,
    removed: u64,
    modified: u64,
    /// The bytes of the changed regular files of the older commit; a file counts once for each of its paths.
    old_bytes: u64,
    new_bytes: u64,
    /// The bytes of the objects that the older commit does not have at any path.
    new_content_bytes: u64,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let store = repository::open(context)?;
        let locate =
            |source: &OsStr| source::locate(&store, source, LastLink::Followed, repository::wait_with_notice());
        let (old, new) = match &self.b {
            Some(newer) => (locate(&self.a)?, locate(newer)?),
            None => {
                let mut parent = self.a.clone();
                parent.push("^");
                (locate(&parent)?, locate(&self.a)?)
            }
        };
        let mut changes = Vec::new();
        diff(&old.image, &new.image, &mut |change| changes.extend(self.wanted(change)))?;
        if self.stat {
            let summary = summarise(&old.image, &new.image, &changes)?;
            return print_summary(&summary, self.json);
        }
        if self.json {
            let values: Vec<_> = changes.iter().map(change_json).collect();
            output::json(&values)?;
            return Ok(ExitCode::SUCCESS);
        }
        for change in &changes {
            let what = match change.kind {
                ChangeKind::Modified(aspects) => format!("  ({aspects})"),
                ChangeKind::Added | ChangeKind::Removed => String::new(),
            };
            output::line(format_args!("{} {}{what}", change.kind.letter(), change.path))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Args {
    /// Returns the change without what is to be left out; `None` if nothing remains.
    fn wanted(&self, change: Change) -> Option<Change> {
        match change.kind {
            ChangeKind::Modified(aspects) if self.no_mtime => {
                let rest = aspects.without(Aspect::Mtime);
                (!rest.is_empty()).then_some(Change { kind: ChangeKind::Modified(rest), ..change })
            }
            _ => Some(change),
        }
    }
}

fn change_json(change: &Change) -> serde_json::Value {
    let aspects: Vec<&str> = match change.kind {
        ChangeKind::Modified(aspects) => aspects.iter().map(Aspect::word).collect(),
        ChangeKind::Added | ChangeKind::Removed => Vec::new(),
    };
    json!({ "path": change.path.to_string(), "change": change.kind.word(), "aspects": aspects })
}

fn summarise(old: &Image, new: &Image, changes: &[Change]) -> Result<DiffSummary> {
    let mut summary = DiffSummary::default();
    let mut known = HashMap::new();
    for object in old.objects_with_sizes()? {
        let (id, size) = object?;
        known.insert(id, size);
    }
    for change in changes {
        match change.kind {
            ChangeKind::Added => summary.added += 1,
            ChangeKind::Removed => summary.removed += 1,
            ChangeKind::Modified(_) => summary.modified += 1,
        }
        summary.old_bytes += file_size(old, change.old)?;
        summary.new_bytes += file_size(new, change.new)?;
    }
    for object in new.objects_with_sizes()? {
        let (id, size) = object?;
        if !known.contains_key(&id) {
            summary.new_content_bytes += size;
        }
    }
    Ok(summary)
}

fn file_size(image: &Image, ino: Option<Ino>) -> Result<u64> {
    let Some(ino) = ino else { return Ok(0) };
    let attributes = image.attributes(ino)?;
    Ok(if attributes.kind == FileKind::Regular { attributes.size } else { 0 })
}

fn print_summary(summary: &DiffSummary, as_json: bool) -> Result<ExitCode> {
    if as_json {
        output::json(summary)?;
    } else {
        let [added, removed, modified] = [summary.added, summary.removed, summary.modified].map(output::count);
        output::line(format_args!("{added} added, {removed} removed, {modified} changed"))?;
        let [old, new, content] = [summary.old_bytes, summary.new_bytes, summary.new_content_bytes].map(output::size);
        output::line(format_args!("{old} before, {new} after; {content} of new content"))?;
    }
    Ok(ExitCode::SUCCESS)
}
