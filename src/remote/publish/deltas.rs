//! Makes the deltas that lead to a published commit.
//!
//! *Not here*: the format (`remote::delta`), and which deltas are made (`plan`).
//!
//! *Used by* `apply`.

use super::error::PublishError;
use super::options::PublishOptions;
use super::plan::CommitPublishPlan;
use super::progress::{Phase, PublishProgress};
use super::upload::put_immutable_file;
use crate::model::CommitId;
use crate::remote::delta::{Delta, DeltaError, DeltaOptions, DeltaSide};
use crate::remote::format::DeltaRef;
use crate::remote::format::wire::image_delta;
use crate::remote::layout;
use crate::remote::transport::Transport;
use crate::store::{ReadError, Store};

/// The zstd level for the delta of an image: some hundred KiB at most, read by every client that updates.
const IMAGE_LEVEL: i32 = 19;

/// Makes and uploads the planned deltas, and returns them. An ancestor whose contents are not in the local repository
/// any more is left out, since a delta is optional.
pub(super) fn make_deltas(
    store: &Store,
    transport: &Transport,
    plan: &CommitPublishPlan,
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
    plan: &CommitPublishPlan,
    options: &PublishOptions,
    progress: &PublishProgress,
) -> Result<DeltaRef, PublishError> {
    let (old, new) = (store.image(store.commit(base)?.image)?, store.image(plan.commit.image)?);
    let id = plan.commit.image;
    let image = image_delta(old.as_bytes(), new.as_bytes(), IMAGE_LEVEL);
    let image = image.map_err(|source| PublishError::Wire { id, source })?;
    let side = |image| DeltaSide { image, objects: store };
    let delta = Delta::new(side(&old), side(&new))?;
    progress.enter(Phase::Deltas, delta.content_bytes());
    let delta_options = DeltaOptions { threads: options.threads };
    let (file, made) = delta.write(&image, delta_options, &store.layout().temporary(), &|bytes| progress.add(bytes))?;
    put_immutable_file(transport, &layout::delta(made.id), &file, made.length, progress)?;
    Ok(DeltaRef { from: base, id: made.id, length: made.length, head: made.head })
}
