//! Publishes commits of a repository as plain files that any web server or bucket can serve.
//!
//! There are three steps. [`survey`] reads what is published already. [`plan()`] decides, as pure data, which commits are
//! uploaded and which objects of them are new. [`apply()`] packs, uploads and names: contents first, refs last, each file
//! before the name that depends on it, so that a reader finds at any moment either the complete old state or the
//! complete new one. Immutable files are named by their content and are never sent twice; a publisher that was killed
//! is simply started again.
//!
//! Two simultaneous publishers do not harm each other: a ref is replaced only if it is unchanged since the plan was
//! made.
//!
//! *Not here*: removing files (`prune`). [`super::layout`] describes how the two exclude each other.
//!
//! *Used by* `cli`, and by `prune` for repacking.

mod apply;
mod cost;
mod deltas;
mod error;
mod estimate;
mod existing;
mod frames;
mod identity;
mod key_chain;
mod locations;
mod names;
mod options;
mod packs;
mod plan;
mod progress;
mod refresh;
mod request;
mod upload;

pub(crate) use apply::{PublishReport, apply};
pub(crate) use cost::FetchCost;
pub(crate) use error::PublishError;
pub(crate) use estimate::{Estimate, estimate};
pub(crate) use existing::{Survey, survey};
pub(crate) use frames::FrameSizes;
pub(crate) use identity::choose_identity;
pub(crate) use key_chain::choose_key_chain;
pub(crate) use options::{DEFAULT_LEVEL, PACK_SIZE, PublishOptions};
pub(crate) use plan::{PublishPlan, plan};
pub(crate) use progress::{Phase, PublishProgress};
pub(crate) use refresh::refresh;
pub(crate) use request::PublishRequest;

pub(in crate::remote) use cost::{CommitLayout, RegroupGoals};
pub(in crate::remote) use existing::{fetch_image, list_objects};
pub(in crate::remote) use frames::PackSection;
pub(in crate::remote) use locations::{NewLocator, ObjectLocations};
pub(in crate::remote) use packs::pack_and_upload;
