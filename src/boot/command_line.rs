//! The kernel arguments in `/proc/cmdline` that concern Sapwood.
//!
//! | argument | meaning |
//! | --- | --- |
//! | `sapwood=STATEROOT/COMMIT.N` | the deployment to boot; read by [`boot_target`](crate::deploy::sysroot::boot_target) |
//! | `sapwood.verify=require` | boot only what a key in the initramfs has signed, and compare all that is read with it |
//! | `sapwood.lazy=1` | contents may be missing, so the initramfs brings a network up |
//! | `sapwood.timeout=SECONDS` | how long a reader waits for contents that are being fetched |
//! | `sapwood.mode=passthrough` | the kernel reads large files by itself |
//! | `sapwood.record=FILE` | records what is read of `/usr` into a file, for `sapwood publish --profile` |
//!
//! *Not here*: `sapwood=` itself. *Invariants*: if an argument is given twice, the last one counts. *Used by*
//! `cli::prepare_root`, `boot::verify` and a fuzz target.

use std::time::Duration;

use crate::deploy::kargs::Kargs;
use crate::fuse::{MountMode, SECONDS_MAX};

/// The beginning of every argument in the table but the first.
const PREFIX: &str = "sapwood.";

/// Whether the commit must be signed by a key that the initramfs holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum SignatureCheck {
    /// The commit is not verified again: it was verified when it was fetched.
    #[default]
    NotRequired,
    /// `require`: the signature is verified at each boot, and contents whenever they are read.
    Required,
}

/// Whether contents of the commit may be missing and are then fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ContentsAvailability {
    /// All contents are expected to be in the repository.
    #[default]
    Complete,
    /// Contents may be missing.
    Lazy,
}

/// The values of Sapwood's kernel arguments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    /// `sapwood.verify=`
    pub(crate) signature: SignatureCheck,
    /// `sapwood.lazy=`
    pub(crate) contents: ContentsAvailability,
    /// `sapwood.timeout=`
    pub timeout: Option<Duration>,
    /// `sapwood.mode=`
    pub(crate) mode: MountMode,
    /// `sapwood.record=`: an absolute path in the new root.
    pub(crate) record: Option<String>,
}

/// A kernel argument that cannot be understood. The boot fails then: the loader has another entry, and to go on with a guess
/// would be worse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kernel argument '{word}' is not understood: expected {expected}")]
pub struct CommandLineError {
    /// The whole argument, with its name and value.
    pub(crate) word: String,
    /// The values that are allowed.
    pub(crate) expected: &'static str,
}

impl CommandLine {
    /// Parses the text of `/proc/cmdline`.
    ///
    /// # Errors
    /// [`CommandLineError`] for the first argument that begins with `sapwood.` and has an unknown name or value. Other
    /// arguments are ignored.
    pub fn parse(text: &str) -> Result<Self, CommandLineError> {
        let mut found = Self::default();
        for argument in Kargs::parse(text).iter() {
            if let Some(rest) = argument.strip_prefix(PREFIX) {
                let (name, value) = rest.split_once('=').unwrap_or((rest, ""));
                let failed = |expected| CommandLineError { word: argument.to_owned(), expected };
                found.apply_argument(name, value).map_err(failed)?;
            }
        }
        Ok(found)
    }

    /// Stores the value of one argument. The error says which values are allowed.
    fn apply_argument(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        match (name, value) {
            ("verify", "require") => self.signature = SignatureCheck::Required,
            ("verify", "no") => self.signature = SignatureCheck::NotRequired,
            ("verify", _) => return Err("require or no"),
            ("lazy", "1" | "") => self.contents = ContentsAvailability::Lazy,
            ("lazy", "0") => self.contents = ContentsAvailability::Complete,
            ("lazy", _) => return Err("1 or 0"),
            ("timeout", seconds) => {
                let seconds = seconds.parse().ok().filter(|seconds| *seconds <= SECONDS_MAX);
                let seconds = seconds.ok_or("a number of seconds up to 1000000000")?;
                self.timeout = Some(Duration::from_secs(seconds));
            }
            ("mode", "passthrough") => self.mode = MountMode::Passthrough,
            ("mode", "cached") => self.mode = MountMode::Cached,
            ("mode", _) => return Err("cached or passthrough"),
            ("record", path) if path.starts_with('/') && !path.contains([',', '"']) => {
                self.record = Some(path.to_owned());
            }
            ("record", _) => return Err("an absolute path without commas and quotes"),
            // An argument with a typing error, such as `verified=require`, would leave the machine without its protection.
            _ => return Err("one of sapwood.verify, sapwood.lazy, sapwood.timeout, sapwood.mode, sapwood.record"),
        }
        Ok(())
    }

    /// Returns the options for the mount of the directory `name` of the commit.
    #[must_use]
    pub fn mount_options(&self, name: &str) -> Vec<String> {
        let mut options = ["allow_other", "suid", "dev"].map(str::to_owned).to_vec();
        match (self.signature, self.mode) {
            // In passthrough mode the kernel reads files whose digests nothing signed stands for.
            (SignatureCheck::Required, _) => options.push("verify=full".to_owned()),
            (SignatureCheck::NotRequired, MountMode::Passthrough) => options.push("passthrough".to_owned()),
            (SignatureCheck::NotRequired, MountMode::Cached) => {}
        }
        options.extend(self.timeout.map(|timeout| format!("fetch-timeout={}", timeout.as_secs())));
        if self.contents == ContentsAvailability::Lazy {
            options.push("profile=auto".to_owned());
        }
        options.extend(self.record.as_ref().filter(|_| name == "usr").map(|path| format!("profile-record={path}")));
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_arguments_are_ignored() {
        let text = "BOOT_IMAGE=/vmlinuz root=LABEL=\"my root\" sapwood=main/0123456789ab.0 quiet\n";
        assert_eq!(CommandLine::parse(text), Ok(CommandLine::default()));
        assert_eq!(CommandLine::default().mount_options("usr"), ["allow_other", "suid", "dev"]);
    }

    #[test]
    fn last_argument_wins_and_invalid_ones_are_named() {
        let found = CommandLine::parse("sapwood.lazy=1 sapwood.verify=require sapwood.timeout=5 sapwood.lazy=0");
        let found = found.expect("legal");
        assert_eq!((found.signature, found.contents), (SignatureCheck::Required, ContentsAvailability::Complete));
        assert_eq!(found.mount_options("usr"), ["allow_other", "suid", "dev", "verify=full", "fetch-timeout=5"]);
        let words = ["verify=yes", "lazy=maybe", "timeout=x", "mode=fast", "record=here", "verified=require"];
        let words = words.into_iter().chain(["timeout=18446744073709551615"]);
        for wrong in words.map(|word| format!("sapwood.{word}")) {
            assert_eq!(CommandLine::parse(&wrong).expect_err(&wrong).word, wrong);
        }
    }

    #[test]
    fn required_signature_verifies_all_reads_in_either_mode() {
        for mode in ["cached", "passthrough"] {
            let line = format!("sapwood.verify=require sapwood.mode={mode}");
            let options = CommandLine::parse(&line).expect("legal").mount_options("usr").join(",");
            let parsed = crate::fuse::MountOptions::parse(&options).expect("known options");
            assert_eq!((parsed.verify, parsed.mode), (crate::store::Verify::Always, MountMode::Cached), "{mode}");
        }
    }

    #[test]
    fn every_option_is_known_to_mount() {
        let line = "sapwood.lazy=1 sapwood.timeout=7 sapwood.mode=passthrough sapwood.record=/var/boot";
        let line = CommandLine::parse(line).expect("legal");
        assert!(!line.mount_options("opt").join(",").contains("record"));
        let options = line.mount_options("usr").join(",");
        let parsed = crate::fuse::MountOptions::parse(&options).expect("known options");
        assert_eq!((parsed.mode, parsed.fetch_timeout), (MountMode::Passthrough, Some(Duration::from_secs(7))));
        assert_eq!(parsed.profile_record, Some("/var/boot".into()));
    }
}
