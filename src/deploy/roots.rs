//! Which deployments stay and which may go. Pure.

use super::id::DeploymentId;

/// What decides over one deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub id: DeploymentId,
    /// What holds of it.
    pub roles: Vec<Role>,
}

/// Something that holds of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It is the one that is being made.
    New,
    /// It runs.
    Booted,
    /// It waits for the next shutdown.
    Staged,
    /// It boots next.
    Default,
    /// It boots if the first does not come up.
    Rollback,
    /// Somebody wants it to stay.
    Pinned,
    /// Everything of its commit is here.
    Whole,
    /// It came up before: it is not counted any more.
    Trusted,
    /// It did not come up.
    Failed,
    /// It is of another stateroot than the operation.
    Elsewhere,
}

/// Why a deployment stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It is one of these.
    Role(Role),
    /// The others could not boot without a network.
    OnlyWhole,
    /// The others never came up so far.
    OnlyTrusted,
}

/// What stays, and why; everything else may go.
#[must_use]
pub fn retained(deployments: &[Standing]) -> Vec<(DeploymentId, Reason)> {
    // The strongest reason is the one that is told.
    const KEEPS: [Role; 7] =
        [Role::New, Role::Booted, Role::Staged, Role::Default, Role::Rollback, Role::Pinned, Role::Elsewhere];
    let mut kept: Vec<(DeploymentId, Reason)> = Vec::new();
    for found in deployments {
        if let Some(role) = KEEPS.into_iter().find(|role| found.roles.contains(role)) {
            kept.push((found.id.clone(), Reason::Role(role)));
        }
    }
    // Besides those: one that boots without a network, and one that is known to come up.
    for (role, reason) in [(Role::Whole, Reason::OnlyWhole), (Role::Trusted, Reason::OnlyTrusted)] {
        let is_kept = |id: &DeploymentId| kept.iter().any(|(kept, _)| kept == id);
        let suits = |found: &&Standing| {
            let has = |role| found.roles.contains(&role);
            has(role) && !has(Role::Failed) && !has(Role::Elsewhere)
        };
        if !deployments.iter().filter(suits).any(|found| is_kept(&found.id)) {
            kept.extend(deployments.iter().find(suits).map(|found| (found.id.clone(), reason)));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CommitId;

    #[test]
    fn what_runs_boots_or_is_wanted_stays() {
        use Role::{Booted, Default, Elsewhere, Failed, New, Pinned, Rollback, Staged, Trusted, Whole};
        // roles of each deployment; which stay
        let table: &[(&[&[Role]], &[usize])] = &[
            (&[&[New, Whole], &[Booted, Whole], &[Whole]], &[0, 1]),
            (&[&[New, Whole], &[Default, Whole], &[Booted, Whole], &[Whole]], &[0, 1, 2]),
            (&[&[Default, Whole], &[Rollback, Whole], &[Pinned], &[Whole]], &[0, 1, 2]),
            (&[&[Staged, Whole], &[Default, Booted, Whole], &[Whole]], &[0, 1]),
            (&[&[New, Whole], &[Booted, Whole], &[Elsewhere]], &[0, 1, 2]),
            // as long as none of those that stay is whole, the newest that is stays too
            (&[&[New], &[Booted], &[Whole, Failed], &[Whole], &[Whole]], &[0, 1, 3]),
            (&[&[New], &[Booted], &[Elsewhere, Whole], &[Whole]], &[0, 1, 2, 3]),
            (&[&[New], &[Booted], &[]], &[0, 1]),
            (&[&[Failed, Whole], &[Default, Booted, Whole]], &[1]),
            // as long as none of those that stay came up before, the newest that did stays too
            (&[&[New, Whole], &[Rollback, Whole], &[Trusted, Whole], &[Trusted, Whole]], &[0, 1, 2]),
            (&[&[New, Whole], &[Rollback, Trusted, Whole], &[Trusted, Whole]], &[0, 1]),
        ];
        for (roles, expected) in table {
            let standing = |(number, roles): (usize, &&[Role])| {
                let id = DeploymentId::new("main".parse().expect("legal"), CommitId::of(&[number as u8]), 0);
                Standing { id, roles: roles.to_vec() }
            };
            let deployments: Vec<Standing> = roles.iter().enumerate().map(standing).collect();
            let kept = retained(&deployments);
            let mut places: Vec<usize> =
                kept.iter().filter_map(|(id, _)| deployments.iter().position(|found| found.id == *id)).collect();
            places.sort_unstable();
            assert_eq!(&places, expected, "{roles:?}");
        }
    }
}
