//! `sapwood export`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::source::Located;
use super::{Context, output, repository, source};
use crate::export::{DirectoryOptions, Fidelity, Progress, Report, TargetContents, export_directory, export_tar};
use crate::store::Store;

/// Write a commit out as a directory or a tar archive
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood export debian/12 ./root
  sapwood export debian/12:/etc ./etc
  sapwood export debian/12 --tar - | tar --list
  sapwood export debian/12 --tar root.tar

Without root, owners, devices and some attributes cannot be set: they are left out and counted, unless --strict.")]
pub struct Args {
    /// SOURCE, or SOURCE:/path
    source: String,

    /// The directory to make; it must not exist or be empty
    #[arg(value_name = "DIR", required_unless_present = "tar", conflicts_with = "tar")]
    directory: Option<PathBuf>,

    /// Write a tar archive to this file ('-': standard output)
    #[arg(long, value_name = "FILE")]
    tar: Option<PathBuf>,

    /// Fail at the first thing that cannot be kept
    #[arg(long, conflicts_with = "tar")]
    strict: bool,

    /// Write into a directory that is not empty: what has the same name is replaced
    #[arg(long, conflicts_with = "tar")]
    overwrite: bool,

    /// Print what was done as JSON (not with --tar -)
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When something cannot be read or written; what was written until then stays.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let start = Instant::now();
    let store = repository::open(context)?;
    let found = source::locate(&store, &args.source)?;
    let progress = Progress::default();
    let (report, printable) = match (&args.directory, &args.tar) {
        (Some(directory), _) => (to_directory(args, &store, &found, directory, &progress)?, true),
        (None, Some(file)) if file == Path::new("-") => (to_tar(&store, &found, &mut io::stdout(), &progress)?, false),
        (None, Some(path)) => {
            let mut file = File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
            (to_tar(&store, &found, &mut file, &progress)?, true)
        }
        (None, None) => bail!("give a directory or --tar"),
    };
    if args.json && printable {
        output::json(&report)?;
    }
    for example in &report.examples {
        output::note(format_args!("left out: {example}"));
    }
    let (entries, bytes) = (output::count(report.entries), output::size(report.content_bytes));
    output::note(format_args!(
        "exported {entries} entries, {bytes} in {}{}",
        output::duration(start.elapsed()),
        losses(&report)
    ));
    Ok(ExitCode::SUCCESS)
}

fn to_directory(args: &Args, store: &Store, found: &Located, target: &Path, progress: &Progress) -> Result<Report> {
    let options = DirectoryOptions {
        fidelity: if args.strict { Fidelity::Required } else { Fidelity::BestEffort },
        contents: if args.overwrite { TargetContents::Any } else { TargetContents::Empty },
        ..DirectoryOptions::default()
    };
    output::while_showing(
        found.commit.content_bytes,
        || progress.bytes(),
        || Ok(export_directory(&found.image, found.ino, store, target, options, progress)?),
    )
}

fn to_tar(store: &Store, found: &Located, out: &mut (dyn Write + Send), progress: &Progress) -> Result<Report> {
    output::while_showing(
        found.commit.content_bytes,
        || progress.bytes(),
        || Ok(export_tar(&found.image, found.ino, store, out, progress)?),
    )
}

/// What could not be kept, as the end of a sentence.
fn losses(report: &Report) -> String {
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
