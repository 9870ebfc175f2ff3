//! What `deploy`, `upgrade`, `switch` and `kargs` have in common: looking, fetching, planning, doing. What is told is in
//! `deploy_words`.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use super::deploy_words;
use super::error::Hint;
use super::remote_source::{Origin, RemoteSource, TrustArgs};
use super::sysroot_args::{Opened, SysrootArgs, now, ownership};
use super::{output, repository};
use crate::deploy::boot::find_kernel;
use crate::deploy::etc::DEFAULTS;
use crate::deploy::files;
use crate::deploy::id::StaterootName;
use crate::deploy::kargs::KargEdit;
use crate::deploy::origin::{Upstream, Voucher};
use crate::deploy::plan::{DeployPlan, PlanError, Request, When};
use crate::deploy::programs;
use crate::deploy::source::{self, Chosen};
use crate::deploy::sysroot::State;
use crate::image::Image;
use crate::model::{CommitId, ImagePath};
use crate::remote::Remote;
use crate::remote::fetch::FetchProgress;
use crate::remote::pull::{self, Preview, PullOptions, RefReport};
use crate::store::Store;

/// Exit status of `--unchanged-exit-77`.
pub const UNCHANGED: u8 = 77;

/// What a lazy deployment needs at once besides its kernel: what is copied out of it, and what describes it.
const LAZY_PATHS: [&str; 5] = ["/var", "/root", "/usr/lib/os-release", "/usr/lib/sapwood", "/usr/lib/systemd/system"];

/// The programs it needs as a whole, with what they load, so that a machine that has lost its network before the rest came
/// still says what is wrong with it and shuts down: a page of process 1 that cannot be read is the end of the machine.
const LAZY_PROGRAMS: [&str; 8] = [
    "/usr/lib/systemd/systemd",
    "/usr/lib/systemd/systemd-executor",
    "/usr/lib/systemd/systemd-shutdown",
    "/usr/bin/systemctl",
    "/usr/bin/mount",
    "/usr/bin/umount",
    "/usr/bin/sh",
    "/usr/bin/sapwood",
];

/// Choices of every verb that makes a deployment.
#[derive(Debug, Clone, clap::Args)]
pub struct DeployArgs {
    #[command(flatten)]
    pub sysroot: SysrootArgs,

    /// Put it into the boot menu at once, even on a running system [default there: at shutdown]
    #[arg(long, visible_alias = "finalize-now")]
    pub finalise_now: bool,

    /// Only tell what would be done: what is fetched, the room it takes, /etc, services, what is removed
    #[arg(long)]
    pub dry_run: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Reboot afterwards
    #[arg(long, conflicts_with = "dry_run")]
    pub reboot: bool,
}

/// How much of a commit is fetched before it is deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Laziness {
    /// All of it.
    Whole,
    /// What it needs to boot; the rest comes as it is read, or in the background.
    Lazy,
}

impl Laziness {
    /// As a flag says.
    #[must_use]
    pub const fn from_flag(lazy: bool) -> Self {
        if lazy { Self::Lazy } else { Self::Whole }
    }
}

/// What a remote has.
pub struct Found {
    upstream: Upstream,
    remote: Remote,
    options: PullOptions,
    preview: Preview,
}

/// `REMOTE:REF` as people write it.
///
/// # Errors
/// When it is a URL or has a path: upgrades need a remote with a name.
pub fn upstream(text: &str) -> Result<Option<Upstream>> {
    let Some(source) = RemoteSource::parse(text)? else { return Ok(None) };
    match source.origin {
        Origin::Url(url) => Err(anyhow::anyhow!("a machine upgrades from a remote that has a name, not from {url}"))
            .context(Hint("'sapwood --repo SYSROOT/sapwood/repo remote add NAME URL --key FILE' adds one")),
        Origin::Named(_) if !source.path.is_root() => {
            bail!("'{text}' is a directory: only whole commits can be deployed")
        }
        Origin::Named(remote) => Ok(Some(Upstream { remote, name: source.name })),
    }
}

impl Found {
    /// Asks what the remote has. Writes nothing.
    ///
    /// # Errors
    /// When it does not answer, or is not believed.
    pub fn look(store: &Store, upstream: &Upstream, trust: &TrustArgs, laziness: Laziness) -> Result<Self> {
        let source = RemoteSource {
            origin: Origin::Named(upstream.remote.clone()),
            name: upstream.name.clone(),
            path: ImagePath::root(),
        };
        let remote = source.open(store, trust)?;
        let (upstream, name) = (upstream.clone(), &source.name);
        if laziness == Laziness::Whole {
            let options = PullOptions::default();
            let preview = pull::preview(store, &remote, name, &options)?;
            return Ok(Self { upstream, remote, options, preview });
        }
        let names = PullOptions { metadata_only: true, ..PullOptions::default() };
        let first = pull::preview(store, &remote, name, &names)?;
        let options =
            PullOptions { paths: lazy_paths(store, &first.image)?, boot_profile: true, ..PullOptions::default() };
        let preview = pull::preview(store, &remote, name, &options)?;
        Ok(Self { upstream, remote, options, preview })
    }

    /// The commit.
    #[must_use]
    pub const fn commit(&self) -> CommitId {
        self.preview.report.commit
    }

    /// The version it states.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.preview.commit.version.as_deref()
    }

    /// What fetching it would do.
    #[must_use]
    pub const fn report(&self) -> &RefReport {
        &self.preview.report
    }

    /// Its image.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.preview.image
    }

    /// The commit, as it was checked when it was asked for.
    #[must_use]
    pub fn chosen(&self) -> Chosen {
        Chosen {
            id: self.commit(),
            commit: self.preview.commit.clone(),
            voucher: self.preview.commit.signer().map_or(Voucher::InsecureRemote, Voucher::Signed),
            upstream: Some(self.upstream.clone()),
        }
    }

    /// Brings it here.
    ///
    /// # Errors
    /// When it does not come; what arrived is kept for the next attempt.
    pub fn fetch(&self, store: &Store) -> Result<(Chosen, Image, RefReport)> {
        // Before a gigabyte comes for nothing.
        find_kernel(self.image()).map_err(|source| PlanError::Kernel { commit: self.commit(), source })?;
        let writer = store.writer(repository::announced())?;
        let progress = FetchProgress::default();
        let mut options = self.options.clone();
        let mut all: Option<RefReport> = None;
        loop {
            let pull = || pull::pull(&writer, &self.remote, &self.upstream.name, &options, &progress);
            let report = output::while_fetching(&progress, pull)?;
            let chosen = source::pulled(store, report.commit, self.upstream.clone())?;
            let image = store.image(chosen.commit.image)?;
            let report = all.map_or(report.clone(), |before| before.and_then(report));
            // What has come tells what else is needed.
            let paths = if options.paths.is_empty() { Vec::new() } else { lazy_paths(store, &image)? };
            if paths == options.paths {
                return Ok((chosen, image, report));
            }
            options.paths = paths;
            all = Some(report);
        }
    }
}

/// The paths that a lazy deployment needs at once, as far as the image has them and what is here tells.
fn lazy_paths(store: &Store, image: &Image) -> Result<Vec<ImagePath>> {
    let mut texts: Vec<String> = LAZY_PATHS.iter().chain(&DEFAULTS).map(|path| (*path).to_owned()).collect();
    texts.extend(find_kernel(image)?.paths);
    let mut paths = Vec::new();
    for text in texts {
        if files::resolve(image, &text)?.is_some() {
            paths.push(ImagePath::parse(text.as_bytes())?);
        }
    }
    paths.extend(programs::with_libraries(image, store, &LAZY_PROGRAMS)?);
    Ok(paths)
}

/// A commit that is to be deployed, and what was or would be fetched for it.
pub struct Wish<'a> {
    /// The commit.
    pub chosen: Chosen,
    /// Its image.
    pub image: &'a Image,
    /// In which stateroot.
    pub stateroot: StaterootName,
    /// Changes of the kernel arguments.
    pub kargs: Vec<KargEdit>,
    /// What is fetched for it.
    pub fetched: Option<&'a RefReport>,
}

/// The stateroot that is meant: the one given, or that of the running system, or the configured one.
#[must_use]
pub fn stateroot(opened: &Opened, state: &State, given: Option<&StaterootName>) -> StaterootName {
    let booted = state.booted().map(|booted| booted.id.stateroot());
    given.or(booted).unwrap_or(&opened.sysroot.config().stateroot).clone()
}

/// Tells what would be done.
///
/// # Errors
/// When it cannot be done.
pub fn tell(opened: &Opened, wish: &Wish<'_>, args: &DeployArgs) -> Result<ExitCode> {
    let state = opened.state()?;
    let plan = plan(opened, &state, wish, args, wish.fetched.map_or(0, |report| report.disk_bytes))?;
    if args.json {
        output::json(&deploy_words::json(&plan, &state, wish.fetched))?;
    } else {
        deploy_words::print(&plan, &state, wish.fetched)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Deploys a commit that is here.
///
/// # Errors
/// When it cannot be done; the machine boots what it booted before then, or the new deployment.
pub fn deploy(opened: &Opened, wish: &Wish<'_>, args: &DeployArgs) -> Result<ExitCode> {
    let lock = opened.lock()?;
    let changer = opened.changer(&lock);
    changer.tidy_up()?;
    let state = changer.state()?;
    let plan = plan(opened, &state, wish, args, 0)?;
    if plan.is_there(&state) {
        let there = state.next().map(|next| next.id.to_string()).unwrap_or_default();
        if plan.when == When::AtShutdown || changer.finalise()?.is_none() {
            output::note(format_args!("{there} is this commit with these arguments already: nothing to do"));
        } else {
            output::note(format_args!("{there} was staged and is in the boot menu now"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    changer.deploy(&plan, wish.image)?;
    if args.json {
        output::json(&deploy_words::json(&plan, &state, wish.fetched))?;
    } else {
        deploy_words::summary(&plan)?;
    }
    if args.reboot { reboot() } else { Ok(ExitCode::SUCCESS) }
}

fn plan(opened: &Opened, state: &State, wish: &Wish<'_>, args: &DeployArgs, fetch_bytes: u64) -> Result<DeployPlan> {
    let is_running = state.booted().is_some();
    let request = Request {
        chosen: &wish.chosen,
        image: wish.image,
        stateroot: wish.stateroot.clone(),
        kargs: &wish.kargs,
        when: if is_running && !args.finalise_now { When::AtShutdown } else { When::Now },
        ownership: ownership(),
        fetch_bytes,
        now: now(),
    };
    Ok(DeployPlan::new(&opened.sysroot, state, &request)?)
}

/// Puts into the boot menu what was staged before, if it is to be there at once, and removes what a killed operation left.
///
/// # Errors
/// When that cannot be done.
pub fn finish_staged(opened: &Opened, args: &DeployArgs) -> Result<bool> {
    if args.dry_run {
        return Ok(false);
    }
    let lock = opened.lock()?;
    let changer = opened.changer(&lock);
    let state = changer.state()?;
    if state.staged().is_none() || (state.booted().is_some() && !args.finalise_now) {
        changer.tidy_up()?;
        return Ok(false);
    }
    let done = changer.finalise()?;
    if let Some(id) = &done {
        output::note(format_args!("{id} was staged and is in the boot menu now"));
    }
    Ok(done.is_some())
}

/// Reboots the machine.
///
/// # Errors
/// When that cannot be asked for.
pub fn reboot() -> Result<ExitCode> {
    let status = Command::new("systemctl").arg("reboot").status().context("cannot run systemctl reboot")?;
    if status.success() { Ok(ExitCode::SUCCESS) } else { bail!("systemctl reboot failed: {status}") }
}
