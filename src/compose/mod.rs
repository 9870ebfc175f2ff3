//! From a tree somewhere to a commit here.
//!
//! [`source`] reads a tree of one kind into objects and a [`crate::image::Tree`]; [`commit_tree`] makes the image and the
//! commit of it and moves the ref. Called by `cli`.

mod commit;
pub mod confine;
pub mod draft;
pub mod engine;
pub mod inputs;
pub mod journey;
pub mod layout;
pub mod lock;
pub mod metadata;
pub mod packages;
pub mod parent;
pub mod process;
pub mod root;
pub mod sandbox;
pub mod selinux;
pub mod source;
pub mod treefile;

pub use commit::{CommitRequest, CommitTreeError, Committed, Parent, commit_tree};
