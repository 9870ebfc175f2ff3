//! Integrity: nothing unverified enters a repository or reaches a reader, whatever a server sends and whichever key signed it.

mod freshness;
mod hostile;
mod trust;
