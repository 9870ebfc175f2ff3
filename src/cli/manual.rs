//! `sapwood manual`: the man pages and the shells' completions, from the same words as `--help`. For whoever packages.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;
use crate::disk;

/// Write man pages and shell completions below a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood manual /usr        man pages to /usr/share/man/man1, completions for bash, zsh and fish to
                             where each looks for them")]
pub struct Args {
    /// What stands before share/man and share/bash-completion
    prefix: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// When a file cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let share = args.prefix.join("share");
    let pages = share.join("man/man1");
    std::fs::create_dir_all(&pages)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &pages))
        .with_context(|| format!("cannot write {}", pages.display()))?;
    let completions = [
        (Shell::Bash, "bash-completion/completions/sapwood"),
        (Shell::Zsh, "zsh/site-functions/_sapwood"),
        (Shell::Fish, "fish/vendor_completions.d/sapwood.fish"),
    ];
    for (shell, path) in completions {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "sapwood", &mut text);
        write(&share.join(path), &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let made = path.parent().map_or(Ok::<(), io::Error>(()), std::fs::create_dir_all);
    made.and_then(|()| disk::replace(path, bytes)).with_context(|| format!("cannot write {}", path.display()))
}
