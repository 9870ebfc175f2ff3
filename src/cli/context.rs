//! What all verbs have in common: the trait of their arguments, and what they are given besides these.
//!
//! *Used by* the verbs of `cli`, which get it from `cli::main` and from `prepare_root`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

/// The options that stand before the verb on the command line.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The directory given with `--repo`, if any.
    pub(crate) repo: Option<PathBuf>,
}

/// The arguments of a verb, which can be run.
pub(crate) trait Run {
    /// Does what the arguments ask for, prints the result, and returns the exit status.
    fn run(&self, context: &Context) -> Result<ExitCode>;
}
