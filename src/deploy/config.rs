//! The settings of a sysroot: reads and writes `config.toml`.
//!
//! *Not here*: where the file is (`layout`), and looking for a boot loader (`boot::loader`).
//!
//! *Used by* `sysroot` and `cli`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::boot::LoaderKind;
use super::id::StaterootName;

/// Format version written by this program.
const VERSION: u32 = 1;

/// Number of hexadecimal digits in the id of a sysroot.
const ID_DIGITS: usize = 8;

/// The default number of boots that a new deployment is tried before the loader falls back to the deployment before.
const BOOT_TRIES: u32 = 3;

/// The highest number of tries: more would not fit the loader's own bookkeeping.
const BOOT_TRIES_MAX: u32 = 9;

/// Settings of a sysroot. Unknown keys are refused, so that a typing error does not pass for a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SysrootConfig {
    /// Format version.
    pub(crate) version: u32,
    /// Distinguishes the boot entries and kernels of this sysroot from those of other sysroots on the same boot partition.
    pub(crate) id: String,
    /// The stateroot that commands use when none was booted and none is given.
    pub(crate) stateroot: StaterootName,
    /// The boot loader that reads the entries.
    #[serde(default)]
    pub(crate) bootloader: LoaderKind,
    /// The directory where the loader's partition is mounted, relative to the sysroot; it is detected if this is `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<PathBuf>,
    /// The number of boots that a new deployment is tried before the loader falls back; 0 means that boots are not counted.
    #[serde(default = "boot_tries")]
    pub(crate) boot_tries: u32,
}

const fn boot_tries() -> u32 {
    BOOT_TRIES
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SysrootConfigError {
    /// The text is not TOML or has other keys.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// The file was written by a newer program.
    #[error("format version {0} is newer than this program's {VERSION}; upgrade sapwood")]
    Version(u32),
    /// The id is malformed.
    #[error("'{0}' is no id of a sysroot: expected {ID_DIGITS} hexadecimal digits")]
    Id(String),
    /// There are more tries than a loader can count.
    #[error("boot-tries = {0} is more than {BOOT_TRIES_MAX}")]
    Tries(u32),
    /// The boot directory leads out of the sysroot.
    #[error("boot = '{}' must be a path below the sysroot, without '..'", .0.display())]
    Boot(PathBuf),
}

impl SysrootConfig {
    /// Returns the settings that `sysroot init` writes, with an id made of 4 random bytes.
    pub(crate) fn new(stateroot: StaterootName, id: [u8; 4]) -> Self {
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { version: VERSION, id, stateroot, bootloader: LoaderKind::Auto, boot: None, boot_tries: BOOT_TRIES }
    }

    /// Parses settings.
    ///
    /// # Errors
    /// [`SysrootConfigError`].
    pub fn parse(text: &str) -> Result<Self, SysrootConfigError> {
        let config: Self = toml::from_str(text)?;
        if config.version != VERSION {
            return Err(SysrootConfigError::Version(config.version));
        }
        config.check()?;
        Ok(config)
    }

    /// Checks that the values are within their limits.
    pub(crate) fn check(&self) -> Result<(), SysrootConfigError> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if self.id.len() != ID_DIGITS || !self.id.bytes().all(is_digit) {
            return Err(SysrootConfigError::Id(self.id.clone()));
        }
        if self.boot_tries > BOOT_TRIES_MAX {
            return Err(SysrootConfigError::Tries(self.boot_tries));
        }
        let is_normal = |part| matches!(part, std::path::Component::Normal(_));
        match &self.boot {
            Some(boot) if boot.as_os_str().is_empty() || !boot.components().all(is_normal) => {
                Err(SysrootConfigError::Boot(boot.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Returns the text that [`Self::parse`] reads.
    #[must_use]
    pub fn render(&self) -> String {
        toml::to_string(self).expect("numbers and strings can always be written as TOML")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_settings_parse_to_the_same_value() {
        let mut config = SysrootConfig::new("main".parse().expect("legal"), [1, 0x23, 0xab, 0xff]);
        assert_eq!(config.id, "0123abff");
        config.boot = Some("boot/efi".into());
        config.bootloader = LoaderKind::SystemdBoot;
        assert_eq!(SysrootConfig::parse(&config.render()).expect("own output"), config);
    }

    #[test]
    fn parse_refuses_wrong_settings() {
        let good = "version = 1\nid = '0123abff'\nstateroot = 'main'\n";
        assert!(SysrootConfig::parse(good).is_ok());
        for bad in ["boot-tries = 10", "boot = '../x'", "boot = '/boot'", "bootloader = 'lilo'", "tries = 1"] {
            assert!(SysrootConfig::parse(&format!("{good}{bad}\n")).is_err(), "{bad}");
        }
        assert!(SysrootConfig::parse(&good.replace("version = 1", "version = 2")).is_err());
        assert!(SysrootConfig::parse(&good.replace("0123abff", "0123ABFF")).is_err());
    }
}
