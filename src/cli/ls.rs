//! The verb `sapwood ls`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::image::{Attributes, Image, Ino};
use crate::model::{EntryName, FileKind, ImagePath};
use crate::source::{self, LastLink};

/// List a directory of a commit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood ls debian/12:/usr/bin
  sapwood ls -l -R debian/12~1:/etc
  sapwood ls debian/12 /usr/bin /etc

Names and targets that are not UTF-8, or have control characters, are printed escaped (caf\\xe9), also where the output is \
no terminal. A path that is escaped in this way is understood.")]
pub(crate) struct Args {
    /// SOURCE, or SOURCE:/path
    source: OsString,

    /// Paths in SOURCE, instead of SOURCE:/path
    paths: Vec<OsString>,

    /// Also print mode, owner, size and time
    #[arg(short, long)]
    long: bool,

    /// Also list everything below
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Print the exact bytes of names, each followed by NUL, for programs
    #[arg(short = '0', long, conflicts_with_all = ["long", "json"])]
    null: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let store = repository::open(context)?;
        let mut values = self.json.then(output::JsonList::begin).transpose()?;
        for source in repository::join_paths(&self.source, &self.paths)? {
            let last = if self.long { LastLink::Kept } else { LastLink::Followed };
            let found = source::locate(&store, &source, last, repository::wait_with_notice())?;
            if found.image.attributes(found.ino)?.kind != FileKind::Directory {
                let shown = found.path.to_string();
                print_entry(&found.image, found.ino, &found.path, &shown, self, &mut values)?;
            } else {
                list_directory(&found.image, found.ino, &found.path, self, &mut values)?;
            }
        }
        if let Some(values) = values {
            values.end()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list_directory(
    image: &Image,
    top: Ino,
    path: &ImagePath,
    args: &Args,
    values: &mut Option<output::JsonList>,
) -> Result<()> {
    let mut pending = vec![(top, path.clone())];
    while let Some((directory, path)) = pending.pop() {
        let first = pending.len();
        for child in image.children(directory, 0)? {
            let child = child?;
            let name = EntryName::new(child.name)?;
            let below = path.join(name.clone());
            let shown = if args.recursive { below.to_string() } else { name.to_string() };
            print_entry(image, child.ino, &below, &shown, args, values)?;
            if args.recursive && child.kind == FileKind::Directory {
                pending.push((child.ino, below));
            }
        }
        pending[first..].reverse();
    }
    Ok(())
}

fn print_entry(
    image: &Image,
    ino: Ino,
    path: &ImagePath,
    shown: &str,
    args: &Args,
    values: &mut Option<output::JsonList>,
) -> Result<()> {
    if args.null {
        let path = if args.recursive {
            path.to_bytes()
        } else {
            path.name().map_or_else(|| b"/".to_vec(), |name| name.as_bytes().to_vec())
        };
        return Ok(output::bytes(&[&path[..], &[0]].concat())?);
    }
    if !args.long && !args.json {
        return Ok(output::line(shown)?);
    }
    let attributes = image.attributes(ino)?;
    let target = match attributes.kind {
        FileKind::Symlink => Some(output::safe(image.symlink(ino)?).into_owned()),
        _ => None,
    };
    if let Some(values) = values {
        values.push(&json!({
            "path": path.to_string(), "kind": attributes.kind.word(),
            "mode": format!("{:04o}", attributes.permissions), "uid": attributes.uid, "gid": attributes.gid,
            "size": attributes.size, "links": attributes.nlink, "mtime": attributes.mtime.seconds, "target": target,
        }))?;
        return Ok(());
    }
    let arrow = target.map(|target| format!(" -> {target}")).unwrap_or_default();
    Ok(output::line(format_args!("{} {shown}{arrow}", long_line(&attributes)))?)
}

fn long_line(attributes: &Attributes) -> String {
    let mode = output::ModeText { kind: attributes.kind.letter(), permissions: attributes.permissions };
    let size = match attributes.device {
        Some(device) => format!("{}, {}", device.major, device.minor),
        None => attributes.size.to_string(),
    };
    let (links, uid, gid) = (attributes.nlink, attributes.uid, attributes.gid);
    format!("{mode} {links:>3} {uid:>5} {gid:>5} {size:>11} {}", output::time(attributes.mtime.seconds))
}
