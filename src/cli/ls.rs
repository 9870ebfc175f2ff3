//! `sapwood ls`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{Context, output, repository, source};
use crate::image::{Attributes, Image, Ino};
use crate::model::{EntryName, FileKind, ImagePath};

/// List a directory of a commit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood ls debian/12:/usr/bin
  sapwood ls -l -R debian/12~1:/etc")]
pub struct Args {
    /// SOURCE, or SOURCE:/path
    source: String,

    /// With mode, owner, size and time
    #[arg(short, long)]
    long: bool,

    /// With everything below
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When there is no such directory.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let store = repository::open(context)?;
    let found = source::locate(&store, &args.source)?;
    let mut values = Vec::new();
    if found.image.attributes(found.ino)?.kind != FileKind::Directory {
        let shown = found.path.to_string();
        print(&found.image, found.ino, &found.path, &shown, args, &mut values)?;
    } else {
        list(&found.image, found.ino, &found.path, args, &mut values)?;
    }
    if args.json {
        output::json(&values)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(image: &Image, top: Ino, path: &ImagePath, args: &Args, values: &mut Vec<serde_json::Value>) -> Result<()> {
    let mut pending = vec![(top, path.clone())];
    while let Some((directory, path)) = pending.pop() {
        let first = pending.len();
        for child in image.children(directory, 0)? {
            let child = child?;
            let below = path.join(EntryName::new(child.name)?);
            let shown = if args.recursive { below.to_string() } else { child.name.escape_ascii().to_string() };
            let shown = std::str::from_utf8(child.name).ok().filter(|_| !args.recursive).map_or(shown, str::to_owned);
            print(image, child.ino, &below, &shown, args, values)?;
            if args.recursive && child.kind == FileKind::Directory {
                pending.push((child.ino, below));
            }
        }
        pending[first..].reverse();
    }
    Ok(())
}

fn print(
    image: &Image,
    ino: Ino,
    path: &ImagePath,
    shown: &str,
    args: &Args,
    values: &mut Vec<serde_json::Value>,
) -> Result<()> {
    if !args.long && !args.json {
        return Ok(output::line(shown)?);
    }
    let attributes = image.attributes(ino)?;
    let target = match attributes.kind {
        FileKind::Symlink => Some(String::from_utf8_lossy(image.symlink(ino)?).into_owned()),
        _ => None,
    };
    if args.json {
        values.push(json!({
            "path": path.to_string(), "kind": attributes.kind.word(),
            "mode": format!("{:04o}", attributes.permissions), "uid": attributes.uid, "gid": attributes.gid,
            "size": attributes.size, "links": attributes.nlink, "mtime": attributes.mtime.seconds, "target": target,
        }));
        return Ok(());
    }
    let arrow = target.map(|target| format!(" -> {target}")).unwrap_or_default();
    Ok(output::line(format_args!("{} {shown}{arrow}", long(&attributes)))?)
}

fn long(attributes: &Attributes) -> String {
    let mode = output::ModeText { kind: attributes.kind.letter(), permissions: attributes.permissions };
    let size = match attributes.device {
        Some(device) => format!("{}, {}", device.major, device.minor),
        None => attributes.size.to_string(),
    };
    let (links, uid, gid) = (attributes.nlink, attributes.uid, attributes.gid);
    format!("{mode} {links:>3} {uid:>5} {gid:>5} {size:>11} {}", output::time(attributes.mtime.seconds))
}
