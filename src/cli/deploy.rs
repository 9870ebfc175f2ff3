//! The verb `sapwood deploy`.
//!
//! *Not here*: what it has in common with `upgrade`, `switch` and `kargs`, see `deploying`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::deploying::{self, DeployArgs, DeployCandidate};
use super::error::Hint;
use super::output;
use crate::cli::context::{Context, Run};
use crate::deploy::choose::{self, ChooseError, ChosenCommit, Unsigned};
use crate::deploy::first_boot::FirstBoot;
use crate::deploy::id::StaterootName;
use crate::deploy::kargs::{KargEdit, Kargs};
use crate::deploy::sysroot::State;
use crate::deploy::upgrade::{self, FetchMode, Update};
use crate::source::TrustOptions;

/// Make a commit bootable on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood deploy os:debian/12
      the newest commit of a remote's ref
  sapwood deploy --dry-run os:debian/12
      what that would do
  sapwood deploy 4f2a91c03b7e
      a commit that is here, such as an older one
  sapwood deploy --sysroot /mnt --karg root=LABEL=root --karg rw os:debian/12
  sapwood deploy --sysroot /mnt --karg root=LABEL=root \\
    --hostname web1 --root-ssh-key ~/.ssh/id_ed25519.pub os:debian/12
      a new machine that can be reached after its first boot
  sapwood deploy --unsigned my/ref
      a commit made on this machine

The name of the new deployment is printed on standard output. What was deployed before stays \
beside it to go back to; /etc is merged three ways, /var is kept.")]
pub(crate) struct Args {
    /// The commit: REMOTE:REF, or a ref or commit of the sysroot's repository
    source: String,

    /// The stateroot to deploy into [default: that of the running system, else the configured one]
    #[arg(long, value_name = "NAME")]
    stateroot: Option<StaterootName>,

    /// Add a kernel argument; can be given several times
    #[arg(long = "karg", value_name = "KEY[=VALUE]")]
    kargs: Vec<String>,

    /// Take the kernel arguments of the running kernel
    #[arg(long)]
    kargs_of_running: bool,

    /// The name of a new machine; it is written to /etc/hostname of the deployment
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// Let root log in to a new machine with the public SSH keys of this file
    #[arg(long, value_name = "FILE")]
    root_ssh_key: Option<PathBuf>,

    /// Deploy a commit of this machine although it is not signed
    #[arg(long)]
    unsigned: bool,

    /// Fetch only what the deployment needs to boot; the rest is fetched as it is read
    #[arg(long)]
    lazy: bool,

    /// Accept an older or rewritten state of the ref than the last one seen; for this command only
    #[arg(long)]
    allow_older: bool,

    #[command(flatten)]
    common: DeployArgs,
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let opened = self.common.sysroot.open()?;
        let state = opened.state()?;
        let stateroot = deploying::choose_stateroot(&opened, &state, self.stateroot.as_ref());
        let kargs = karg_edits(self)?;
        let first_boot = first_boot(self, &state)?;
        let store = opened.sysroot.store();
        let Some(upstream) = upgrade::parse_upstream(&self.source)? else {
            let chosen = choose_local(self, &state, store, &stateroot)?;
            let image = store.image(chosen.commit.image)?;
            let candidate = DeployCandidate { chosen, image: &image, stateroot, kargs, first_boot, fetched: None };
            return if self.common.dry_run {
                deploying::print_plan(&opened, &candidate, &self.common)
            } else {
                deploying::deploy(&opened, &candidate, &self.common)
            };
        };
        let trust = TrustOptions { allow_older: self.allow_older, ..TrustOptions::default() };
        let update = Update::query(store, &upstream, &trust, FetchMode::from_flag(self.lazy))?;
        if self.common.dry_run {
            let (chosen, report) = (update.chosen(), Some(update.report()));
            let candidate =
                DeployCandidate { chosen, image: update.image(), stateroot, kargs, first_boot, fetched: report };
            return deploying::print_plan(&opened, &candidate, &self.common);
        }
        let (chosen, image, report) = deploying::fetch(&update, store)?;
        let candidate = DeployCandidate { chosen, image: &image, stateroot, kargs, first_boot, fetched: Some(&report) };
        deploying::deploy(&opened, &candidate, &self.common)
    }
}

/// Returns a commit of the sysroot's repository. If it is of the ref that the machine follows, the new deployment goes on
/// following that ref.
fn choose_local(
    args: &Args,
    state: &State,
    store: &crate::store::Store,
    stateroot: &StaterootName,
) -> Result<ChosenCommit> {
    let id = store.resolve(&args.source)?;
    let unsigned = if args.unsigned { Unsigned::Accepted } else { Unsigned::Refused };
    let mut chosen = match choose::choose_local(store, id, unsigned) {
        Err(error @ ChooseError::Unsigned(_)) => {
            let hint = "if it was made on this machine: --unsigned; if it was pulled: deploy REMOTE:REF";
            return Err(error).context(Hint(hint));
        }
        other => other?,
    };
    let before = state.merge_base(stateroot).and_then(|base| base.origin.upstream.clone());
    chosen.upstream = before.filter(|upstream| upstream.name == chosen.commit.ref_name);
    Ok(chosen)
}

/// Reads the settings of a new machine. On a running system they are those of its own `/etc` and of its root.
fn first_boot(args: &Args, state: &State) -> Result<FirstBoot> {
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let root_ssh_keys = args.root_ssh_key.as_ref().map(read).transpose()?;
    let settings = FirstBoot { hostname: args.hostname.clone(), root_ssh_keys };
    settings.check()?;
    if settings != FirstBoot::default() && state.booted().is_some() {
        let hint = "use 'hostnamectl hostname NAME', and add the key to /root/.ssh/authorized_keys";
        return Err(anyhow::anyhow!("--hostname and --root-ssh-key are for a machine that does not run"))
            .context(Hint(hint));
    }
    Ok(settings)
}

fn karg_edits(args: &Args) -> Result<Vec<KargEdit>> {
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
