//! The verb `sapwood serve`.
//!
//! *Not here*: the server, see `remote::serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use super::output;
use crate::cli::context::{Context, Run};
use crate::remote::serve::serve;
use crate::store::Store;

/// Serve a published repository over HTTP, for trying things out
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood publish file:///srv/os debian/12
  sapwood serve /srv/os
  sapwood mount --insecure-unsigned http://127.0.0.1:8080/#debian/12 /mnt
      elsewhere

Any static web server that answers Range requests does the same (nginx, Apache, caddy). \
The URL is the only thing on standard output. Ctrl-C ends it.")]
pub(crate) struct Args {
    /// The directory that was published to
    directory: PathBuf,
    /// The address to listen on; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let directory = &self.directory;
        if Store::is_repository(directory) {
            bail!(
                "{at} is a repository, which is served after publishing it: sapwood --repo {at} publish file://{at}.published REF",
                at = directory.display()
            );
        }
        if !directory.is_dir() {
            bail!("{} is no directory", directory.display());
        }
        // The server goes on even if its output is closed and the URL cannot be printed.
        let ready = |address| drop(output::line(format_args!("http://{address}/")));
        serve(directory, self.listen, ready).with_context(|| format!("cannot serve at {}", self.listen))?;
        Ok(ExitCode::SUCCESS)
    }
}
