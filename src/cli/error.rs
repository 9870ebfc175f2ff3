//! The output of errors: one line with the error and its causes, a hint with the next command, and the exit status.
//!
//! *Not here*: the hints themselves (`advice`). *Used by* `cli::main`, `prepare_root`, and verbs that attach a `Hint` or report several errors.

use std::io;
use std::process::ExitCode;

use super::{advice, output};
use crate::mount::ProcessError;

/// The exit status of wrong usage.
pub(crate) const USAGE_EXIT_STATUS: u8 = 2;

/// Prints clap's message. Help and version are results; every other message is about wrong usage.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    // If the output is closed, the message is lost.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE_EXIT_STATUS) } else { ExitCode::SUCCESS }
}

/// A context of an error that is printed as a hint of what to do next, not as a part of the message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hint(pub(crate) &'static str);

impl std::fmt::Display for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// Prints an error and its hint, and returns the exit status. An output that was closed early is no error.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(ProcessError::AlreadyReported) = error.downcast_ref() {
        return ExitCode::FAILURE;
    }
    if is_broken_pipe(error) {
        // The program that read the output has closed it, as in `sapwood log | head`.
        return ExitCode::SUCCESS;
    }
    if let Some(full) = full_output(error) {
        output::note(format_args!("sapwood: cannot write the output: {full}"));
        return ExitCode::FAILURE;
    }
    output::note(format_args!("sapwood: {}", to_one_line(error)));
    let given = error.downcast_ref::<Hint>().map(|hint| hint.0);
    if let Some(hint) = given.map(str::to_owned).or_else(|| error.chain().find_map(advice::hint_for)) {
        output::note(format_args!("hint: {hint}"));
    }
    ExitCode::FAILURE
}

/// Returns an error and its causes as one line, without its hint.
pub(crate) fn to_one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let given = error.downcast_ref::<Hint>().map(|hint| hint.0);
    for cause in error.chain().map(ToString::to_string).filter(|cause| given != Some(cause)) {
        // Transparent wrappers repeat their source.
        if !text.ends_with(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

/// Returns the error of an output that has no room. What is printed has no context; everything else has, and is about the
/// repository.
fn full_output(error: &anyhow::Error) -> Option<&io::Error> {
    let error = error.downcast_ref::<io::Error>().filter(|_| error.chain().len() == 1);
    error.filter(|error| error.kind() == io::ErrorKind::StorageFull)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
