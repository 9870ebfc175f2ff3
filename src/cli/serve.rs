//! `sapwood serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use super::output;
use crate::remote::serve::serve;

/// Serve a published repository over HTTP, for trying things
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood publish file:///srv/os debian/12
  sapwood serve /srv/os
  sapwood mount --insecure-unsigned http://127.0.0.1:8080/#debian/12 /mnt      elsewhere

Any static web server that answers Range requests does the same (nginx, Apache, caddy).
The URL is the only thing on standard output. Ctrl-C ends it.")]
pub struct Args {
    /// The directory that was published to
    directory: PathBuf,
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

/// Runs the verb.
///
/// # Errors
/// When there is nothing to serve or the address is taken.
pub fn run(args: &Args) -> Result<ExitCode> {
    let directory = &args.directory;
    if directory.join("config.toml").exists() && directory.join("objects").is_dir() {
        bail!(
            "{at} is a repository, which is served after publishing it: sapwood --repo {at} publish file://{at}.published REF",
            at = directory.display()
        );
    }
    if !directory.is_dir() {
        bail!("{} is no directory", directory.display());
    }
    // Nobody reads what a server prints, so a closed output is no reason to stop.
    let ready = |address| drop(output::line(format_args!("http://{address}/")));
    serve(directory, args.listen, ready).with_context(|| format!("cannot serve at {}", args.listen))?;
    Ok(ExitCode::SUCCESS)
}
