//! `config.toml` of a repository.

use serde::{Deserialize, Serialize};

/// Format version written by this program.
const VERSION: u32 = 1;

/// Objects up to this many bytes go into packs. 64 KiB: 96 % of the files and 12 % of the bytes of a Debian `/usr`.
/// Measured against a file for each object in `benches/results`.
const DEFAULT_PACK_LIMIT: u64 = 64 << 10;

/// Settings of a repository. Unknown keys are kept out: a typing error should not pass for a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Format version.
    pub version: u32,
    /// Names of features that a program must know to use this repository.
    #[serde(default)]
    pub features: Vec<String>,
    /// Objects up to this many bytes are put into packs, larger ones get a file each; 0 for a file each always.
    #[serde(default = "default_pack_limit")]
    pub pack_limit: u64,
    /// Bytes of fetched contents that are kept at most, of those that no whole commit needs; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_size: Option<u64>,
    /// Whether the kernel is to check what is added from now on, where the filesystem can.
    #[serde(default, skip_serializing_if = "FsVerity::is_off")]
    pub fs_verity: FsVerity,
}

/// Whether files of objects get a tree of digests that the kernel checks at each read (fs-verity).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsVerity {
    /// No.
    #[default]
    Off,
    /// Where the filesystem can: ext4 and f2fs with the feature `verity`, Btrfs.
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
    /// Not TOML, or not these keys.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// Made by a newer program.
    #[error("format version {0} is newer than this program's {VERSION}; upgrade sapwood")]
    Version(u32),
    /// Needs something this program cannot do.
    #[error("feature '{0}' is not known to this program; upgrade sapwood")]
    Feature(String),
}

impl Config {
    /// Reads a configuration.
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

    /// The text of this configuration.
    #[must_use]
    pub fn render(&self) -> String {
        toml::to_string(self).expect("numbers and strings can always be written as TOML")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_can_be_parsed() {
        let config = Config { pack_limit: 0, cache_size: Some(1 << 40), fs_verity: FsVerity::On, ..Config::default() };
        assert_eq!(Config::parse(&config.render()).expect("own output"), config);
    }

    #[test]
    fn newer_versions_features_and_unknown_keys_are_refused() {
        for text in ["version = 2", "version = 1\nfeatures = [\"x\"]", "version = 1\npack-limits = 0", "", "version = "]
        {
            assert!(Config::parse(text).is_err(), "{text}");
        }
    }
}
