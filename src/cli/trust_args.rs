//! The options that say which signatures are trusted.
//!
//! *Not here*: reading the keys, see `source::keys`. *Used by* all verbs that accept a remote source.

use std::ffi::OsString;
use std::path::Path;

use crate::source::TrustOptions;

/// The arguments that say which signatures are trusted, in addition to the configured ones.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct TrustArgs {
    /// Trust what this key signed: a file, a name, or 64 hex digits; several are possible
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Accept everything from the server, signed or not
    #[arg(long, conflicts_with = "keys")]
    insecure_unsigned: bool,
    /// Accept an older or rewritten state of the ref than the last one seen; for this command only
    #[arg(long)]
    allow_older: bool,
}

impl TrustArgs {
    /// Returns the options that the arguments make.
    pub(crate) fn to_options(&self) -> TrustOptions {
        let Self { keys, insecure_unsigned, allow_older } = self.clone();
        TrustOptions { keys, insecure_unsigned, allow_older }
    }

    /// Returns the same arguments for a process in another directory: files are named by absolute paths.
    pub(crate) fn to_arguments(&self) -> Vec<OsString> {
        let absolute = |key: &String| Path::new(key).canonicalize().map_or_else(|_| key.into(), OsString::from);
        let mut arguments: Vec<OsString> =
            self.keys.iter().flat_map(|key| [OsString::from("--key"), absolute(key)]).collect();
        arguments.extend(self.insecure_unsigned.then(|| "--insecure-unsigned".into()));
        arguments.extend(self.allow_older.then(|| "--allow-older".into()));
        arguments
    }
}
