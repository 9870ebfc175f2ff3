//! `sapwood upgrade`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::deploying::{self, DeployArgs, Found, Laziness, UNCHANGED, Wish};
use super::error::Hint;
use super::output;
use super::remote_source::TrustArgs;
use super::sysroot_args::Opened;
use crate::deploy::id::StaterootName;
use crate::deploy::origin::Upstream;
use crate::deploy::sysroot::State;

/// Deploy the newest commit of the ref that the machine follows
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood upgrade                    fetch it, stage it; it boots after the next shutdown
  sapwood upgrade --check            is there something newer? (exit status 77: no)
  sapwood upgrade --preview          what would be fetched, merged, restarted, removed
  sapwood upgrade --download-only    fetch now, deploy later
  sapwood upgrade --lazy --reboot    fetch what it needs to boot, and boot it

A commit that did not come up on this machine is not deployed again by itself.")]
pub struct Args {
    /// Only ask whether there is something newer; exit status 77 when there is not
    #[arg(long)]
    check: bool,

    /// The same as --dry-run
    #[arg(long)]
    preview: bool,

    /// Fetch, and do not deploy
    #[arg(long)]
    download_only: bool,

    /// Fetch only what the deployment needs to boot; the rest comes as it is read
    #[arg(long)]
    lazy: bool,

    /// Exit with status 77 when there is nothing newer
    #[arg(long)]
    unchanged_exit_77: bool,

    /// Deploy a commit that did not come up before
    #[arg(long)]
    again: bool,

    /// Accept a state of the remote older than one seen before, this once
    #[arg(long)]
    allow_older: bool,

    /// Which stateroot [default: that of the running system, else the configured one]
    #[arg(long, value_name = "NAME")]
    stateroot: Option<StaterootName>,

    #[command(flatten)]
    common: DeployArgs,
}

/// Runs the verb.
///
/// # Errors
/// When the remote does not answer or is not believed, or the commit cannot be deployed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let opened = args.common.sysroot.open()?;
    let state = opened.state()?;
    let stateroot = deploying::stateroot(&opened, &state, args.stateroot.as_ref());
    let upstream = followed(&state, &stateroot)?;
    let mut trust = TrustArgs::default();
    trust.allow_older = args.allow_older;
    let found = Found::look(opened.sysroot.store(), &upstream, &trust, Laziness::from_flag(args.lazy))?;
    let next = state.next().filter(|next| next.id.stateroot() == &stateroot);
    let is_new = next.is_none_or(|next| next.origin.commit != found.commit());
    if args.check {
        return check(args, &found, &upstream, is_new);
    }
    if !is_new {
        if args.common.json {
            output::json(&json!({ "changed": false, "commit": found.commit() }))?;
        }
        output::note(format_args!("{upstream} has nothing newer than {}", found.commit().short()));
        let finalised = !args.preview && deploying::finish_staged(&opened, &args.common)?;
        return Ok(if args.unchanged_exit_77 && !finalised { ExitCode::from(UNCHANGED) } else { ExitCode::SUCCESS });
    }
    if let Some(failure) = state.failures.get(&found.commit()).filter(|_| !args.again) {
        let message =
            format!("commit {} did not come up on this machine before: {}", found.commit().short(), failure.reason);
        if args.unchanged_exit_77 {
            output::note(message);
            return Ok(ExitCode::from(UNCHANGED));
        }
        return Err(anyhow::anyhow!(message)).context(Hint("--again deploys it once more"));
    }
    finish(args, &opened, &found, stateroot)
}

fn finish(args: &Args, opened: &Opened, found: &Found, stateroot: StaterootName) -> Result<ExitCode> {
    if args.common.dry_run || args.preview {
        let (chosen, fetched) = (found.chosen(), Some(found.report()));
        let wish = Wish { chosen, image: found.image(), stateroot, kargs: Vec::new(), fetched };
        return deploying::tell(opened, &wish, &args.common);
    }
    let (chosen, image, report) = found.fetch(opened.sysroot.store())?;
    if args.download_only {
        let (objects, bytes) = (output::count(report.objects), output::size(report.download_bytes));
        output::note(format_args!("fetched {objects} objects, {bytes}: 'sapwood upgrade' deploys it"));
        output::line(report.commit)?;
        return Ok(ExitCode::SUCCESS);
    }
    let wish = Wish { chosen, image: &image, stateroot, kargs: Vec::new(), fetched: Some(&report) };
    deploying::deploy(opened, &wish, &args.common)
}

fn followed(state: &State, stateroot: &StaterootName) -> Result<Upstream> {
    let Some(base) = state.merge_base(stateroot).or_else(|| state.next()) else {
        return Err(anyhow::anyhow!("nothing is deployed in stateroot '{stateroot}'"))
            .context(Hint("'sapwood deploy REMOTE:REF' makes the first deployment"));
    };
    // What is staged already may follow another ref.
    let newest = state.staged().filter(|staged| staged.id.stateroot() == stateroot).unwrap_or(base);
    match &newest.origin.upstream {
        Some(upstream) => Ok(upstream.clone()),
        None => bail!("{} follows no remote: 'sapwood switch REMOTE:REF' makes it follow one", newest.id),
    }
}

fn check(args: &Args, found: &Found, upstream: &Upstream, is_new: bool) -> Result<ExitCode> {
    let (commit, report) = (found.commit(), found.report());
    if args.common.json {
        output::json(&json!({ "changed": is_new, "commit": commit, "version": found.version(), "fetch": report }))?;
    } else if is_new {
        let version = found.version().map(|version| format!(" ({version})")).unwrap_or_default();
        let (bytes, requests) = (output::size(report.download_bytes), output::count(report.requests));
        output::line(format_args!("{upstream} has {}{version}: {bytes} in {requests} requests", commit.short()))?;
    } else {
        output::note(format_args!("{upstream} has nothing newer than {}", commit.short()));
    }
    Ok(if is_new { ExitCode::SUCCESS } else { ExitCode::from(UNCHANGED) })
}
