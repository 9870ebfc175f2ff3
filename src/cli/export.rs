//! The verb `sapwood export`.
//!
//! *Not here*: writing directories and archives, see `crate::export`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::error::Hint;
use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::export::{
    ExportOptions, ExportProgress, ExportReport, ExportTarError, Fidelity, TargetContents, export_directory, export_tar,
};
use crate::source::{self, LastLink, LocatedEntry};
use crate::store::Store;

/// Write a commit out as a directory or a tar archive
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood export debian/12 ./root
  sapwood export debian/12:/etc ./etc
  sapwood export debian/12 --tar - | tar --list
  sapwood export debian/12 --tar root.tar
  sapwood export debian/12 --tar >(zstd > root.tar.zst)

Without root, owners, devices and some attributes cannot be set: they are left out and counted, unless --strict.")]
pub(crate) struct Args {
    /// SOURCE, or SOURCE:/path
    source: OsString,

    /// The directory to make; it must not exist or be empty
    #[arg(value_name = "DIR", required_unless_present = "tar", conflicts_with = "tar")]
    directory: Option<PathBuf>,

    /// Write a tar archive to this file ('-': standard output)
    #[arg(long, value_name = "FILE")]
    tar: Option<PathBuf>,

    /// Fail at the first thing that cannot be kept
    #[arg(long, conflicts_with = "tar")]
    strict: bool,

    /// Write into a directory that is not empty, replacing what has the same name; with --tar: replace an existing file
    #[arg(long)]
    overwrite: bool,

    /// Print what was done as JSON (not with --tar -)
    #[arg(long)]
    json: bool,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let start = Instant::now();
        let store = repository::open(context)?;
        let found = source::locate(&store, &self.source, LastLink::Followed, repository::wait_with_notice())?;
        let progress = ExportProgress::default();
        let (report, printable) = match (&self.directory, &self.tar) {
            (Some(directory), _) => (write_directory(self, &store, &found, directory, &progress)?, true),
            (None, Some(file)) if file == Path::new("-") => {
                (write_tar(&store, &found, &mut io::stdout(), &progress).map_err(closed_early)?, false)
            }
            (None, Some(path)) => {
                let mut file = open_archive(path, self.overwrite)?;
                (write_tar(&store, &found, &mut file, &progress).map_err(closed_early)?, true)
            }
            (None, None) => bail!("give a directory or --tar"),
        };
        if self.json && printable {
            output::json(&report)?;
        }
        for example in &report.examples {
            output::note(format_args!("left out: {example}"));
        }
        let (entries, bytes) = (output::count(report.entries), output::size(report.content_bytes));
        output::note(format_args!(
            "exported {entries} entries, {bytes} in {}{}",
            output::duration(start.elapsed()),
            describe_losses(&report)
        ));
        Ok(ExitCode::SUCCESS)
    }
}

/// Opens the file of an archive: a new one, or an existing one to be replaced, or a pipe or device, which is only written to.
fn open_archive(path: &Path, overwrite: bool) -> Result<File> {
    let is_stream = std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    let opened = if is_stream || overwrite {
        File::options().write(true).create(!is_stream).truncate(!is_stream).open(path)
    } else {
        File::create_new(path)
    };
    match opened {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(anyhow::anyhow!("{} exists already", path.display()).context(Hint("--overwrite replaces it")))
        }
        other => other.with_context(|| format!("cannot create {}", path.display())),
    }
}

/// Returns the error of an archive on standard output so that an output that was closed early is recognised.
fn closed_early(error: anyhow::Error) -> anyhow::Error {
    match error.downcast() {
        Ok(ExportTarError::Write(error)) => anyhow::Error::from(error).context("cannot write the archive"),
        Ok(other) => other.into(),
        Err(other) => other,
    }
}

fn write_directory(
    args: &Args,
    store: &Store,
    found: &LocatedEntry,
    target: &Path,
    progress: &ExportProgress,
) -> Result<ExportReport> {
    let options = ExportOptions {
        fidelity: if args.strict { Fidelity::Required } else { Fidelity::BestEffort },
        contents: if args.overwrite { TargetContents::Any } else { TargetContents::Empty },
        ..ExportOptions::default()
    };
    output::while_showing(
        found.commit.content_bytes,
        || progress.bytes(),
        || Ok(export_directory(&found.image, found.ino, store, target, options, progress)?),
    )
}

fn write_tar(
    store: &Store,
    found: &LocatedEntry,
    out: &mut (dyn Write + Send),
    progress: &ExportProgress,
) -> Result<ExportReport> {
    output::while_showing(
        found.commit.content_bytes,
        || progress.bytes(),
        || Ok(export_tar(&found.image, found.ino, store, out, progress)?),
    )
}

/// Describes what could not be kept, as the end of a sentence.
fn describe_losses(report: &ExportReport) -> String {
    let counts = [
        (report.owners_lost, "owners"),
        (report.special_bits_lost, "setuid or setgid bits"),
        (report.devices_lost, "devices"),
        (report.xattrs_lost, "extended attributes"),
        (report.sockets_lost, "sockets"),
    ];
    let lost: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", output::count(*count)))
        .collect();
    if lost.is_empty() { String::new() } else { format!("; not kept: {}", lost.join(", ")) }
}
