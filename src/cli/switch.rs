//! `sapwood switch`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::deploying::{self, DeployArgs, Found, Laziness, Wish};
use super::remote_source::TrustArgs;
use crate::deploy::id::StaterootName;

/// Follow another ref, and deploy its newest commit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood switch os:debian/13
  sapwood switch --dry-run os:debian/13     what that would do

/etc is merged and /var kept as in an upgrade. 'sapwood rollback' goes back.")]
pub struct Args {
    /// What to follow from now on
    #[arg(value_name = "REMOTE:REF")]
    source: String,

    /// Fetch only what the deployment needs to boot; the rest comes as it is read
    #[arg(long)]
    lazy: bool,

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
    let Some(upstream) = deploying::upstream(&args.source)? else {
        bail!("'{}' is no REMOTE:REF: 'sapwood deploy' deploys a commit that is here", args.source);
    };
    let store = opened.sysroot.store();
    let found = Found::look(store, &upstream, &TrustArgs::default(), Laziness::from_flag(args.lazy))?;
    if args.common.dry_run {
        let (chosen, fetched) = (found.chosen(), Some(found.report()));
        let wish = Wish { chosen, image: found.image(), stateroot, kargs: Vec::new(), fetched };
        return deploying::tell(&opened, &wish, &args.common);
    }
    let (chosen, image, report) = found.fetch(store)?;
    let wish = Wish { chosen, image: &image, stateroot, kargs: Vec::new(), fetched: Some(&report) };
    deploying::deploy(&opened, &wish, &args.common)
}
