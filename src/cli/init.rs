//! The verb `sapwood init`.

use std::process::ExitCode;

use anyhow::Result;

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::store::{Config, Store};

/// Make an empty repository
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood init
      at the default place
  sapwood --repo /srv/repo init
      at a place of your choice
  sapwood init --cache-size 2G
      with a limit for what is only fetched as it is read

The repository is readable by you only: it will hold the content of files that are protected where they come from. \
It needs no root and no special filesystem.")]
pub(crate) struct Args {
    /// Objects up to this many bytes share packs, larger ones get a file each (0: a file each always)
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().pack_limit)]
    pack_limit: u64,
    /// Keep at most this much of what lazy mounts fetch (512M, 2G) [default: all of it]
    #[arg(long, value_name = "SIZE", value_parser = super::config::parse_size)]
    cache_size: Option<u64>,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let config = Config { pack_limit: self.pack_limit, cache_size: self.cache_size, ..Config::default() };
        let store = Store::init(&repository::path(context)?, &config)?;
        output::note(format_args!("made an empty repository at {}", store.path().display()));
        Ok(ExitCode::SUCCESS)
    }
}
