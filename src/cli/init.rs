//! `sapwood init`.

use std::process::ExitCode;

use anyhow::Result;

use super::{Context, output, repository};
use crate::store::{Config, Store};

/// Make an empty repository
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood init                     at the default place
  sapwood --repo /srv/repo init    at a place of your choice
  sapwood init --cache-size 2G     with a bound for what is only fetched as it is read

The repository is readable by you only: it will hold the content of files that are protected where they come from.
It needs no root and no special filesystem.")]
pub struct Args {
    /// Objects up to this many bytes share packs, larger ones get a file each (0: a file each always)
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().pack_limit)]
    pack_limit: u64,
    /// Keep at most so much of what lazy mounts fetch (512M, 2G); all of it unless given
    #[arg(long, value_name = "SIZE", value_parser = super::config::parse_size)]
    cache_size: Option<u64>,
}

/// Runs the verb.
///
/// # Errors
/// When there is something already or the system refuses.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let config = Config { pack_limit: args.pack_limit, cache_size: args.cache_size, ..Config::default() };
    let store = Store::init(&repository::path(context)?, &config)?;
    output::note(format_args!("made an empty repository at {}", store.path().display()));
    Ok(ExitCode::SUCCESS)
}
