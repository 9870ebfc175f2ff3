//! The verb `sapwood config`, which shows and changes the settings of a repository. `parse_size` is also *used by* `init`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::store::{Config, FsVerity};

/// Show or change the settings of the repository
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood config
      all settings
  sapwood config cache-size
      one
  sapwood config cache-size 2G
      keep at most 2 GiB of what lazy mounts fetched
  sapwood config cache-size none
      keep everything
  sapwood config fs-verity on
      have the kernel check what is added from now on

cache-size limits the contents that were fetched and are not part of a complete commit: those that were not \
used for longest are removed first, and fetched again when they are read. Running mounts follow within seconds.

fs-verity has the kernel compare every page that it reads with a digest; filesystems that cannot (all but \
Btrfs, and ext4 and f2fs made with -O verity) work without it. 'sapwood mount -o verify=full' relies on it.")]
pub(crate) struct Args {
    /// Which setting: cache-size, pack-limit, fs-verity
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The new value; K, M, G and T after a number are powers of 1024
    #[arg(value_name = "VALUE")]
    value: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Parses a number of bytes with an optional unit, such as `512M`.
///
/// # Errors
/// When the text is not a size; the error says what is expected.
pub(crate) fn parse_size(text: &str) -> Result<u64> {
    let size = crate::model::parse_size(text);
    size.with_context(|| format!("'{text}' is no size: write bytes, or a number with K, M, G or T"))
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let store = repository::open(context)?;
        let config = match (&self.name, &self.value) {
            (Some(name), Some(value)) => {
                let change = parse_change(name, value)?;
                store.change_config(|config| change.apply(config))?
            }
            _ => store.config().clone(),
        };
        if self.json {
            output::json(&config)?;
            return Ok(ExitCode::SUCCESS);
        }
        match (self.name.as_deref(), &self.value) {
            (_, Some(_)) => {}
            (None, None) => output::line(config.render().trim_end())?,
            (Some("cache-size"), None) => {
                output::line(config.cache_size.map_or("none".into(), |size| size.to_string()))?
            }
            (Some("pack-limit"), None) => output::line(config.pack_limit)?,
            (Some("fs-verity"), None) => output::line(if config.fs_verity == FsVerity::On { "on" } else { "off" })?,
            (Some(other), None) => bail!(unknown_setting_message(other)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A change of one setting.
enum SettingChange {
    CacheSize(Option<u64>),
    PackLimit(u64),
    FsVerity(FsVerity),
}

impl SettingChange {
    const fn apply(&self, config: &mut Config) {
        match self {
            Self::CacheSize(size) => config.cache_size = *size,
            Self::PackLimit(limit) => config.pack_limit = *limit,
            Self::FsVerity(verity) => config.fs_verity = *verity,
        }
    }
}

fn parse_change(name: &str, value: &str) -> Result<SettingChange> {
    match (name, value) {
        ("cache-size", "none") => Ok(SettingChange::CacheSize(None)),
        ("cache-size", size) => Ok(SettingChange::CacheSize(Some(parse_size(size)?))),
        ("pack-limit", size) => Ok(SettingChange::PackLimit(parse_size(size)?)),
        ("fs-verity", "on") => Ok(SettingChange::FsVerity(FsVerity::On)),
        ("fs-verity", "off") => Ok(SettingChange::FsVerity(FsVerity::Off)),
        ("fs-verity", other) => bail!("'{other}' is neither 'on' nor 'off'"),
        _ => bail!(unknown_setting_message(name)),
    }
}

fn unknown_setting_message(name: &str) -> String {
    format!("there is no setting '{name}': there are cache-size, pack-limit and fs-verity")
}
