//! `sapwood show`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{Context, output, repository, source};
use crate::compose::packages::{self, PackageList};
use crate::image::{Image, Ino};
use crate::model::{Commit, ImagePath};

/// Show a commit, or everything about one path in it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood show debian/12
  sapwood show debian/12:/usr/bin/ping")]
pub struct Args {
    /// A commit, or SOURCE:/path
    source: String,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When there is no such thing.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let store = repository::open(context)?;
    let found = source::locate(&store, &args.source)?;
    if !found.path.is_root() {
        entry(&found.image, found.ino, &found.path, args.json)?;
    } else if args.json {
        output::json(&json!({ "id": found.id, "commit": found.commit }))?;
    } else {
        output::line(format_args!("commit {}", found.id))?;
        details(&found.commit)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what a commit record says.
///
/// # Errors
/// When the output is closed.
pub fn details(commit: &Commit) -> Result<()> {
    let parent = commit.parent.map_or_else(|| "none".to_owned(), |id| id.to_string());
    output::line(format_args!("Ref:      {}", commit.ref_name))?;
    output::line(format_args!("Time:     {}", output::time(commit.timestamp)))?;
    if let Some(version) = &commit.version {
        output::line(format_args!("Version:  {version}"))?;
    }
    output::line(format_args!("Sequence: {}", commit.sequence))?;
    output::line(format_args!("Parent:   {parent}"))?;
    output::line(format_args!("Image:    {}", commit.image))?;
    let (entries, bytes) = (output::count(commit.entries), output::size(commit.content_bytes));
    output::line(format_args!("Holds:    {entries} entries, {bytes}"))?;
    if !commit.subject.is_empty() {
        output::line(format_args!("\n    {}", commit.subject))?;
    }
    for (key, value) in &commit.extra {
        let words = if key == packages::KEY { count_of_packages(value) } else { value.clone() };
        output::line(format_args!("{key}: {words}"))?;
    }
    Ok(())
}

fn count_of_packages(text: &str) -> String {
    match PackageList::decode(text) {
        Ok(list) => format!("{} ('sapwood db list' lists them)", output::count(list.packages.len() as u64)),
        Err(error) => error.to_string(),
    }
}

/// Prints everything an image says about one entry.
fn entry(image: &Image, ino: Ino, path: &ImagePath, as_json: bool) -> Result<()> {
    let attributes = image.attributes(ino)?;
    let object = image.object(ino)?;
    let xattrs = image.xattrs(ino)?;
    let target = match attributes.kind {
        crate::model::FileKind::Symlink => Some(image.symlink(ino)?.escape_ascii().to_string()),
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
            "extents": image.extents(ino)?.map(|extents| extents.iter().map(|e| [e.offset, e.length]).collect::<Vec<_>>()),
            "xattrs": xattrs,
        }))?);
    }
    output::line(format_args!("Path:   {path}"))?;
    output::line(format_args!(
        "Kind:   {}, inode {}, {} link(s)",
        attributes.kind.word(),
        ino.get(),
        attributes.nlink
    ))?;
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
