//! Broken and malicious servers: the messages for the user, and that nothing wrong is stored.
//!
//! *Invariants*: a hostile server can deny service and do nothing else: no wrong byte gets through, memory, disk and time are
//! bounded, and nothing is written outside the repository.
mod fixture;
mod forge;
mod server;

mod answers;
mod changes;
mod damage;
mod files;
mod lazy;
mod signatures;
mod worker;
