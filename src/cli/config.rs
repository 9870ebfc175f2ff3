//! `sapwood config`: the settings of a repository.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use super::{Context, output, repository};
use crate::store::{Config, FsVerity};

/// Show or change the settings of the repository
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood config                        all settings
  sapwood config cache-size             one
  sapwood config cache-size 2G          keep at most 2 GiB of what lazy mounts fetched
  sapwood config cache-size none        keep everything
  sapwood config fs-verity on           have the kernel check what is added from now on

cache-size bounds what was fetched and is not part of a commit that is here as a whole: what was not
used for longest goes first, and is fetched again when it is read. Running mounts obey within seconds.

fs-verity has the kernel compare every page that it reads with a digest; filesystems that cannot (all but
Btrfs, and ext4 and f2fs made with -O verity) go on without. 'sapwood mount -o verify=full' relies on it.")]
pub struct Args {
    /// Which setting: cache-size, pack-limit, fs-verity
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// What it is to be; K, M, G and T after a number are powers of 1024
    #[arg(value_name = "VALUE")]
    value: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Bytes with a unit, as `512M`.
///
/// # Errors
/// Says what is expected.
pub fn parse_size(text: &str) -> Result<u64> {
    let size = crate::model::parse_size(text);
    size.with_context(|| format!("'{text}' is no size: write bytes, or a number with K, M, G or T"))
}

/// Runs the verb.
///
/// # Errors
/// When there is no such setting, or the value is none.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let store = repository::open(context)?;
    let config = match (&args.name, &args.value) {
        (Some(name), Some(value)) => {
            let change = parse_change(name, value)?;
            store.change_config(|config| change.apply(config))?
        }
        _ => store.config().clone(),
    };
    if args.json {
        output::json(&config)?;
        return Ok(ExitCode::SUCCESS);
    }
    match (args.name.as_deref(), &args.value) {
        (_, Some(_)) => {}
        (None, None) => output::line(config.render().trim_end())?,
        (Some("cache-size"), None) => output::line(config.cache_size.map_or("none".into(), |size| size.to_string()))?,
        (Some("pack-limit"), None) => output::line(config.pack_limit)?,
        (Some("fs-verity"), None) => output::line(if config.fs_verity == FsVerity::On { "on" } else { "off" })?,
        (Some(other), None) => bail!(unknown(other)),
    }
    Ok(ExitCode::SUCCESS)
}

/// A change that was understood.
enum Change {
    CacheSize(Option<u64>),
    PackLimit(u64),
    FsVerity(FsVerity),
}

impl Change {
    const fn apply(&self, config: &mut Config) {
        match self {
            Self::CacheSize(size) => config.cache_size = *size,
            Self::PackLimit(limit) => config.pack_limit = *limit,
            Self::FsVerity(verity) => config.fs_verity = *verity,
        }
    }
}

fn parse_change(name: &str, value: &str) -> Result<Change> {
    match (name, value) {
        ("cache-size", "none") => Ok(Change::CacheSize(None)),
        ("cache-size", size) => Ok(Change::CacheSize(Some(parse_size(size)?))),
        ("pack-limit", size) => Ok(Change::PackLimit(parse_size(size)?)),
        ("fs-verity", "on") => Ok(Change::FsVerity(FsVerity::On)),
        ("fs-verity", "off") => Ok(Change::FsVerity(FsVerity::Off)),
        ("fs-verity", other) => bail!("'{other}' is neither 'on' nor 'off'"),
        _ => bail!(unknown(name)),
    }
}

fn unknown(name: &str) -> String {
    format!("there is no setting '{name}': there are cache-size, pack-limit and fs-verity")
}
