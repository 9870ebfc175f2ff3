//! What the kernel was told about booting from Sapwood: the words of `/proc/cmdline` that concern it.
//!
//! | word | means |
//! | --- | --- |
//! | `sapwood=STATEROOT/COMMIT.N` | the deployment to boot; read by [`boot_target`](crate::deploy::sysroot::boot_target) |
//! | `sapwood.verify=require` | only if a key in the initramfs has signed its commit |
//! | `sapwood.lazy=1` | the initramfs brings a network up, since contents may be missing |
//! | `sapwood.timeout=SECONDS` | how long a reader waits for what is fetched |
//! | `sapwood.mode=passthrough` | the kernel reads large files by itself |
//! | `sapwood.record=FILE` | what is read of `/usr` is written down, for `sapwood publish --profile` |
//!
//! Of a word given twice the last counts.

use std::time::Duration;

use crate::deploy::kargs::Kargs;
use crate::fuse::{Mode, SECONDS_MAX};

/// What all our words but the first begin with.
const PREFIX: &str = "sapwood.";

/// Whether the commit must be signed by a key that the initramfs holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Signature {
    /// It was verified when it came here.
    #[default]
    Trusted,
    /// `require`: it is verified again at each boot.
    Required,
}

/// Whether what is missing is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Contents {
    /// Everything is here.
    #[default]
    Local,
    /// Some may be missing.
    Lazy,
}

/// What the kernel was told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    /// `sapwood.verify=`
    pub signature: Signature,
    /// `sapwood.lazy=`
    pub contents: Contents,
    /// `sapwood.timeout=`
    pub timeout: Option<Duration>,
    /// `sapwood.mode=`
    pub mode: Mode,
    /// `sapwood.record=`: a path in the new root.
    pub record: Option<String>,
}

/// A word that cannot be understood. Booting on with a guess would be worse than not booting: the loader has another entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kernel argument '{word}' is not understood: expected {expected}")]
pub struct CommandLineError {
    /// The word.
    pub word: String,
    /// What there may be.
    pub expected: &'static str,
}

impl CommandLine {
    /// Reads the text of `/proc/cmdline`.
    ///
    /// # Errors
    /// [`CommandLineError`] for the first word of ours with an unknown value; words of others are not looked at.
    pub fn parse(text: &str) -> Result<Self, CommandLineError> {
        let mut found = Self::default();
        for word in Kargs::parse(text).iter() {
            if let Some(ours) = word.strip_prefix(PREFIX) {
                let (name, value) = ours.split_once('=').unwrap_or((ours, ""));
                found.take(name, value).map_err(|expected| CommandLineError { word: word.to_owned(), expected })?;
            }
        }
        Ok(found)
    }

    /// Takes one word; else says what would have been one.
    fn take(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        match (name, value) {
            ("verify", "require") => self.signature = Signature::Required,
            ("verify", "no") => self.signature = Signature::Trusted,
            ("verify", _) => return Err("require or no"),
            ("lazy", "1" | "") => self.contents = Contents::Lazy,
            ("lazy", "0") => self.contents = Contents::Local,
            ("lazy", _) => return Err("1 or 0"),
            ("timeout", seconds) => {
                let seconds = seconds.parse().ok().filter(|seconds| *seconds <= SECONDS_MAX);
                let seconds = seconds.ok_or("a number of seconds up to 1000000000")?;
                self.timeout = Some(Duration::from_secs(seconds));
            }
            ("mode", "passthrough") => self.mode = Mode::Passthrough,
            ("mode", "cached") => self.mode = Mode::Cached,
            ("mode", _) => return Err("cached or passthrough"),
            ("record", path) if path.starts_with('/') && !path.contains([',', '"']) => {
                self.record = Some(path.to_owned());
            }
            ("record", _) => return Err("an absolute path without commas and quotes"),
            // A typing error in what protects is dangerous.
            _ => return Err("one of sapwood.verify, sapwood.lazy, sapwood.timeout, sapwood.mode, sapwood.record"),
        }
        Ok(())
    }

    /// The options of a mount of the directory `name` of the commit.
    #[must_use]
    pub fn mount_options(&self, name: &str) -> Vec<String> {
        let mut options = ["allow_other", "suid", "dev"].map(str::to_owned).to_vec();
        options.extend((self.mode == Mode::Passthrough).then(|| "passthrough".to_owned()));
        options.extend(self.timeout.map(|timeout| format!("fetch-timeout={}", timeout.as_secs())));
        if self.contents == Contents::Lazy {
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
    fn other_words_are_not_looked_at() {
        let text = "BOOT_IMAGE=/vmlinuz root=LABEL=\"my root\" sapwood=main/0123456789ab.0 quiet\n";
        assert_eq!(CommandLine::parse(text), Ok(CommandLine::default()));
        assert_eq!(CommandLine::default().mount_options("usr"), ["allow_other", "suid", "dev"]);
    }

    #[test]
    fn the_last_word_counts_and_wrong_ones_are_named() {
        let found = CommandLine::parse("sapwood.lazy=1 sapwood.verify=require sapwood.timeout=5 sapwood.lazy=0");
        let found = found.expect("legal");
        assert_eq!((found.signature, found.contents), (Signature::Required, Contents::Local));
        assert_eq!(found.mount_options("usr"), ["allow_other", "suid", "dev", "fetch-timeout=5"]);
        let words = ["verify=yes", "lazy=maybe", "timeout=x", "mode=fast", "record=here", "verified=require"];
        let words = words.into_iter().chain(["timeout=18446744073709551615"]);
        for wrong in words.map(|word| format!("sapwood.{word}")) {
            assert_eq!(CommandLine::parse(&wrong).expect_err(&wrong).word, wrong);
        }
    }

    #[test]
    fn every_option_is_one_of_mount() {
        let line = "sapwood.lazy=1 sapwood.timeout=7 sapwood.mode=passthrough sapwood.record=/var/boot";
        let line = CommandLine::parse(line).expect("legal");
        assert!(!line.mount_options("opt").join(",").contains("record"));
        let options = line.mount_options("usr").join(",");
        let parsed = crate::fuse::MountOptions::parse(&options).expect("known options");
        assert_eq!((parsed.mode, parsed.fetch_timeout), (Mode::Passthrough, Some(Duration::from_secs(7))));
        assert_eq!(parsed.profile_record, Some("/var/boot".into()));
    }
}
