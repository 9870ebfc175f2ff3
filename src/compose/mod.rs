//! Makes commits from trees: from packages that a treefile names, from a directory, or from a tar archive.
//!
//! | module | content |
//! | --- | --- |
//! | `pipeline` | the order of the steps of `sapwood compose` |
//! | `treefile`, `lock` | the input: what to install |
//! | `engine`, `packages` | apt and dnf; packages as values |
//! | `workspace`, `sandbox`, `process` | where a compose runs; isolation of one program; running programs |
//! | `root` | the treefile's changes to an installed root on disk |
//! | `staged`, `layout`, `selinux`, `metadata` | the root as a tree in memory, and what is changed in it before it is stored |
//! | `parent`, `inputs` | what is known of the parent commit; whether anything changed |
//! | [`source`] | reads a directory or a tar archive into a [`crate::image::Tree`] |
//! | [`commit_tree`] | makes the image and the commit, and moves the ref |
//!
//! *Used by* `cli`.

pub(crate) mod base;
mod commit;
pub mod engine;
pub(crate) mod inputs;
pub(crate) mod layout;
pub mod lock;
pub(crate) mod metadata;
pub mod packages;
pub(crate) mod parent;
pub(crate) mod pipeline;
pub(crate) mod process;
pub(crate) mod root;
pub(crate) mod sandbox;
pub(crate) mod selinux;
pub mod source;
pub(crate) mod staged;
pub mod treefile;
pub(crate) mod workspace;

pub(crate) use commit::Committed;
pub use commit::{CommitRequest, ParentChoice, commit_tree};
