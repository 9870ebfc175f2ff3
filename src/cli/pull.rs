//! The verb `sapwood pull`.
//!
//! *Not here*: planning and fetching, see `remote::pull`.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::trust_args::TrustArgs;
use super::{error, output, repository};
use crate::cli::context::{Context, Run};
use crate::model::ImagePath;
use crate::remote::fetch::FetchProgress;
use crate::remote::pull::{self, PullOptions, RefReport};
use crate::remote::transport::without_secret;
use crate::source::RemoteSource;
use crate::store::{Store, StoreWriter};

/// Fetch commits from a remote into the repository
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood pull debian:12/server                 the newest commit, all of it
  sapwood pull --depth 2 debian:12/server       and the two before it
  sapwood pull --dry-run debian:12/server       how much that would be
  sapwood pull --path /usr/bin --path /usr/lib debian:12/server
  sapwood pull --key release.pub https://os.example.org/repo#12/server

What is here already is not fetched again, wherever it came from. A pull that was interrupted \
continues where it was when it is started again. The pulled commit has the name REMOTE:REF here, \
too: 'sapwood ls debian:12/server:/usr'. The id of each commit is printed on standard output.")]
pub(crate) struct Args {
    /// What to pull: REMOTE:REF or URL#REF
    #[arg(value_name = "REMOTE:REF", required = true)]
    sources: Vec<String>,

    /// Pull this many commits before the newest, too
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: u64,

    /// Fetch only names and attributes; contents are fetched when they are read or pulled
    #[arg(long)]
    metadata_only: bool,

    /// Fetch only contents below this path; can be given several times
    #[arg(long = "path", value_name = "PATH", conflicts_with = "metadata_only", value_parser = parse_path)]
    paths: Vec<ImagePath>,

    /// Fetch whole contents even where the difference from an older commit would do
    #[arg(long)]
    no_delta: bool,

    /// Only say what would be fetched
    #[arg(long)]
    dry_run: bool,

    /// Print JSON instead of the bare ids
    #[arg(long)]
    json: bool,

    /// Write what was received durably after this many bytes; for tests of what a killed pull leaves
    #[arg(long, value_name = "BYTES", hide = true)]
    settle: Option<u64>,

    #[command(flatten)]
    trust: TrustArgs,
}

fn parse_path(text: &str) -> Result<ImagePath> {
    Ok(ImagePath::parse(text.as_bytes())?)
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let sources: Vec<RemoteSource> = self.sources.iter().map(|text| parse_source(text)).collect::<Result<_>>()?;
        let store = repository::open(context)?;
        // Writing to the repository needs the lock. A dry run writes nothing there, so it does not wait for the lock.
        let writer = if self.dry_run { None } else { Some(store.writer(repository::wait_with_notice())?) };
        let mut reports = Vec::new();
        let mut failures = Vec::new();
        for (source, text) in sources.iter().zip(&self.sources) {
            let start = Instant::now();
            match pull_source(self, &store, writer.as_ref(), source)
                .with_context(|| format!("cannot pull {}", without_secret(text)))
            {
                Ok(report) => {
                    if !self.json {
                        print_report(self, text, &report, start)?;
                    }
                    reports.push(report);
                }
                Err(failure) => failures.push(failure),
            }
        }
        if self.json {
            output::json(&reports)?;
        }
        match (failures.pop(), failures.is_empty()) {
            (None, _) => Ok(ExitCode::SUCCESS),
            (Some(failure), true) => Err(failure),
            (Some(last), false) => {
                failures.iter().for_each(|failure| {
                    error::report(failure);
                });
                Err(last)
            }
        }
    }
}

fn parse_source(text: &str) -> Result<RemoteSource> {
    match RemoteSource::parse(text)? {
        Some(source) => Ok(source),
        None => {
            bail!("'{}' names no ref of a remote: write REMOTE:REF, as origin:main, or URL#REF", without_secret(text))
        }
    }
}

fn pull_source(args: &Args, store: &Store, writer: Option<&StoreWriter>, source: &RemoteSource) -> Result<RefReport> {
    let remote = source.open(store, &args.trust.to_options())?;
    let mut options = PullOptions {
        depth: args.depth,
        paths: args.paths.clone(),
        metadata_only: args.metadata_only,
        without_deltas: args.no_delta,
        ..PullOptions::default()
    };
    if !source.path.is_root() {
        options.paths.push(source.path.clone());
    }
    options.fetch.flush_bytes = args.settle.unwrap_or(options.fetch.flush_bytes);
    let Some(writer) = writer else { return Ok(pull::dry_run(store, &remote, &source.name, &options)?) };
    let progress = FetchProgress::default();
    Ok(output::while_fetching(&progress, || pull::pull(writer, &remote, &source.name, &options, &progress))?)
}

fn print_report(args: &Args, text: &str, report: &RefReport, start: Instant) -> Result<()> {
    let (objects, requests) = (output::count(report.objects), output::count(report.requests));
    let (download, disk) = (output::size(report.download_bytes), output::size(report.disk_bytes));
    let commit = report.commit;
    if args.dry_run {
        output::line(format_args!(
            "{text}: commit {}: would fetch {objects} objects, {download} in {requests} requests; {disk} on disk",
            commit.short()
        ))?;
        return Ok(());
    }
    output::line(commit)?;
    let time = output::duration(start.elapsed());
    output::note(format_args!(
        "{text}: {objects} new objects, {download} in {requests} requests, {disk} on disk, {time}"
    ));
    if report.commits.iter().any(|commit| commit.lazy) {
        output::note(
            "contents that were not asked for were not fetched; 'sapwood pull' without --path or --metadata-only fetches them",
        );
    }
    Ok(())
}
