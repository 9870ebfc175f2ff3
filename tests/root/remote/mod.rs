//! Remotes: what is published is pulled, mounted lazily and pruned, over every transport.

mod lazy;
mod prune;
mod pull;
mod transport;
