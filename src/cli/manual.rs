//! The verb `sapwood manual`, which writes man pages and shell completions from the text of `--help`. Packages are built with
//! it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap_complete::Shell;

use super::command;
use crate::cli::context::{Context, Run};
use crate::disk;

/// Write man pages and shell completions below a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood manual /usr
      man pages to /usr/share/man/man1, completions for bash, zsh and fish to where each looks for them")]
pub(crate) struct Args {
    /// The directory in which share/man and share/bash-completion are made
    prefix: PathBuf,
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let share = self.prefix.join("share");
        let pages = share.join("man/man1");
        std::fs::create_dir_all(&pages)
            .and_then(|()| clap_mangen::generate_to(command(), &pages))
            .with_context(|| format!("cannot write {}", pages.display()))?;
        let completions = [
            (Shell::Bash, "bash-completion/completions/sapwood"),
            (Shell::Zsh, "zsh/site-functions/_sapwood"),
            (Shell::Fish, "fish/vendor_completions.d/sapwood.fish"),
        ];
        for (shell, path) in completions {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command(), "sapwood", &mut text);
            write(&share.join(path), &text)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let made = path.parent().map_or(Ok::<(), io::Error>(()), std::fs::create_dir_all);
    made.and_then(|()| disk::replace(path, bytes)).with_context(|| format!("cannot write {}", path.display()))
}
