//! Remotes: publications are pulled, mounted lazily and pruned, over every transport.

mod answers;
mod golden;
mod history;
mod lazy;
mod prune;
mod pull;
mod transport;
mod verify;
