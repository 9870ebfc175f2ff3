//! wip
#![allow(missing_docs)]
pub mod apply;
pub mod boot;
pub mod config;
pub mod conflicts;
pub mod error;
pub mod etc;
pub mod files;
pub mod health;
pub mod history;
pub mod id;
pub mod kargs;
pub mod layout;
pub mod menu;
pub mod origin;
pub mod plan;
pub mod records;
pub mod roots;
pub mod services;
pub mod skeleton;
pub mod source;
pub mod space;
pub mod status;
pub mod sysroot;
