//! Plans a deployment: [`DeployPlan`] says what deploying a commit would do.
//!
//! ```text
//! plan: the new /etc, the kernel, its arguments, the menu, the deployments to remove, the space that all this needs
//!  → apply: create the deployment beside the others, durably, and record it as staged
//!  → finalise, at once or at shutdown: merge /etc once more, put it into the boot menu, remove deployments
//! ```
//!
//! *Not here*: carrying out the plan (`apply`), and printing it (`cli`).
//!
//! *Invariants*: planning reads the sysroot and the repository, and writes nothing.
//!
//! *Used by* `cli`; `apply` and `removal` use its helpers.

use std::io;
use std::path::PathBuf;

use super::boot::{Kernel, KernelError, LoaderKind, find_kernel};
use super::choose::ChosenCommit;
use super::commit_files::{self, EtcContents, FileContent, FileError};
use super::etc::{
    ContentError, EtcPlan, EtcTree, MergeRules, PreserveOwners, RULES_PATH, RulesError, ScanError,
    ignore_policy_labels, plan as plan_etc, read_file, scan, scan_defaults,
};
use super::id::{DeploymentId, StaterootName};
use super::kargs::{KargConflict, KargEdit, KargError, Kargs, SuggestionError};
use super::origin::DeploymentOrigin;
use super::retention::{DeploymentRole, KeepReason, Retention, retained};
use super::services::ServiceChanges;
use super::skeleton::{Skeleton, SkeletonError, VarPlan, is_absent_or_empty};
use super::space::{BootSpace, DiskSpace, SpaceError};
use super::sysroot::{Deployment, State, Sysroot};
use crate::image::{Image, ImageError};
use crate::model::CommitId;
use crate::store::ReadError;

/// The directory where a commit suggests kernel arguments.
const KARGS_DIRECTORY: &str = "/usr/lib/sapwood/kargs.d";

/// The file where a commit names its operating system.
const OS_RELEASE: &str = "/usr/lib/os-release";

/// When a deployment is put into the boot menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// When the running system shuts down; changes of its `/etc` until then are merged too.
    AtShutdown,
    /// Immediately.
    Now,
}

/// What to deploy, and how.
#[derive(Debug, Clone)]
pub(crate) struct DeployRequest<'a> {
    pub(crate) chosen: &'a ChosenCommit,
    pub(crate) image: &'a Image,
    /// The stateroot of the new deployment.
    pub(crate) stateroot: StaterootName,
    /// The edits of the kernel arguments that the user asked for.
    pub(crate) kargs: &'a [KargEdit],
    /// When the deployment is put into the boot menu.
    pub(crate) when: When,
    /// Whether owners are read and set.
    pub(crate) ownership: PreserveOwners,
    /// Bytes that are still to be fetched into the repository.
    pub(crate) fetch_bytes: u64,
    /// The time now, in seconds since 1970.
    pub(crate) now: i64,
}

/// Why a commit cannot be deployed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// The commit has no kernel or no initramfs.
    #[error("commit {commit} cannot be booted")]
    Kernel { commit: CommitId, source: KernelError },
    /// The top level of the commit cannot become a skeleton.
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
    /// An edit of the kernel arguments is impossible.
    #[error(transparent)]
    Karg(#[from] KargError),
    /// A file of suggested kernel arguments cannot be used.
    #[error("cannot use {KARGS_DIRECTORY}/{name} of the commit")]
    Suggestion { name: String, source: SuggestionError },
    /// A file of the commit cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the image is damaged")]
    Image(#[from] ImageError),
    /// The commit of an existing deployment cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is not enough free space.
    #[error(transparent)]
    Space(#[from] SpaceError),
    #[error("cannot read {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What deploying would do.
#[derive(Debug, Clone)]
pub(crate) struct DeployPlan {
    /// The name of the new deployment.
    pub(crate) id: DeploymentId,
    /// The origin of the new deployment.
    pub(crate) origin: DeploymentOrigin,
    pub(crate) kernel: Kernel,
    pub(crate) etc: EtcPlan,
    /// The trees that the new `/etc` is merged from.
    pub(super) etc_inputs: EtcInputs,
    /// The deployment whose `/etc` is merged into the new one.
    pub(crate) merge_from: Option<DeploymentId>,
    /// The skeleton of the new deployment's `/`.
    pub(crate) skeleton: Skeleton,
    /// Whether the `/var` of the stateroot is filled from the commit.
    pub(crate) var: VarPlan,
    /// Kernel arguments where the administrator's change won over one by the commit.
    pub(crate) karg_conflicts: Vec<KargConflict>,
    /// The kernel arguments that the machine boots with now.
    pub(crate) kargs_before: Kargs,
    /// When the deployment is put into the boot menu.
    pub(crate) when: When,
    /// The deployments that are kept, and why.
    pub(crate) kept: Vec<(DeploymentId, KeepReason)>,
    /// The deployments that are removed.
    pub(crate) remove: Vec<DeploymentId>,
    /// Deployments that are removed from the boot menu before the new kernel is installed, since there is no space for both.
    pub(crate) remove_first: Vec<DeploymentId>,
    /// The space on the boot partition.
    pub(crate) boot: BootSpace,
    /// The space on the disk.
    pub(crate) disk: DiskSpace,
    /// The version of the present kernel, if it is another.
    pub(crate) kernel_before: Option<String>,
    /// Services that differ from those of the deployment in `merge_from`.
    pub(crate) services: ServiceChanges,
    /// Notices for the user.
    pub(crate) notices: Vec<String>,
}

impl DeployPlan {
    /// Plans a deployment.
    pub(crate) fn new(sysroot: &Sysroot, state: &State, request: &DeployRequest<'_>) -> Result<Self, PlanError> {
        let DeployRequest { chosen, image, .. } = *request;
        let kernel = find_kernel(image).map_err(|source| PlanError::Kernel { commit: chosen.id, source })?;
        let skeleton = Skeleton::of(image)?;
        let base = state.merge_base(&request.stateroot);
        let mut notices = Vec::new();
        let mut inputs = EtcInputs::read(sysroot, base, request.ownership)?;
        let etc = inputs.merge(sysroot, base, image, request.ownership)?;
        let arguments = KargPlan::plan(sysroot, base, request, &mut notices)?;
        let id = next_id(sysroot, state, request);
        let mut facts = retention_facts(sysroot, state, &request.stateroot);
        let new = Retention { id: id.clone(), roles: new_roles(sysroot, request) };
        facts.insert(0, new);
        let kept = retained(&facts);
        let remove: Vec<DeploymentId> =
            facts.iter().map(|fact| fact.id.clone()).filter(|id| !kept.iter().any(|(kept, _)| kept == id)).collect();
        let boot = BootSpace::plan(sysroot, state, &kernel, &remove)?;
        let remove_first = boot.remove_first.clone();
        let var_path = sysroot.layout().var(&request.stateroot);
        let var = if is_absent_or_empty(&var_path)? { VarPlan::Filled } else { VarPlan::Kept };
        let disk = DiskSpace::plan(sysroot, image, &etc, var, &boot, request.fetch_bytes)?;
        let services = match base {
            Some(base) => ServiceChanges::between(&image_of(sysroot, base)?, image, sysroot.store())?,
            None => ServiceChanges::default(),
        };
        add_commit_notices(state, &skeleton, &kernel, &mut notices);
        if base.is_none() && !arguments.result.contains_key("root") {
            notices.push(
                "no kernel argument says where the root filesystem is: most initramfs need root=, such as --karg \
                 root=LABEL=root"
                    .to_owned(),
            );
        }
        let origin = DeploymentOrigin {
            version: DeploymentOrigin::VERSION,
            commit: chosen.id,
            upstream: chosen.upstream.clone(),
            ref_name: chosen.commit.ref_name.clone(),
            title: os_title(sysroot, chosen, image)?,
            os_version: chosen.commit.version.clone(),
            commit_time: chosen.commit.timestamp,
            deployed: request.now,
            pinned: false,
            merged_from: base.map(|base| base.id.clone()),
            mounts: skeleton.mounts.clone(),
            kargs: arguments.result,
            suggested_kargs: arguments.suggested,
            signed_by: chosen.signed_by.clone(),
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

    /// Returns whether the deployment that boots next has this commit, these kernel arguments and this upstream already, so
    /// that nothing needs to be done.
    pub(crate) fn is_current(&self, state: &State) -> bool {
        let own = &self.origin;
        let next = state.next_to_boot().filter(|next| next.id.stateroot() == self.id.stateroot());
        next.map(|next| &next.origin).is_some_and(|next| {
            let is_same = next.commit == own.commit && next.kargs == own.kargs && next.upstream == own.upstream;
            is_same && !state.failures.contains_key(&own.commit)
        })
    }

    /// Returns whether the new deployment has another kernel, so that a restart of userspace alone does not suffice.
    pub(crate) fn changes_kernel(&self, state: &State) -> bool {
        let running = state.booted().or_else(|| state.default());
        running.is_none_or(|running| running.origin.kernel.digest != self.kernel.record.digest)
    }
}

/// Returns the roles of each existing deployment, for an operation on `stateroot`.
pub(super) fn retention_facts(sysroot: &Sysroot, state: &State, stateroot: &StaterootName) -> Vec<Retention> {
    // If no deployment of this sysroot is running, the fallback is the default, unless it failed.
    let fallback = match state.booted() {
        Some(_) => None,
        None => state
            .default()
            .filter(|default| !state.has_failed(default))
            .or_else(|| state.default().and_then(|default| state.fallback_for(default))),
    };
    let facts = |found: &Deployment| {
        let mut roles = Vec::new();
        let mut note = |role, holds: bool| {
            if holds {
                roles.push(role);
            }
        };
        note(DeploymentRole::Booted, state.booted.as_ref() == Some(&found.id));
        note(DeploymentRole::Rollback, fallback.is_some_and(|fallback| fallback.id == found.id));
        note(DeploymentRole::Pinned, found.origin.pinned);
        note(DeploymentRole::Complete, !sysroot.store().is_lazy(found.origin.commit));
        note(DeploymentRole::Trusted, found.entry.as_ref().is_some_and(|entry| entry.tries.is_none()));
        note(DeploymentRole::Failed, state.has_failed(found));
        note(DeploymentRole::OtherStateroot, found.id.stateroot() != stateroot);
        Retention { id: found.id.clone(), roles }
    };
    state.deployments.iter().map(facts).collect()
}

/// Returns the roles of the deployment that is planned.
fn new_roles(sysroot: &Sysroot, request: &DeployRequest<'_>) -> Vec<DeploymentRole> {
    let is_complete = !sysroot.store().is_lazy(request.chosen.id) && request.fetch_bytes == 0;
    if is_complete { vec![DeploymentRole::New, DeploymentRole::Complete] } else { vec![DeploymentRole::New] }
}

/// Returns an unused name for the deployment that is planned.
fn next_id(sysroot: &Sysroot, state: &State, request: &DeployRequest<'_>) -> DeploymentId {
    let first = DeploymentId::new(request.stateroot.clone(), request.chosen.id, 0);
    let alike = state
        .deployments
        .iter()
        .filter(|found| found.id.stateroot() == first.stateroot() && found.id.commit_digits() == first.commit_digits());
    let mut serial = alike.map(|found| found.id.serial() + 1).max().unwrap_or(0);
    // The directory may exist although it is not a readable deployment, or be left over under its temporary name.
    loop {
        let id = DeploymentId::new(request.stateroot.clone(), request.chosen.id, serial);
        let layouts = [sysroot.layout().deployment(&id), sysroot.layout().new_deployment(&id)];
        if layouts.iter().all(|layout| layout.directory().symlink_metadata().is_err()) {
            return id;
        }
        serial += 1;
    }
}

/// Plans the merge of the `/etc` of a deployment with the defaults of an image.
pub(crate) fn plan_merge(
    sysroot: &Sysroot,
    base: &Deployment,
    image: &Image,
    ownership: PreserveOwners,
) -> Result<EtcPlan, PlanError> {
    EtcInputs::read(sysroot, Some(base), ownership)?.merge(sysroot, Some(base), image, ownership)
}

/// The inputs of a merge of `/etc` that do not depend on the new commit.
#[derive(Debug, Clone)]
pub(super) struct EtcInputs {
    /// The defaults of the old commit.
    pub(crate) old: EtcTree,
    /// The tree on this machine.
    pub(crate) local: EtcTree,
    rules: MergeRules,
}

impl EtcInputs {
    /// Reads the defaults of the commit of `base`, its `/etc`, and the merge rules there. All are empty without a `base`.
    pub(super) fn read(
        sysroot: &Sysroot,
        base: Option<&Deployment>,
        ownership: PreserveOwners,
    ) -> Result<Self, PlanError> {
        let Some(base) = base else {
            return Ok(Self { old: EtcTree::default(), local: EtcTree::default(), rules: MergeRules::default() });
        };
        let etc = sysroot.layout().deployment(&base.id).etc();
        let rules = match read_file(&etc, RULES_PATH.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => MergeRules::default(),
            Err(source) => return Err(PlanError::Io { path: etc.join(RULES_PATH), source }),
            Ok(text) => MergeRules::parse(&String::from_utf8_lossy(&text))?,
        };
        Ok(Self { old: scan_defaults(&image_of(sysroot, base)?, ownership)?, local: scan(&etc, ownership)?, rules })
    }

    /// Merges the inputs with the defaults of a new commit.
    pub(super) fn merge(
        &mut self,
        sysroot: &Sysroot,
        base: Option<&Deployment>,
        image: &Image,
        ownership: PreserveOwners,
    ) -> Result<EtcPlan, PlanError> {
        let new = scan_defaults(image, ownership)?;
        ignore_policy_labels(&mut self.local, [&self.old, &new]);
        let etc = base.map(|base| sysroot.layout().deployment(&base.id).etc());
        let contents = EtcContents { local: etc.as_deref(), store: sysroot.store() };
        Ok(plan_etc(&self.old, &self.local, &new, &self.rules, &contents)?)
    }
}

/// Returns the image of a deployment's commit.
pub(super) fn image_of(sysroot: &Sysroot, deployment: &Deployment) -> Result<Image, ReadError> {
    let store = sysroot.store();
    store.image(store.commit(deployment.origin.commit)?.image)
}

/// The kernel arguments of the new deployment.
struct KargPlan {
    before: Kargs,
    result: Kargs,
    suggested: Kargs,
    conflicts: Vec<KargConflict>,
}

impl KargPlan {
    fn plan(
        sysroot: &Sysroot,
        base: Option<&Deployment>,
        request: &DeployRequest<'_>,
        notices: &mut Vec<String>,
    ) -> Result<Self, PlanError> {
        let old = base.map(|base| base.origin.suggested_kargs.clone()).unwrap_or_default();
        // The arguments in the boot entry take precedence: they may have been edited by hand.
        let local =
            base.map(|base| base.entry.as_ref().map_or(&base.origin.kargs, |entry| &entry.target.options).clone());
        let local = local.unwrap_or_default();
        let suggested = match suggested_kargs(sysroot, request.image)? {
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

/// Returns the kernel arguments that a commit suggests; `None` if a file that suggests some was not fetched.
fn suggested_kargs(sysroot: &Sysroot, image: &Image) -> Result<Option<Kargs>, PlanError> {
    let mut suggested = Kargs::default();
    for (name, ino) in commit_files::list_files(image, KARGS_DIRECTORY)? {
        if !name.ends_with(".toml") {
            continue;
        }
        match commit_files::read_inode(image, sysroot.store(), ino)? {
            FileContent::NoFile => {}
            FileContent::NotFetched => return Ok(None),
            FileContent::Bytes(bytes) => {
                let file = Kargs::of_suggestion(&String::from_utf8_lossy(&bytes), std::env::consts::ARCH);
                suggested.extend(file.map_err(|source| PlanError::Suggestion { name, source })?);
            }
        }
    }
    Ok(Some(suggested))
}

/// Returns the name that the operating system gives itself, or else the ref of the commit.
fn os_title(sysroot: &Sysroot, chosen: &ChosenCommit, image: &Image) -> Result<String, FileError> {
    let FileContent::Bytes(text) = commit_files::read_file(image, sysroot.store(), OS_RELEASE)? else {
        return Ok(chosen.commit.ref_name.to_string());
    };
    let text = String::from_utf8_lossy(&text);
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let name = name.map(|name| name.trim().trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty());
    Ok(name.unwrap_or_else(|| chosen.commit.ref_name.to_string()))
}

/// Adds notices about a missing boot loader and about parts of the commit that are treated in an unusual way.
fn add_commit_notices(state: &State, skeleton: &Skeleton, kernel: &Kernel, notices: &mut Vec<String>) {
    if state.has_no_loader() {
        notices.push(
            "no boot loader was found: entries are written to /boot/loader/entries, which no loader reads".to_owned(),
        );
    }
    for name in &skeleton.left_out {
        notices.push(format!("/{name} of the commit is left out: only directories and links belong at the top level"));
    }
    for name in &skeleton.mounts {
        notices.push(format!("/{name} of the commit is mounted from it, read-only"));
    }
    if !kernel.others.is_empty() {
        notices.push(format!(
            "the commit has several kernels: {} is started, {} not; a link at /usr/lib/sapwood/kernel to the directory of its \
             modules chooses another",
            kernel.record.version,
            kernel.others.join(" and ")
        ));
    }
    if kernel.record.devicetree.is_some() && state.menu.loader().kind != LoaderKind::Extlinux {
        notices.push("the commit has device trees: only U-Boot (extlinux) can choose one from a directory".to_owned());
    }
}
