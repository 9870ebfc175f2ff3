//! Publishing: a repository's commits as plain files that any web server or bucket can serve.
//!
//! Three steps. [`survey`] reads what is published already. [`plan`] says, as pure data, which commits go up and which objects
//! of them are new. [`apply`] packs, uploads and names: leaves first, refs last, each file that a name depends on before
//! the name, so that a reader at any moment finds either the old state or the new one whole. Immutable files are named by
//! their content and never sent twice; a publisher that was killed is simply started again.
//!
//! Two publishers at once do not harm each other: a ref is replaced only if it still is what the plan has seen. Nothing is
//! ever removed here, `prune` does that; how the two keep out of each other's way is told in [`super::layout`].

mod apply;
mod deltas;
mod error;
mod estimate;
mod existing;
mod frames;
mod names;
mod options;
mod packs;
mod places;
mod plan;
mod progress;
mod request;
mod upload;
mod view;

pub use apply::{PublishReport, Published, apply};
pub use error::PublishError;
pub use estimate::{Estimate, estimate};
pub use existing::{Survey, survey};
pub use frames::FrameSizes;
pub use options::{DEFAULT_LEVEL, PACK_SIZE, PublishOptions};
pub use plan::{Again, CommitPlan, PublishPlan, RefPlan, plan};
pub use progress::{Phase, PublishProgress};
pub use request::PublishRequest;
pub use view::Cost;

pub(in crate::remote) use existing::{objects, published_image};
pub(in crate::remote) use frames::Section;
pub(in crate::remote) use packs::pack_and_upload;
pub(in crate::remote) use places::{NewLocator, Places};
pub(in crate::remote) use view::{Goals, View};
