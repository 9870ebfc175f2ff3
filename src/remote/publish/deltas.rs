//! The deltas that lead to a newly published commit.

use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::PublishError;
use super::existing::Survey;
use super::options::PublishOptions;
use super::plan::CommitPlan;
use crate::model::CommitId;
use crate::remote::delta::{DeltaError, DeltaOptions, Side, write_delta};
use crate::remote::format::DeltaRef;
use crate::remote::format::wire::image_delta;
use crate::remote::layout;
use crate::remote::transport::Transport;
use crate::store::{ReadError, Store};

/// Level for the delta of an image: some hundred KiB at most, read by every client that updates.
const IMAGE_LEVEL: i32 = 19;

/// Makes and uploads deltas from the newest published ancestors of a commit, as many as the options say, and returns all
/// that lead to it. An ancestor whose contents are not here any more is left out: a delta is an offer.
pub(super) fn make_deltas(
    store: &Store,
    transport: &Transport,
    survey: &Survey,
    plan: &CommitPlan,
    options: &PublishOptions,
    progress: &AtomicU64,
) -> Result<Vec<DeltaRef>, PublishError> {
    let mut deltas = survey.placements.get(&plan.id).map(|there| there.deltas.clone()).unwrap_or_default();
    for base in bases(store, survey, plan, options.deltas)? {
        if deltas.iter().any(|delta| delta.from == base) {
            continue;
        }
        match make_delta(store, transport, base, plan, options, progress) {
            Ok(delta) => deltas.insert(0, delta),
            Err(PublishError::Delta(DeltaError::Read(error))) | Err(PublishError::Read(error))
                if is_absence(&error) =>
            {
                tracing::warn!("no delta from {} to {}: {error}", base.short(), plan.id.short());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(deltas)
}

/// The newest `count` ancestors that are published.
fn bases(store: &Store, survey: &Survey, plan: &CommitPlan, count: u64) -> Result<Vec<CommitId>, PublishError> {
    let mut bases = Vec::new();
    let mut next = plan.commit.parent;
    while let Some(id) = next.filter(|_| (bases.len() as u64) < count) {
        if survey.placements.contains_key(&id) {
            bases.push(id);
        }
        next = match store.commit(id) {
            Ok(commit) => commit.parent,
            Err(ReadError::MissingCommit { .. }) => None,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(bases)
}

const fn is_absence(error: &ReadError) -> bool {
    matches!(error, ReadError::MissingCommit { .. } | ReadError::MissingImage { .. } | ReadError::MissingObject { .. })
}

fn make_delta(
    store: &Store,
    transport: &Transport,
    base: CommitId,
    plan: &CommitPlan,
    options: &PublishOptions,
    progress: &AtomicU64,
) -> Result<DeltaRef, PublishError> {
    let (old, new) = (store.image(store.commit(base)?.image)?, store.image(plan.commit.image)?);
    let id = plan.commit.image;
    let image = image_delta(old.as_bytes(), new.as_bytes(), IMAGE_LEVEL);
    let image = image.map_err(|source| PublishError::Wire { id, source })?;
    let side = |image| Side { image, objects: store };
    let count = |bytes| {
        progress.fetch_add(bytes, Ordering::Relaxed);
    };
    let delta_options = DeltaOptions { threads: options.threads };
    let (file, made) = write_delta(side(&old), side(&new), &image, delta_options, &store.layout().temporary(), &count)?;
    let path = layout::delta(made.id);
    if transport.length(&path)? != Some(made.length) {
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        transport.put_file(&path, Path::new(&name), &|_| {})?;
    }
    Ok(DeltaRef { from: base, id: made.id, length: made.length, head: made.head })
}
