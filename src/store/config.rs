//! The settings of a repository, in its file `config.toml`.
//!
//! *Not here*: reading and writing the file (`open`).
//!
//! *Used by* `store`, and by `cli`, which shows and changes settings.

use serde::{Deserialize, Serialize};

/// The format version that this program writes.
const VERSION: u32 = 1;

/// Objects up to this many bytes go into packs. 64 KiB cover 96 % of the files and 12 % of the bytes of a Debian `/usr`.
/// `benches/results` has a comparison with one file for each object.
const DEFAULT_PACK_LIMIT: u64 = 64 << 10;

/// The settings of a repository. Unknown keys are refused, so that a typing error does not pass for a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The format version.
    pub(crate) version: u32,
    /// The names of features that a program must know to use this repository.
    #[serde(default)]
    pub(crate) features: Vec<String>,
    /// Objects up to this many bytes are put into packs; larger objects get a file each. 0 means a file for every object.
    #[serde(default = "default_pack_limit")]
    pub(crate) pack_limit: u64,
    /// Most bytes that are kept of fetched contents which no complete commit needs; no limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cache_size: Option<u64>,
    /// Whether the kernel checks files that are added from now on.
    #[serde(default, skip_serializing_if = "FsVerity::is_off")]
    pub(crate) fs_verity: FsVerity,
}

/// Whether files of objects get a tree of digests that the kernel checks at each read (fs-verity).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FsVerity {
    #[default]
    Off,
    /// Enabled on filesystems that support it: ext4 and f2fs with the feature `verity`, Btrfs.
    On,
}

impl FsVerity {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    const fn is_off(&self) -> bool {
        matches!(self, Self::Off)
    }
}

const fn default_pack_limit() -> u64 {
    DEFAULT_PACK_LIMIT
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: VERSION,
            features: Vec::new(),
            pack_limit: DEFAULT_PACK_LIMIT,
            cache_size: None,
            fs_verity: FsVerity::Off,
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text is not TOML, or has unknown keys.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// The repository was made by a newer program.
    #[error("format version {0} is newer than this program's {VERSION}; upgrade sapwood")]
    Version(u32),
    /// The repository needs a feature that this program does not have.
    #[error("feature '{0}' is not known to this program; upgrade sapwood")]
    Feature(String),
}

impl Config {
    /// Parses a configuration.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)?;
        if config.version != VERSION {
            return Err(ConfigError::Version(config.version));
        }
        match config.features.first() {
            Some(feature) => Err(ConfigError::Feature(feature.clone())),
            None => Ok(config),
        }
    }

    /// Returns this configuration as TOML.
    #[must_use]
    pub fn render(&self) -> String {
        toml::to_string(self).expect("numbers and strings can always be written as TOML")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_parses_from_its_rendered_text() {
        let config = Config { pack_limit: 0, cache_size: Some(1 << 40), fs_verity: FsVerity::On, ..Config::default() };
        assert_eq!(Config::parse(&config.render()).expect("own output"), config);
    }

    #[test]
    fn config_refuses_newer_versions_features_and_unknown_keys() {
        for text in ["version = 2", "version = 1\nfeatures = [\"x\"]", "version = 1\npack-limits = 0", "", "version = "]
        {
            assert!(Config::parse(text).is_err(), "{text}");
        }
    }
}
