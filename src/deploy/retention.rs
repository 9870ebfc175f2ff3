//! Decides which deployments are kept; all others may be removed.
//!
//! *Not here*: finding out the roles of deployments (`plan`), and removing (`removal`). Everything in this file is pure.
//!
//! *Used by* `plan`, `removal`, `status` and `cli`.

use super::id::DeploymentId;

/// The facts that decide whether one deployment is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) id: DeploymentId,
    /// The roles that the deployment has.
    pub(crate) roles: Vec<DeploymentRole>,
}

/// A fact about a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeploymentRole {
    /// The deployment is being created.
    New,
    /// The deployment is running.
    Booted,
    /// The deployment is put into the boot menu at the next shutdown.
    Staged,
    /// The deployment boots next.
    Default,
    /// The deployment comes first of its stateroot, and one of another stateroot boots next.
    First,
    /// The deployment boots if the default does not.
    Rollback,
    /// The user pinned the deployment.
    Pinned,
    /// All contents of the commit are in the repository.
    #[serde(rename = "whole")]
    Complete,
    /// The deployment passed its trial: its boots are not counted any more.
    Trusted,
    /// The deployment did not boot.
    Failed,
    /// The deployment belongs to another stateroot than the one of the operation.
    #[serde(rename = "elsewhere")]
    OtherStateroot,
}

/// Why a deployment is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeepReason {
    /// The deployment has this role.
    Role(DeploymentRole),
    /// All other kept deployments need a network to boot.
    #[serde(rename = "only-whole")]
    OnlyComplete,
    /// None of the other kept deployments has passed its trial.
    OnlyTrusted,
}

/// Returns the deployments that are kept, and why. All others may be removed. Where one deployment has to be chosen, it is the
/// first of `deployments` that qualifies.
pub(crate) fn retained(deployments: &[Retention]) -> Vec<(DeploymentId, KeepReason)> {
    // If several roles keep a deployment, the first of these is the reason that is returned.
    const KEEPS: [DeploymentRole; 8] = [
        DeploymentRole::New,
        DeploymentRole::Booted,
        DeploymentRole::Staged,
        DeploymentRole::Default,
        DeploymentRole::First,
        DeploymentRole::Rollback,
        DeploymentRole::Pinned,
        DeploymentRole::OtherStateroot,
    ];
    let mut kept: Vec<(DeploymentId, KeepReason)> = Vec::new();
    for found in deployments {
        if let Some(role) = KEEPS.into_iter().find(|role| found.roles.contains(role)) {
            kept.push((found.id.clone(), KeepReason::Role(role)));
        }
    }
    // Besides those: one deployment that boots without a network, and one that is known to boot.
    for (role, reason) in
        [(DeploymentRole::Complete, KeepReason::OnlyComplete), (DeploymentRole::Trusted, KeepReason::OnlyTrusted)]
    {
        let is_kept = |id: &DeploymentId| kept.iter().any(|(kept, _)| kept == id);
        let qualifies = |found: &&Retention| {
            let has = |role| found.roles.contains(&role);
            has(role) && !has(DeploymentRole::Failed) && !has(DeploymentRole::OtherStateroot)
        };
        if !deployments.iter().filter(qualifies).any(|found| is_kept(&found.id)) {
            kept.extend(deployments.iter().find(qualifies).map(|found| (found.id.clone(), reason)));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CommitId;

    #[test]
    fn retained_keeps_running_default_pinned_and_last_complete() {
        use DeploymentRole::{
            Booted, Complete, Default, Failed, New, OtherStateroot, Pinned, Rollback, Staged, Trusted,
        };
        // the roles of each deployment; the indexes of those that are kept
        let table: &[(&[&[DeploymentRole]], &[usize])] = &[
            (&[&[New, Complete], &[Booted, Complete], &[Complete]], &[0, 1]),
            (&[&[New, Complete], &[Default, Complete], &[Booted, Complete], &[Complete]], &[0, 1, 2]),
            (&[&[Default, Complete], &[Rollback, Complete], &[Pinned], &[Complete]], &[0, 1, 2]),
            (&[&[Staged, Complete], &[Default, Booted, Complete], &[Complete]], &[0, 1]),
            (&[&[New, Complete], &[Booted, Complete], &[OtherStateroot]], &[0, 1, 2]),
            // if no kept deployment is complete, the newest complete one is kept too
            (&[&[New], &[Booted], &[Complete, Failed], &[Complete], &[Complete]], &[0, 1, 3]),
            (&[&[New], &[Booted], &[OtherStateroot, Complete], &[Complete]], &[0, 1, 2, 3]),
            (&[&[New], &[Booted], &[]], &[0, 1]),
            (&[&[Failed, Complete], &[Default, Booted, Complete]], &[1]),
            // if no kept deployment passed its trial, the newest that did is kept too
            (&[&[New, Complete], &[Rollback, Complete], &[Trusted, Complete], &[Trusted, Complete]], &[0, 1, 2]),
            (&[&[New, Complete], &[Rollback, Trusted, Complete], &[Trusted, Complete]], &[0, 1]),
        ];
        for (roles, expected) in table {
            let facts = |(number, roles): (usize, &&[DeploymentRole])| {
                let id = DeploymentId::new("main".parse().expect("legal"), CommitId::of(&[number as u8]), 0);
                Retention { id, roles: roles.to_vec() }
            };
            let deployments: Vec<Retention> = roles.iter().enumerate().map(facts).collect();
            let kept = retained(&deployments);
            let mut indexes: Vec<usize> =
                kept.iter().filter_map(|(id, _)| deployments.iter().position(|found| found.id == *id)).collect();
            indexes.sort_unstable();
            assert_eq!(&indexes, expected, "{roles:?}");
        }
    }
}
