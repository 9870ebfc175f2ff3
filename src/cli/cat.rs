//! The verb `sapwood cat`.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::model::FileKind;
use crate::source::{self, LastLink};
use crate::store::{ObjectSource, Store};

/// The number of bytes that are read and printed at a time.
const READ_BUFFER_BYTES: usize = 1 << 20;

/// Print the content of files of a commit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood cat debian/12:/etc/os-release
  sapwood cat debian/12:/usr/bin/ls | sha256sum
  sapwood cat debian/12 /etc/os-release /etc/fstab")]
pub(crate) struct Args {
    /// SOURCE:/path, or SOURCE if paths follow
    source: OsString,

    /// Paths in SOURCE, or more of SOURCE:/path
    #[arg(value_name = "PATH")]
    more: Vec<OsString>,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let store = repository::open(context)?;
        let sources = match repository::join_paths(&self.source, &self.more) {
            Ok(joined) => joined,
            Err(_) => std::iter::once(&self.source).chain(&self.more).cloned().collect(),
        };
        sources.iter().try_for_each(|source| print_file(&store, source))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn print_file(store: &Store, source: &OsStr) -> Result<()> {
    let entry = source::locate(store, source, LastLink::Followed, repository::wait_with_notice())?;
    let source = source.display();
    let attributes = entry.image.attributes(entry.ino)?;
    match attributes.kind {
        FileKind::Regular => {}
        kind => bail!("{source} is not a file but a {}", kind.word()),
    }
    let Some(object) = entry.image.object(entry.ino)? else { return Ok(()) };
    let mut buffer = vec![0; READ_BUFFER_BYTES];
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
