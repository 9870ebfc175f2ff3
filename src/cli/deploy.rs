//! `sapwood deploy`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::deploying::{self, DeployArgs, Found, Laziness, Wish};
use super::error::Hint;
use super::output;
use super::remote_source::TrustArgs;
use crate::deploy::id::StaterootName;
use crate::deploy::kargs::{KargEdit, Kargs};
use crate::deploy::source::{self, ChooseError, Chosen, Unsigned};
use crate::deploy::sysroot::State;

/// Make a commit bootable on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood deploy os:debian/12                      the newest commit of a remote's ref
  sapwood deploy --dry-run os:debian/12            what that would do
  sapwood deploy 4f2a91c03b7e                      a commit that is here, such as an older one
  sapwood deploy --sysroot /mnt --karg root=LABEL=root --karg rw os:debian/12
  sapwood deploy --unsigned my/ref                 a commit made on this machine

The name of the new deployment is printed on standard output. What was deployed before stays
beside it to go back to; /etc is merged three ways, /var is kept.")]
pub struct Args {
    /// What: REMOTE:REF, or a ref or commit of the sysroot's repository
    source: String,

    /// In which stateroot [default: that of the running system, else the configured one]
    #[arg(long, value_name = "NAME")]
    stateroot: Option<StaterootName>,

    /// Add a kernel argument; can be given several times
    #[arg(long = "karg", value_name = "KEY[=VALUE]")]
    kargs: Vec<String>,

    /// Take the kernel arguments of the running kernel
    #[arg(long)]
    kargs_of_running: bool,

    /// Deploy a commit of this machine that nobody signed
    #[arg(long)]
    unsigned: bool,

    /// Fetch only what the deployment needs to boot; the rest comes as it is read
    #[arg(long)]
    lazy: bool,

    /// Accept a state of the remote older than one seen before, this once
    #[arg(long)]
    allow_older: bool,

    #[command(flatten)]
    common: DeployArgs,
}

/// Runs the verb.
///
/// # Errors
/// When the commit cannot be had, cannot boot, or does not fit.
pub fn run(args: &Args) -> Result<ExitCode> {
    let opened = args.common.sysroot.open()?;
    let state = opened.state()?;
    let stateroot = deploying::stateroot(&opened, &state, args.stateroot.as_ref());
    let kargs = kargs(args)?;
    let store = opened.sysroot.store();
    let Some(upstream) = deploying::upstream(&args.source)? else {
        let chosen = local(args, &state, store, &stateroot)?;
        let image = store.image(chosen.commit.image)?;
        let wish = Wish { chosen, image: &image, stateroot, kargs, fetched: None };
        return if args.common.dry_run {
            deploying::tell(&opened, &wish, &args.common)
        } else {
            deploying::deploy(&opened, &wish, &args.common)
        };
    };
    let mut trust = TrustArgs::default();
    trust.allow_older = args.allow_older;
    let found = Found::look(store, &upstream, &trust, Laziness::from_flag(args.lazy))?;
    if args.common.dry_run {
        let (chosen, report) = (found.chosen(), Some(found.report()));
        let wish = Wish { chosen, image: found.image(), stateroot, kargs, fetched: report };
        return deploying::tell(&opened, &wish, &args.common);
    }
    let (chosen, image, report) = found.fetch(store)?;
    let wish = Wish { chosen, image: &image, stateroot, kargs, fetched: Some(&report) };
    deploying::deploy(&opened, &wish, &args.common)
}

/// A commit that is here. It keeps on upgrading from where the machine does, if it is of that ref.
fn local(args: &Args, state: &State, store: &crate::store::Store, stateroot: &StaterootName) -> Result<Chosen> {
    let id = store.resolve(&args.source)?;
    let unsigned = if args.unsigned { Unsigned::Accepted } else { Unsigned::Refused };
    let mut chosen = match source::local(store, id, unsigned) {
        Err(error @ ChooseError::Unsigned(_)) => {
            let hint = "if you made it and mean it: --unsigned; if it was pulled, deploy REMOTE:REF";
            return Err(error).context(Hint(hint));
        }
        other => other?,
    };
    let before = state.merge_base(stateroot).and_then(|base| base.origin.upstream.clone());
    chosen.upstream = before.filter(|upstream| upstream.name == chosen.commit.ref_name);
    Ok(chosen)
}

fn kargs(args: &Args) -> Result<Vec<KargEdit>> {
    let mut edits = Vec::new();
    if args.kargs_of_running {
        let line = std::fs::read_to_string("/proc/cmdline").context("cannot read /proc/cmdline")?;
        let found = Kargs::of_running_kernel(&line);
        output::note(format_args!("kernel arguments of the running kernel: {found}"));
        edits.extend(found.iter().map(|argument| KargEdit::AppendIfMissing(argument.to_owned())));
    }
    edits.extend(args.kargs.iter().cloned().map(KargEdit::AppendIfMissing));
    Ok(edits)
}
