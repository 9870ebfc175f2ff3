//! `sapwood publish --prune` and `--regroup`.
//!
//! *Not here*: what may be removed, see `remote::prune`. *Used by* `publish::mod`.

use std::env;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Args, open_destination, print_waiting};
use crate::cli::context::Context;
use crate::cli::{output, repository};
use crate::remote::prune::{
    Keep, PlannedFile, PruneError, PruneOptions, PrunePlan, PruneProgress, PruneReport, RegroupPlan, TotalBytes,
    dry_run, prune,
};
use crate::store::Store;

/// The arguments that say what is removed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Pruning")]
pub(super) struct PruneArgs {
    /// Remove what no ref needs any more, after publishing if refs are given
    #[arg(long)]
    prune: bool,
    /// Pack the newest commit of each ref again if new clients fetch too much for it, as --prune does, but remove nothing
    #[arg(long)]
    regroup: bool,
    /// Of each ref keep the newest N commits
    #[arg(long, value_name = "N", requires = "prune", value_parser = clap::value_parser!(u64).range(1..))]
    keep_last: Option<u64>,
    /// Of each ref keep the commits that are younger than this: 90d, 12h, 2w
    #[arg(long, value_name = "TIME", requires = "prune", value_parser = parse_time)]
    keep_younger_than: Option<Duration>,
    /// Remove a file only when it has not been needed for this long, for pulls under way and caches with old refs
    #[arg(long, value_name = "TIME", requires = "prune", default_value = "24h", value_parser = parse_time)]
    grace: Duration,
}

impl PruneArgs {
    pub(super) const fn is_wanted(&self) -> bool {
        self.prune || self.regroup
    }
}

fn parse_time(text: &str) -> Result<Duration> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || format!("'{text}' is no span of time such as 90d, 12h or 30m");
    let span: jiff::Span = text.parse().with_context(wrong)?;
    let total = span.total((jiff::Unit::Second, jiff::SpanRelativeTo::days_are_24_hours())).with_context(wrong)?;
    Duration::try_from_secs_f64(total).with_context(wrong)
}

/// Prunes, or plans it for `--dry-run`, and prints the result unless it is wanted as JSON. Returns the JSON.
pub(super) fn run(args: &Args, context: &Context) -> Result<Value> {
    let begin = Instant::now();
    let transport = open_destination(&args.destination, context)?;
    let now = SystemTime::now();
    let after = args.prune.keep_younger_than.map(|age| jiff::Timestamp::now().as_second() - age.as_secs() as i64);
    let options = PruneOptions {
        keep: Keep { last: args.prune.keep_last, after },
        grace: if args.prune.prune { args.prune.grace } else { Duration::MAX },
        pack_size: args.pack_size,
        lease: args.lease_terms(),
        announce: Box::new(print_waiting),
        level: args.level,
        store: open_store(context),
        ..PruneOptions::new(temporary_directory(context))
    };
    if args.dry_run {
        let plan = dry_run(&transport, &options, now).map_err(with_hint)?;
        return if args.json { Ok(serde_json::to_value(&plan)?) } else { print_plan(&plan, args.prune.grace) };
    }
    let progress = PruneProgress::default();
    let report = output::while_copying(&progress, || prune(&transport, &options, &progress)).map_err(with_hint)?;
    if args.json { Ok(serde_json::to_value(&report)?) } else { print_report(&report, args.prune.grace, begin) }
}

/// Returns the directory for temporary files, which must have space for one pack: in the repository if there is one, else
/// `$TMPDIR`, else `/var/tmp`.
fn temporary_directory(context: &Context) -> PathBuf {
    let given = || env::var_os("TMPDIR").filter(|path| !path.is_empty()).map(PathBuf::from);
    match open_store(context) {
        Some(store) => store.layout().temporary(),
        None => given().unwrap_or_else(|| PathBuf::from("/var/tmp")),
    }
}

/// Opens the repository, if there is one.
fn open_store(context: &Context) -> Option<Store> {
    repository::path(context).ok().and_then(|path| Store::open(&path).ok())
}

fn with_hint(error: PruneError) -> anyhow::Error {
    let hint = match &error {
        PruneError::RefChanged(_) => "run the same command again",
        PruneError::Unreadable(_) | PruneError::NoCommit { .. } => {
            "publish that ref again, or remove its file if it is not needed any more"
        }
        _ => return error.into(),
    };
    anyhow::Error::from(error).context(crate::cli::error::Hint(hint))
}

fn print_plan(plan: &PrunePlan, grace: Duration) -> Result<Value> {
    let files =
        |files: &[PlannedFile]| format!("{} files, {}", output::count(files.len() as u64), output::size(files.bytes()));
    output::line(format_args!("{} refs and {} commits stay", plan.refs, plan.commits))?;
    if !plan.dropped.is_empty() {
        output::line(format_args!("{} commits are not needed", plan.dropped.len()))?;
    }
    for it in &plan.regroup {
        output::line(describe_regroup(it, "would pack"))?;
    }
    for pack in &plan.repack {
        let (live, bytes) = (output::size(pack.live_bytes), output::size(pack.bytes));
        output::line(format_args!("would copy {live} of {bytes} of pack {}", pack.pack.short()))?;
    }
    if !plan.supersede.is_empty() {
        let time = format_span(grace.as_secs());
        output::line(format_args!("would mark {}, to be removed in {time}", files(&plan.supersede)))?;
    }
    print_waiting_files(plan)?;
    output::line(format_args!("would remove {}", files(&plan.remove)))?;
    Ok(Value::Null)
}

fn describe_regroup(plan: &RegroupPlan, verb: &str) -> String {
    let (content, cost, fresh) = (output::size(plan.content_bytes), plan.cost, plan.fresh);
    format!(
        "{verb} {content} of {} again: a new client fetches {} in {} requests, where about {} in {} are enough",
        plan.name,
        output::size(cost.bytes),
        output::count(cost.requests),
        output::size(fresh.bytes),
        output::count(fresh.requests),
    )
}

fn print_waiting_files(plan: &PrunePlan) -> Result<()> {
    if let Some(longest) = plan.waiting.iter().map(|file| file.seconds).max() {
        output::line(format_args!(
            "{} files, {} are marked and stay for up to {}",
            output::count(plan.waiting.len() as u64),
            output::size(plan.waiting.bytes()),
            format_span(longest)
        ))?;
    }
    Ok(())
}

fn print_report(report: &PruneReport, grace: Duration, begin: Instant) -> Result<Value> {
    let plan = &report.plan;
    let files =
        |files: &[PlannedFile]| format!("{} files, {}", output::count(files.len() as u64), output::size(files.bytes()));
    output::line(format_args!(
        "{} refs and {} commits stay, {}",
        plan.refs,
        plan.commits,
        output::size(plan.kept_bytes)
    ))?;
    for it in &plan.regroup {
        output::line(describe_regroup(it, "packed"))?;
    }
    if !plan.repack.is_empty() || !plan.regroup.is_empty() {
        let (old, new) = (plan.repack.len(), report.new_packs);
        let (bytes, live) = (plan.repack.iter().map(|pack| pack.bytes).sum(), report.new_pack_bytes);
        output::line(format_args!("{old} packs, {} became {new}, {}", output::size(bytes), output::size(live)))?;
    }
    if !plan.supersede.is_empty() {
        let time = format_span(grace.as_secs());
        output::line(format_args!("marked {}: a prune after {time} removes them", files(&plan.supersede)))?;
    }
    print_waiting_files(plan)?;
    output::line(format_args!("removed {}", files(&plan.remove)))?;
    let requests = output::count(report.traffic.requests);
    output::note(format_args!("{requests} requests, {}", output::duration(begin.elapsed())));
    Ok(Value::Null)
}

/// Formats a span of time: `24 h`, `7 d`, `90 s`.
fn format_span(seconds: u64) -> String {
    match seconds {
        172_800.. => format!("{} d", seconds.div_ceil(86_400)),
        7200.. => format!("{} h", seconds.div_ceil(3600)),
        120.. => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_are_parsed_and_formatted() {
        for (text, seconds) in
            [("0", 0), ("90s", 90), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600), ("1d 12h", 129_600)]
        {
            assert_eq!(parse_time(text).expect(text), Duration::from_secs(seconds));
        }
        for text in ["", "5", "-1h", "3 months", "soon"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        assert_eq!(
            [format_span(86_400), format_span(604_800), format_span(90), format_span(600)],
            ["24 h", "7 d", "90 s", "10 min"]
        );
    }
}
