//! What deploying a commit would do, as a value. Reads, writes nothing.
//!
//! ```text
//! plan: the /etc to be, the kernel, its arguments, the menu, what goes, the room all this needs
//!  → apply: make the deployment beside the others, durably, and record it as staged
//!  → finalise, at once or at shutdown: merge /etc once more, put it into the boot menu, remove what goes
//! ```

use std::io;
use std::path::PathBuf;

use super::boot::{Kernel, KernelError, LoaderKind, find_kernel};
use super::etc::{
    ContentError, EtcPlan, EtcTree, Ownership, RULES_PATH, Rules, RulesError, ScanError, defaults,
    forget_foreign_labels, plan as plan_etc, read_file, scan,
};
use super::files::{self, EtcContents, FileError, Found};
use super::id::{DeploymentId, StaterootName};
use super::kargs::{KargConflict, KargEdit, KargError, Kargs, SuggestionError};
use super::origin::Origin;
use super::roots::{Reason, Role, Standing, retained};
use super::services::ServiceChanges;
use super::skeleton::{Skeleton, SkeletonError, VarPlan, is_absent_or_empty};
use super::source::Chosen;
use super::space::{BootRoom, DiskRoom, SpaceError};
use super::sysroot::{Deployment, State, Sysroot};
use crate::image::{Image, ImageError};
use crate::model::CommitId;
use crate::store::ReadError;

/// Where a commit suggests kernel arguments.
const SUGGESTIONS: &str = "/usr/lib/sapwood/kargs.d";

/// Where a commit says what it is.
const OS_RELEASE: &str = "/usr/lib/os-release";

/// When a deployment gets into the boot menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// When the running system shuts down: what changes in its `/etc` until then is merged too.
    AtShutdown,
    /// At once.
    Now,
}

/// What to deploy, and how.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The commit.
    pub chosen: &'a Chosen,
    /// Its image.
    pub image: &'a Image,
    /// In which stateroot.
    pub stateroot: StaterootName,
    /// Changes of the kernel arguments.
    pub kargs: &'a [KargEdit],
    /// When it gets into the boot menu.
    pub when: When,
    /// Whether owners count.
    pub ownership: Ownership,
    /// Bytes that are still to be fetched into the repository.
    pub fetch_bytes: u64,
    /// The time now, in seconds since 1970.
    pub now: i64,
}

/// Why nothing can be deployed.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The commit cannot boot.
    #[error("commit {commit} cannot be booted")]
    Kernel {
        /// The commit.
        commit: CommitId,
        /// Why not.
        source: KernelError,
    },
    /// The top of the commit.
    #[error(transparent)]
    Skeleton(#[from] SkeletonError),
    /// A tree of configuration cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A content of `/etc` cannot be read.
    #[error("cannot merge /etc")]
    Etc(#[from] ContentError),
    /// The administrator's rules cannot be used.
    #[error("cannot use /etc/{RULES_PATH}")]
    Rules(#[from] RulesError),
    /// Kernel arguments.
    #[error(transparent)]
    Karg(#[from] KargError),
    /// Kernel arguments that the commit suggests.
    #[error("cannot use {SUGGESTIONS}/{name} of the commit")]
    Suggestion {
        /// The file.
        name: String,
        /// What is wrong with it.
        source: SuggestionError,
    },
    /// A file of the commit.
    #[error(transparent)]
    File(#[from] FileError),
    /// An image.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
    /// The commit of another deployment.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no room.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The system refused.
    #[error("cannot read {}", .path.display())]
    Io {
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What deploying would do.
#[derive(Debug, Clone)]
pub struct DeployPlan {
    /// The new deployment.
    pub id: DeploymentId,
    /// What it is going to be.
    pub origin: Origin,
    /// Its kernel.
    pub kernel: Kernel,
    /// Its `/etc`.
    pub etc: EtcPlan,
    /// What its `/etc` is merged from.
    pub(super) etc_inputs: EtcInputs,
    /// The deployment whose `/etc` it begins with.
    pub merge_from: Option<DeploymentId>,
    /// Its top level.
    pub skeleton: Skeleton,
    /// Whether the commit's `/var` is going to fill that of the stateroot.
    pub var: VarPlan,
    /// Where a change of kernel arguments here won over one of the commit.
    pub karg_conflicts: Vec<KargConflict>,
    /// The kernel arguments until now.
    pub kargs_before: Kargs,
    /// When it gets into the boot menu.
    pub when: When,
    /// What stays, and why.
    pub kept: Vec<(DeploymentId, Reason)>,
    /// What goes.
    pub remove: Vec<DeploymentId>,
    /// Deployments that leave the boot menu before the new kernel is installed, since there is no room for both.
    pub remove_first: Vec<DeploymentId>,
    /// The room on the boot partition.
    pub boot: BootRoom,
    /// The room on the disk.
    pub disk: DiskRoom,
    /// The kernel that boots now, if it is another.
    pub kernel_before: Option<String>,
    /// Services that are different, compared with the deployment it begins with.
    pub services: ServiceChanges,
    /// What people should know.
    pub notices: Vec<String>,
}

impl DeployPlan {
    /// Plans a deployment.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(sysroot: &Sysroot, state: &State, request: &Request<'_>) -> Result<Self, PlanError> {
        let Request { chosen, image, .. } = *request;
        let kernel = find_kernel(image).map_err(|source| PlanError::Kernel { commit: chosen.id, source })?;
        let skeleton = Skeleton::of(image)?;
        let base = state.merge_base(&request.stateroot);
        let mut notices = Vec::new();
        let mut inputs = EtcInputs::read(sysroot, base, request.ownership)?;
        let etc = inputs.merge(sysroot, base, image, request.ownership)?;
        let arguments = Arguments::plan(sysroot, base, request, &mut notices)?;
        let id = next_id(sysroot, state, request);
        let mut standings = standings(sysroot, state, &request.stateroot);
        let new = Standing { id: id.clone(), roles: new_roles(sysroot, request) };
        standings.insert(0, new);
        let kept = retained(&standings);
        let remove: Vec<DeploymentId> = standings
            .iter()
            .map(|standing| standing.id.clone())
            .filter(|id| !kept.iter().any(|(kept, _)| kept == id))
            .collect();
        let boot = BootRoom::plan(sysroot, state, &kernel, &remove)?;
        let remove_first = boot.remove_first.clone();
        let var_path = sysroot.layout().var(&request.stateroot);
        let var = if is_absent_or_empty(&var_path)? { VarPlan::Filled } else { VarPlan::Kept };
        let disk = DiskRoom::plan(sysroot, image, &etc, var, &boot, request.fetch_bytes)?;
        let services = match base {
            Some(base) => ServiceChanges::between(&image_of(sysroot, base)?, image, sysroot.store())?,
            None => ServiceChanges::default(),
        };
        note_oddities(state, &skeleton, &kernel, &mut notices);
        let origin = Origin {
            version: Origin::VERSION,
            commit: chosen.id,
            upstream: chosen.upstream.clone(),
            ref_name: chosen.commit.ref_name.clone(),
            title: title(sysroot, chosen, image)?,
            os_version: chosen.commit.version.clone(),
            commit_time: chosen.commit.timestamp,
            deployed: request.now,
            pinned: false,
            merged_from: base.map(|base| base.id.clone()),
            mounts: skeleton.mounts.clone(),
            kargs: arguments.result,
            suggested_kargs: arguments.suggested,
            voucher: chosen.voucher.clone(),
            kernel: kernel.record.clone(),
        };
        Ok(Self {
            kernel_before: base
                .map(|base| base.origin.kernel.version.clone())
                .filter(|before| *before != kernel.record.version),
            merge_from: base.map(|base| base.id.clone()),
            karg_conflicts: arguments.conflicts,
            kargs_before: arguments.before,
            when: request.when,
            id,
            origin,
            kernel,
            etc,
            etc_inputs: inputs,
            skeleton,
            var,
            kept,
            remove,
            remove_first,
            boot,
            disk,
            services,
            notices,
        })
    }

    /// Whether what boots next is this very commit with these arguments already, so that nothing need be done.
    #[must_use]
    pub fn is_there(&self, state: &State) -> bool {
        let own = &self.origin;
        let next = state.next().filter(|next| next.id.stateroot() == self.id.stateroot());
        next.map(|next| &next.origin).is_some_and(|next| {
            let is_same = next.commit == own.commit && next.kargs == own.kargs && next.upstream == own.upstream;
            is_same && !state.failures.contains_key(&own.commit)
        })
    }

    /// Whether a boot into the new kernel is needed, or a restart of everything above it would do.
    #[must_use]
    pub fn changes_kernel(&self, state: &State) -> bool {
        let running = state.booted().or_else(|| state.default());
        running.is_none_or(|running| running.origin.kernel.digest != self.kernel.record.digest)
    }
}

/// What holds of each deployment that is there.
pub(super) fn standings(sysroot: &Sysroot, state: &State, stateroot: &StaterootName) -> Vec<Standing> {
    // Without a running system, the one that boots next is what to fall back to.
    let fallback = match state.booted() {
        Some(_) => None,
        None => state
            .default()
            .filter(|default| !state.has_failed(default))
            .or_else(|| state.default().and_then(|default| state.fallback(default))),
    };
    let standing = |found: &Deployment| {
        let mut roles = Vec::new();
        let mut note = |role, holds: bool| {
            if holds {
                roles.push(role);
            }
        };
        note(Role::Booted, state.booted.as_ref() == Some(&found.id));
        note(Role::Rollback, fallback.is_some_and(|fallback| fallback.id == found.id));
        note(Role::Pinned, found.origin.pinned);
        note(Role::Whole, !sysroot.store().is_lazy(found.origin.commit));
        note(Role::Trusted, found.entry.as_ref().is_some_and(|entry| entry.tries.is_none()));
        note(Role::Failed, state.has_failed(found));
        note(Role::Elsewhere, found.id.stateroot() != stateroot);
        Standing { id: found.id.clone(), roles }
    };
    state.deployments.iter().map(standing).collect()
}

fn new_roles(sysroot: &Sysroot, request: &Request<'_>) -> Vec<Role> {
    let is_whole = !sysroot.store().is_lazy(request.chosen.id) && request.fetch_bytes == 0;
    if is_whole { vec![Role::New, Role::Whole] } else { vec![Role::New] }
}

fn next_id(sysroot: &Sysroot, state: &State, request: &Request<'_>) -> DeploymentId {
    let first = DeploymentId::new(request.stateroot.clone(), request.chosen.id, 0);
    let alike = state
        .deployments
        .iter()
        .filter(|found| found.id.stateroot() == first.stateroot() && found.id.commit_digits() == first.commit_digits());
    let mut serial = alike.map(|found| found.id.serial() + 1).max().unwrap_or(0);
    // Whatever has the name, however it came there.
    loop {
        let id = DeploymentId::new(request.stateroot.clone(), request.chosen.id, serial);
        if !sysroot.layout().deployment(&id).directory().exists() {
            return id;
        }
        serial += 1;
    }
}

/// What merging the `/etc` of a deployment into the defaults of an image would do.
///
/// # Errors
/// [`PlanError`].
pub fn plan_merge(
    sysroot: &Sysroot,
    base: &Deployment,
    image: &Image,
    ownership: Ownership,
) -> Result<EtcPlan, PlanError> {
    EtcInputs::read(sysroot, Some(base), ownership)?.merge(sysroot, Some(base), image, ownership)
}

/// The trees on the old side of a merge of `/etc`.
#[derive(Debug, Clone)]
pub(super) struct EtcInputs {
    /// The defaults of the old commit.
    pub old: EtcTree,
    /// The tree on this machine.
    pub local: EtcTree,
    rules: Rules,
}

impl EtcInputs {
    /// Reads them: the defaults of the commit of `base`, and its `/etc`.
    pub(super) fn read(sysroot: &Sysroot, base: Option<&Deployment>, ownership: Ownership) -> Result<Self, PlanError> {
        let Some(base) = base else {
            return Ok(Self { old: EtcTree::default(), local: EtcTree::default(), rules: Rules::default() });
        };
        let etc = sysroot.layout().deployment(&base.id).etc();
        let rules = match read_file(&etc, RULES_PATH.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Rules::default(),
            Err(source) => return Err(PlanError::Io { path: etc.join(RULES_PATH), source }),
            Ok(text) => Rules::parse(&String::from_utf8_lossy(&text))?,
        };
        Ok(Self { old: defaults(&image_of(sysroot, base)?, ownership)?, local: scan(&etc, ownership)?, rules })
    }

    /// Merges them with the defaults of a commit.
    pub(super) fn merge(
        &mut self,
        sysroot: &Sysroot,
        base: Option<&Deployment>,
        image: &Image,
        ownership: Ownership,
    ) -> Result<EtcPlan, PlanError> {
        let new = defaults(image, ownership)?;
        forget_foreign_labels(&mut self.local, [&self.old, &new]);
        let etc = base.map(|base| sysroot.layout().deployment(&base.id).etc());
        let contents = EtcContents { local: etc.as_deref(), store: sysroot.store() };
        Ok(plan_etc(&self.old, &self.local, &new, &self.rules, &contents)?)
    }
}

/// The image of a deployment's commit.
pub(super) fn image_of(sysroot: &Sysroot, deployment: &Deployment) -> Result<Image, ReadError> {
    let store = sysroot.store();
    store.image(store.commit(deployment.origin.commit)?.image)
}

/// Kernel arguments, merged and edited.
struct Arguments {
    before: Kargs,
    result: Kargs,
    suggested: Kargs,
    conflicts: Vec<KargConflict>,
}

impl Arguments {
    fn plan(
        sysroot: &Sysroot,
        base: Option<&Deployment>,
        request: &Request<'_>,
        notices: &mut Vec<String>,
    ) -> Result<Self, PlanError> {
        let old = base.map(|base| base.origin.suggested_kargs.clone()).unwrap_or_default();
        // What the menu says counts, should somebody have edited it.
        let local =
            base.map(|base| base.entry.as_ref().map_or(&base.origin.kargs, |entry| &entry.target.options).clone());
        let local = local.unwrap_or_default();
        let suggested = match suggestions(sysroot, request.image)? {
            Some(suggested) => suggested,
            None => {
                notices.push("kernel arguments that the commit suggests are known when it is fetched".to_owned());
                old.clone()
            }
        };
        let merged = Kargs::merge(&old, &local, &suggested);
        let mut result = merged.result;
        for edit in request.kargs {
            result.edit(edit)?;
        }
        Ok(Self { before: local, result, suggested, conflicts: merged.conflicts })
    }
}

/// The kernel arguments that a commit suggests; `None` when they are not here.
fn suggestions(sysroot: &Sysroot, image: &Image) -> Result<Option<Kargs>, PlanError> {
    let mut suggested = Kargs::default();
    for (name, ino) in files::list(image, SUGGESTIONS)? {
        if !name.ends_with(".toml") {
            continue;
        }
        match files::read_inode(image, sysroot.store(), ino)? {
            Found::Nothing => {}
            Found::Absent => return Ok(None),
            Found::Bytes(bytes) => {
                let file = Kargs::of_suggestion(&String::from_utf8_lossy(&bytes), std::env::consts::ARCH);
                suggested.extend(file.map_err(|source| PlanError::Suggestion { name, source })?);
            }
        }
    }
    Ok(Some(suggested))
}

/// What the operating system calls itself, or else its ref.
fn title(sysroot: &Sysroot, chosen: &Chosen, image: &Image) -> Result<String, FileError> {
    let Found::Bytes(text) = files::read(image, sysroot.store(), OS_RELEASE)? else {
        return Ok(chosen.commit.ref_name.to_string());
    };
    let text = String::from_utf8_lossy(&text);
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let name = name.map(|name| name.trim().trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty());
    Ok(name.unwrap_or_else(|| chosen.commit.ref_name.to_string()))
}

fn note_oddities(state: &State, skeleton: &Skeleton, kernel: &Kernel, notices: &mut Vec<String>) {
    if state.has_no_loader() {
        notices.push(
            "no boot loader was found: entries are written to /boot/loader/entries, and nobody reads them".to_owned(),
        );
    }
    for name in &skeleton.left_out {
        notices.push(format!("/{name} of the commit is left out: only directories and links belong at the top level"));
    }
    for name in &skeleton.mounts {
        notices.push(format!("/{name} of the commit is mounted from it, read-only"));
    }
    if kernel.record.devicetree.is_some() && state.menu.loader().kind != LoaderKind::Extlinux {
        notices.push(
            "the commit brings device trees; of a directory of them only U-Boot (extlinux) can choose".to_owned(),
        );
    }
}
