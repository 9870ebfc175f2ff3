//! Scale: system calls, bytes read and descriptors do not grow with the number of commits.

mod commits;
mod cost;
mod history;
mod incremental;
