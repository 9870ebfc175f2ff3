//! The verb `sapwood upgrade`.
//!
//! *Not here*: what it has in common with `deploy`, `switch` and `kargs`, see `deploying`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::deploying::{self, DeployArgs, DeployCandidate, UNCHANGED_EXIT_STATUS};
use super::error::Hint;
use super::output;
use super::sysroot_args::OpenSysroot;
use crate::cli::context::{Context, Run};
use crate::deploy::first_boot::FirstBoot;
use crate::deploy::id::StaterootName;
use crate::deploy::origin::Upstream;
use crate::deploy::sysroot::State;
use crate::deploy::upgrade::{FetchMode, Update};
use crate::source::TrustOptions;

/// Deploy the newest commit of the ref that the machine follows
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood upgrade
      fetch it, stage it; it boots after the next shutdown
  sapwood upgrade --check
      is there something newer? (exit status 77: no)
  sapwood upgrade --preview
      what would be fetched, merged, restarted, removed
  sapwood upgrade --download-only
      fetch now, deploy later
  sapwood upgrade --lazy --reboot
      fetch what it needs to boot, and boot it

A commit that did not come up on this machine, or that was left by 'sapwood rollback', is deployed \
again only with --again.")]
pub(crate) struct Args {
    /// Only ask whether there is something newer; exit status 77 when there is not
    #[arg(long)]
    check: bool,

    /// The same as --dry-run
    #[arg(long)]
    preview: bool,

    /// Fetch the commit, but do not deploy it
    #[arg(long)]
    download_only: bool,

    /// Fetch only what the deployment needs to boot; the rest is fetched as it is read
    #[arg(long)]
    lazy: bool,

    /// Exit with status 77 when there is nothing newer
    #[arg(long)]
    unchanged_exit_77: bool,

    /// Deploy a commit even if it did not come up before or was left by a rollback
    #[arg(long)]
    again: bool,

    /// Accept an older or rewritten state of the ref than the last one seen; for this command only
    #[arg(long)]
    allow_older: bool,

    /// The stateroot [default: that of the running system, else the configured one]
    #[arg(long, value_name = "NAME")]
    stateroot: Option<StaterootName>,

    #[command(flatten)]
    common: DeployArgs,
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let opened = self.common.sysroot.open()?;
        let state = opened.state()?;
        state.check_menu()?;
        let stateroot = deploying::choose_stateroot(&opened, &state, self.stateroot.as_ref());
        let upstream = followed_upstream(&state, &stateroot)?;
        let trust = TrustOptions { allow_older: self.allow_older, ..TrustOptions::default() };
        let update = Update::query(opened.sysroot.store(), &upstream, &trust, FetchMode::from_flag(self.lazy))?;
        let next = state.next_to_boot().filter(|next| next.id.stateroot() == &stateroot);
        let is_new = next.is_none_or(|next| next.origin.commit != update.commit());
        if self.check {
            let avoided = reason_to_stay_away(&state, &update).filter(|_| is_new && !self.again);
            return print_check(self, &update, &upstream, is_new, avoided);
        }
        if !is_new {
            if self.common.json {
                output::json(&json!({ "changed": false, "commit": update.commit() }))?;
            }
            output::note(format_args!("{upstream} has nothing newer than {}", update.commit().short()));
            let finalised = !self.preview && deploying::finalise_staged(&opened, &self.common)?;
            deploying::note_menu_problems(&opened)?;
            return Ok(if self.unchanged_exit_77 && !finalised {
                ExitCode::from(UNCHANGED_EXIT_STATUS)
            } else {
                ExitCode::SUCCESS
            });
        }
        if let Some(message) = reason_to_stay_away(&state, &update).filter(|_| !self.again) {
            if self.unchanged_exit_77 {
                output::note(message);
                return Ok(ExitCode::from(UNCHANGED_EXIT_STATUS));
            }
            return Err(anyhow::anyhow!(message)).context(Hint("--again deploys it"));
        }
        deploy_update(self, &opened, &update, stateroot)
    }
}

fn deploy_update(args: &Args, opened: &OpenSysroot, update: &Update, stateroot: StaterootName) -> Result<ExitCode> {
    if args.common.dry_run || args.preview {
        let (chosen, fetched) = (update.chosen(), Some(update.report()));
        let candidate = DeployCandidate {
            chosen,
            image: update.image(),
            stateroot,
            kargs: Vec::new(),
            first_boot: FirstBoot::default(),
            fetched,
        };
        return deploying::print_plan(opened, &candidate, &args.common);
    }
    let (chosen, image, report) = deploying::fetch(update, opened.sysroot.store())?;
    if args.download_only {
        let (objects, bytes) = (output::count(report.objects), output::size(report.download_bytes));
        output::note(format_args!("fetched {objects} objects, {bytes}: 'sapwood upgrade' deploys it"));
        output::line(report.commit)?;
        return Ok(ExitCode::SUCCESS);
    }
    let candidate = DeployCandidate {
        chosen,
        image: &image,
        stateroot,
        kargs: Vec::new(),
        first_boot: FirstBoot::default(),
        fetched: Some(&report),
    };
    deploying::deploy(opened, &candidate, &args.common)
}

fn followed_upstream(state: &State, stateroot: &StaterootName) -> Result<Upstream> {
    let Some(base) = state.merge_base(stateroot).or_else(|| state.next_to_boot()) else {
        return Err(anyhow::anyhow!("nothing is deployed in stateroot '{stateroot}'"))
            .context(Hint("'sapwood deploy REMOTE:REF' makes the first deployment"));
    };
    // A deployment that is staged already may follow another ref.
    let newest = state.staged().filter(|staged| staged.id.stateroot() == stateroot).unwrap_or(base);
    match &newest.origin.upstream {
        Some(upstream) => Ok(upstream.clone()),
        None => bail!("{} follows no remote: 'sapwood switch REMOTE:REF' makes it follow one", newest.id),
    }
}

/// Returns why the commit is deployed only when the administrator says so: it did not come up here, or was left by a rollback.
fn reason_to_stay_away(state: &State, update: &Update) -> Option<String> {
    let commit = update.commit();
    if let Some(failure) = state.failures.get(&commit) {
        return Some(format!("commit {} did not come up on this machine before: {}", commit.short(), failure.reason));
    }
    let left = state.left.get(&commit)?;
    Some(format!("commit {} was left by a rollback at {}", commit.short(), output::time(left.time)))
}

fn print_check(
    args: &Args,
    update: &Update,
    upstream: &Upstream,
    is_new: bool,
    avoided: Option<String>,
) -> Result<ExitCode> {
    let (commit, report) = (update.commit(), update.report());
    if args.common.json {
        let version = update.version();
        output::json(&json!({
            "changed": is_new, "commit": commit, "version": version, "fetch": report, "avoided": avoided,
        }))?;
    } else if let Some(reason) = &avoided {
        output::note(format_args!("{upstream} has nothing newer: {reason}"));
    } else if is_new {
        let version = update.version().map(|version| format!(" ({version})")).unwrap_or_default();
        let (bytes, requests) = (output::size(report.download_bytes), output::count(report.requests));
        output::line(format_args!("{upstream} has {}{version}: {bytes} in {requests} requests", commit.short()))?;
    } else {
        output::note(format_args!("{upstream} has nothing newer than {}", commit.short()));
    }
    Ok(if is_new && avoided.is_none() { ExitCode::SUCCESS } else { ExitCode::from(UNCHANGED_EXIT_STATUS) })
}
