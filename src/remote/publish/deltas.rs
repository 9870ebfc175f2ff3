//! The deltas that lead to a published commit.

use super::error::PublishError;
use super::options::PublishOptions;
use super::plan::CommitPlan;
use super::progress::{Phase, PublishProgress};
use super::upload::put_immutable_file;
use crate::model::CommitId;
use crate::remote::delta::{Delta, DeltaError, DeltaOptions, Side};
use crate::remote::format::DeltaRef;
use crate::remote::format::wire::image_delta;
use crate::remote::layout;
use crate::remote::transport::Transport;
use crate::store::{ReadError, Store};

/// Level for the delta of an image: some hundred KiB at most, read by every client that updates.
const IMAGE_LEVEL: i32 = 19;

/// Makes and uploads the planned deltas, and returns those that came about. An ancestor whose contents are not here any more
/// is left out: a delta is an offer.
pub(super) fn make_deltas(
    store: &Store,
    transport: &Transport,
    plan: &CommitPlan,
    options: &PublishOptions,
    progress: &PublishProgress,
) -> Result<Vec<DeltaRef>, PublishError> {
    let mut made = Vec::new();
    for base in &plan.deltas {
        match make_delta(store, transport, *base, plan, options, progress) {
            Ok(delta) => made.push(delta),
            Err(PublishError::Delta(DeltaError::Read(error)) | PublishError::Read(error)) if is_absence(&error) => {
                tracing::warn!("no delta from {} to {}: {error}", base.short(), plan.id.short());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(made)
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
    progress: &PublishProgress,
) -> Result<DeltaRef, PublishError> {
    let (old, new) = (store.image(store.commit(base)?.image)?, store.image(plan.commit.image)?);
    let id = plan.commit.image;
    let image = image_delta(old.as_bytes(), new.as_bytes(), IMAGE_LEVEL);
    let image = image.map_err(|source| PublishError::Wire { id, source })?;
    let side = |image| Side { image, objects: store };
    let delta = Delta::new(side(&old), side(&new))?;
    progress.enter(Phase::Deltas, delta.content_bytes());
    let delta_options = DeltaOptions { threads: options.threads };
    let (file, made) = delta.write(&image, delta_options, &store.layout().temporary(), &|bytes| progress.add(bytes))?;
    put_immutable_file(transport, &layout::delta(made.id), &file, made.length, progress)?;
    Ok(DeltaRef { from: base, id: made.id, length: made.length, head: made.head })
}
