//! Integrity: nothing enters a repository or reaches a reader unverified, whatever a server sends and whoever signs.

mod hostile;
mod trust;
