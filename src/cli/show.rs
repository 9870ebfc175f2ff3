//! The verb `sapwood show`. `print_commit` is also *used by* `log`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::compose::packages::{self, PackageList};
use crate::image::{Image, Ino};
use crate::model::{Commit, FileKind, ImagePath};
use crate::source::{self, LastLink};

/// Show a commit, or everything about one path in it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood show debian/12
  sapwood show debian/12:/usr/bin/ping")]
pub(crate) struct Args {
    /// A commit, or SOURCE:/path
    source: OsString,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let store = repository::open(context)?;
        let found = source::locate(&store, &self.source, LastLink::Kept, repository::wait_with_notice())?;
        if !found.path.is_root() {
            print_entry(&found.image, found.ino, &found.path, self.json)?;
        } else if self.json {
            output::json(&json!({ "id": found.id, "commit": found.commit }))?;
        } else {
            output::line(format_args!("commit {}", found.id))?;
            print_commit(&found.commit)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints the record of a commit.
///
/// # Errors
/// When the output is closed.
pub(crate) fn print_commit(commit: &Commit) -> Result<()> {
    let parent = commit.parent.map_or_else(|| "none".to_owned(), |id| id.to_string());
    output::line(format_args!("Ref:      {}", commit.ref_name))?;
    output::line(format_args!("Time:     {}", output::time(commit.timestamp)))?;
    if let Some(version) = &commit.version {
        output::line(format_args!("Version:  {}", output::safe(version)))?;
    }
    output::line(format_args!("Sequence: {}", commit.sequence))?;
    output::line(format_args!("Parent:   {parent}"))?;
    output::line(format_args!("Image:    {}", commit.image))?;
    let (entries, bytes) = (output::count(commit.entries), output::size(commit.content_bytes));
    output::line(format_args!("Holds:    {entries} entries, {bytes}"))?;
    if !commit.subject.is_empty() {
        output::line(format_args!("\n    {}", output::safe(&commit.subject)))?;
    }
    for (key, value) in &commit.extra {
        let words = if key == packages::KEY { describe_package_list(value) } else { value.clone() };
        output::line(format_args!("{}: {words}", output::safe(key)))?;
    }
    Ok(())
}

fn describe_package_list(text: &str) -> String {
    match PackageList::decode(text) {
        Ok(list) => format!("{} ('sapwood db list' lists them)", output::count(list.packages.len() as u64)),
        Err(error) => error.to_string(),
    }
}

/// Prints everything that an image has about one entry.
fn print_entry(image: &Image, ino: Ino, path: &ImagePath, as_json: bool) -> Result<()> {
    let attributes = image.attributes(ino)?;
    let is_file = attributes.kind == FileKind::Regular;
    let object = if is_file { image.object(ino)? } else { None };
    let extents = if is_file { image.extents(ino)? } else { None };
    let xattrs = image.xattrs(ino)?;
    let target = match attributes.kind {
        FileKind::Symlink => Some(image.symlink(ino)?.escape_ascii().to_string()),
        _ => None,
    };
    let pairs: Vec<(String, String)> = xattrs
        .iter()
        .map(|(name, value)| (name.escape_ascii().to_string(), value.escape_ascii().to_string()))
        .collect();
    if as_json {
        let xattrs: serde_json::Map<String, serde_json::Value> =
            pairs.into_iter().map(|(name, value)| (name, value.into())).collect();
        return Ok(output::json(&json!({
            "path": path.to_string(), "inode": ino.get(), "kind": attributes.kind.word(),
            "mode": format!("{:04o}", attributes.permissions), "uid": attributes.uid, "gid": attributes.gid,
            "size": attributes.size, "links": attributes.nlink, "mtime": attributes.mtime.seconds,
            "mtime_ns": attributes.mtime.nanoseconds, "object": object, "target": target,
            "device": attributes.device.map(|device| [device.major, device.minor]),
            "extents": extents.map(|extents| extents.iter().map(|extent| [extent.offset, extent.length]).collect::<Vec<_>>()),
            "xattrs": xattrs,
        }))?);
    }
    output::line(format_args!("Path:   {path}"))?;
    output::line(format_args!("Kind:   {}, inode {}, links {}", attributes.kind.word(), ino.get(), attributes.nlink))?;
    let (mode, uid, gid) = (attributes.permissions, attributes.uid, attributes.gid);
    output::line(format_args!("Owner:  {uid}:{gid}, mode {mode:04o}"))?;
    let (time, nanoseconds) = (output::time(attributes.mtime.seconds), attributes.mtime.nanoseconds);
    output::line(format_args!("Time:   {time} + {nanoseconds} ns"))?;
    output::line(format_args!("Size:   {} bytes", attributes.size))?;
    if let Some(object) = object {
        output::line(format_args!("Object: {object}"))?;
    }
    if let Some(target) = target {
        output::line(format_args!("Target: {target}"))?;
    }
    if let Some(device) = attributes.device {
        output::line(format_args!("Device: {}:{}", device.major, device.minor))?;
    }
    for (name, value) in pairs {
        output::line(format_args!("Xattr:  {name} = {value}"))?;
    }
    Ok(())
}
