//! Servers that are broken, and servers that mean harm: what the user reads, and that nothing wrong enters.
//!
//! A hostile server can deny service and do nothing else: no wrong byte gets through, memory, disk and time are bounded, and
//! nothing is written outside the repository.
mod forge;
mod scene;
mod server;

mod answers;
mod changes;
mod damage;
mod files;
mod lazy;
mod signatures;
