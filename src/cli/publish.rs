//! `sapwood publish`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{Context, environment, keys, output, repository};
use crate::model::RefName;
use crate::remote::format::ProfileText;
use crate::remote::publish::{
    PACK_SIZE, PublishError, PublishOptions, PublishPlan, PublishReport, PublishRequest, apply, plan, survey,
};
use crate::remote::transport::Transport;
use crate::remote::{Remotes, RemotesError};
use crate::store::Store;
use crate::trust::SecretKey;

/// Put commits where others can pull and mount them: a web server's directory, or a bucket
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood key generate release
  sapwood publish --sign release file:///srv/www/os debian/12
  sapwood publish --sign release s3://bucket/os debian/12       AWS_… variables as usual
  sapwood publish --dry-run file:///srv/www/os debian/12        what would be sent

Only what is not there yet is sent, and the ref is written last: readers see the old state or the new one.
A publisher that was stopped can be started again; nothing is sent twice.")]
pub struct Args {
    /// Where to: file:///DIR, s3://BUCKET/…, gs://…, az://…, or the name of a remote
    #[arg(value_name = "DEST")]
    destination: String,
    /// The refs to publish
    #[arg(required = true, value_name = "REF")]
    refs: Vec<RefName>,
    /// Sign commits and refs with this key (a name or a file); several are possible
    #[arg(long, value_name = "KEY")]
    sign: Vec<String>,
    /// Also publish so many ancestors of each ref
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: u64,
    /// Level of zstd, 1 to 22: higher is smaller and slower
    #[arg(long, value_name = "LEVEL", default_value_t = DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Make a delta from so many published ancestors, for clients that have one of them
    #[arg(long, value_name = "N", default_value_t = 1)]
    deltas: u64,
    /// Pack first what this profile lists, and publish it ('sapwood profile record' makes one)
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Replace what is published even if it is no ancestor
    #[arg(long)]
    force: bool,
    /// Bytes after which a pack ends
    #[arg(long, value_name = "BYTES", hide = true, default_value_t = PACK_SIZE)]
    pack_size: u64,
    /// Only say what would be sent
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Twice the time of level 3 for 4 % fewer bytes, paid once: see the measurements in the documentation of the packs.
const DEFAULT_LEVEL: i32 = 6;

/// Runs the verb.
///
/// # Errors
/// When something cannot be read here or written there.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    publish(args, context).with_context(|| format!("cannot publish to {}", args.destination))
}

fn publish(args: &Args, context: &Context) -> Result<ExitCode> {
    let begin = Instant::now();
    let store = repository::open(context)?;
    let transport = destination(&args.destination, &store)?;
    let signers = args.sign.iter().map(|key| keys::secret(key)).collect::<Result<Vec<_>>>()?;
    let profile = args.profile.as_ref().map(read_profile).transpose()?;
    let request = PublishRequest {
        names: args.refs.clone(),
        depth: args.depth,
        force: args.force,
        signers: signers.iter().map(SecretKey::public).collect(),
        profile: profile.clone(),
    };
    let survey = survey(&store, &transport, &request.names, args.depth)?;
    let plan = plan(&store, &survey, &request).map_err(explain)?;
    if args.dry_run {
        show_plan(&plan, args)?;
        return Ok(ExitCode::SUCCESS);
    }
    if signers.is_empty() {
        output::note("nothing is signed: clients need --insecure-unsigned ('sapwood key generate' makes a key)");
    }
    let mut announcements = Vec::new();
    for (name, signer) in args.sign.iter().zip(&signers) {
        announcements.extend(keys::announcement(name)?.map(|bytes| (signer.public(), bytes)));
    }
    let options = PublishOptions {
        level: args.level,
        pack_size: args.pack_size,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        signers,
        announcements,
        deltas: args.deltas,
        profile,
        now: jiff::Timestamp::now().as_second(),
    };
    let progress = AtomicU64::new(0);
    let done = || progress.load(Ordering::Relaxed);
    let work = || apply(&store, &transport, &survey, &plan, &options, &progress);
    let report = output::while_showing(plan.raw_bytes(), done, work).map_err(explain)?;
    show_report(&plan, &report, args, begin)?;
    Ok(ExitCode::SUCCESS)
}

/// A URL, or the remote of that name.
fn destination(text: &str, store: &Store) -> Result<Transport> {
    let (url, options) = if text.contains("://") {
        (text.to_owned(), environment::transport_options())
    } else {
        let name = text.parse().with_context(|| format!("'{text}' is neither a URL nor a remote"))?;
        match Remotes::of(store).read(&name) {
            Err(RemotesError::Unknown(_)) => {
                bail!("'{text}' is neither a URL nor a remote; for a directory write file://{text}")
            }
            other => {
                let config = environment::complete(other?);
                (config.url, config.transport)
            }
        }
    };
    Ok(Transport::open_destination(&url, &options)?)
}

fn read_profile(path: &PathBuf) -> Result<ProfileText> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ProfileText::parse(&text).with_context(|| format!("{}", path.display()))
}

/// Adds the next command where there is an obvious one.
fn explain(error: PublishError) -> anyhow::Error {
    let hint = match &error {
        PublishError::NoSuchRef(_) => "'sapwood refs' lists what there is",
        PublishError::Diverged { .. } => "pull and build on it, or replace it with --force",
        PublishError::Raced { .. } => "run the same command again: what was sent is not sent again",
        _ => return error.into(),
    };
    anyhow::Error::from(error).context(super::error::Hint(hint))
}

fn show_plan(plan: &PublishPlan, args: &Args) -> Result<()> {
    if args.json {
        let refs: Vec<_> = plan
            .refs
            .iter()
            .map(|it| json!({ "ref": it.name, "commit": it.commit, "replaces": it.replaces }))
            .collect();
        let commits: Vec<_> = plan
            .commits
            .iter()
            .map(|it| json!({ "commit": it.id, "new_objects": it.objects.len(), "content_bytes": it.objects.iter().map(|(_, size)| size).sum::<u64>() }))
            .collect();
        return Ok(output::json(&json!({ "refs": refs, "commits": commits, "content_bytes": plan.raw_bytes() }))?);
    }
    if plan.is_empty() {
        output::note("everything is published already");
        return Ok(());
    }
    for it in &plan.refs {
        let before = it.replaces.map_or_else(|| "new".to_owned(), |id| format!("instead of {}", id.short()));
        output::line(format_args!("{} {} ({before})", it.name, it.commit.short()))?;
    }
    Ok(output::line(format_args!(
        "{} commits, {} new objects with {} before compression",
        plan.commits.len(),
        output::count(plan.objects() as u64),
        output::size(plan.raw_bytes())
    ))?)
}

fn show_report(plan: &PublishPlan, report: &PublishReport, args: &Args, begin: Instant) -> Result<()> {
    if args.json {
        return Ok(output::json(report)?);
    }
    if plan.is_empty() {
        output::note("everything was published already");
        return Ok(());
    }
    for it in &plan.refs {
        output::line(format_args!("{} {}", it.name, it.commit))?;
    }
    output::note(format_args!(
        "{} new objects, {} in {} of packs; {} requests, {} sent, {}",
        output::count(plan.objects() as u64),
        output::size(report.content_bytes),
        output::size(report.pack_bytes),
        output::count(report.traffic.requests),
        output::size(report.traffic.sent),
        output::duration(begin.elapsed())
    ));
    Ok(())
}
