//! The verb `sapwood switch`.
//!
//! *Not here*: what it has in common with `deploy`, `upgrade` and `kargs`, see `deploying`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::deploying::{self, DeployArgs, DeployCandidate};
use crate::cli::context::{Context, Run};
use crate::deploy::first_boot::FirstBoot;
use crate::deploy::id::StaterootName;
use crate::deploy::upgrade::{self, FetchMode, Update};
use crate::source::TrustOptions;

/// Follow another ref, and deploy its newest commit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood switch os:debian/13
  sapwood switch --dry-run os:debian/13     what that would do

/etc is merged and /var kept as in an upgrade. 'sapwood rollback' goes back.")]
pub(crate) struct Args {
    /// The ref to follow from now on
    #[arg(value_name = "REMOTE:REF")]
    source: String,

    /// Fetch only what the deployment needs to boot; the rest is fetched as it is read
    #[arg(long)]
    lazy: bool,

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
        let stateroot = deploying::choose_stateroot(&opened, &state, self.stateroot.as_ref());
        let Some(upstream) = upgrade::parse_upstream(&self.source)? else {
            bail!("'{}' is no REMOTE:REF: 'sapwood deploy' deploys a commit that is here", self.source);
        };
        let store = opened.sysroot.store();
        let update = Update::query(store, &upstream, &TrustOptions::default(), FetchMode::from_flag(self.lazy))?;
        if self.common.dry_run {
            let (chosen, fetched) = (update.chosen(), Some(update.report()));
            let candidate = DeployCandidate {
                chosen,
                image: update.image(),
                stateroot,
                kargs: Vec::new(),
                first_boot: FirstBoot::default(),
                fetched,
            };
            return deploying::print_plan(&opened, &candidate, &self.common);
        }
        let (chosen, image, report) = deploying::fetch(&update, store)?;
        let candidate = DeployCandidate {
            chosen,
            image: &image,
            stateroot,
            kargs: Vec::new(),
            first_boot: FirstBoot::default(),
            fetched: Some(&report),
        };
        deploying::deploy(&opened, &candidate, &self.common)
    }
}
