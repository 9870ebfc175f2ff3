//! `sapwood cat`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{Context, output, repository, source};
use crate::model::FileKind;
use crate::store::{ObjectSource, Store};

/// Bytes printed at a time.
const CHUNK: usize = 1 << 20;

/// Print the content of files of a commit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood cat debian/12:/etc/os-release
  sapwood cat debian/12:/usr/bin/ls | sha256sum")]
pub struct Args {
    /// SOURCE:/path
    #[arg(required = true)]
    source: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// When there is no such file.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let store = repository::open(context)?;
    args.source.iter().try_for_each(|source| print(&store, source))?;
    Ok(ExitCode::SUCCESS)
}

fn print(store: &Store, source: &str) -> Result<()> {
    let found = source::locate(store, source)?;
    let attributes = found.image.attributes(found.ino)?;
    match attributes.kind {
        FileKind::Regular => {}
        FileKind::Symlink => {
            let target = String::from_utf8_lossy(found.image.symlink(found.ino)?).into_owned();
            bail!("{source} is a symbolic link to {target}, and links are not followed");
        }
        kind => bail!("{source} is not a file but a {}", kind.word()),
    }
    let Some(object) = found.image.object(found.ino)? else { return Ok(()) };
    let mut buffer = vec![0; CHUNK];
    let mut position = 0;
    while position < attributes.size {
        let length = store.read_at(object, position, &mut buffer)?;
        if length == 0 {
            bail!("object {object} of {source} ends after {position} of {} bytes", attributes.size);
        }
        output::bytes(&buffer[..length])?;
        position += length as u64;
    }
    Ok(())
}
