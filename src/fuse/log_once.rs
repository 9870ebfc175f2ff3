//! Limits on log lines: one for each cause of failure, and at most one per interval for slow fetches.
//!
//! *Used by* `operations`, `adapter` and `wait_pool`.

use std::collections::HashSet;
use std::error::Error;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::chain;

/// Largest number of causes that are remembered and logged. For a repository with more damage `fsck` is the right tool.
const CAUSES_MAX: usize = 256;

/// A log that reports each cause of failure once.
#[derive(Default)]
pub(super) struct LogOnce(Mutex<HashSet<Cause>>);

#[derive(PartialEq, Eq, Hash)]
enum Cause {
    Node(u64),
    Named(&'static str),
}

impl LogOnce {
    /// Logs the first error of an inode.
    pub(super) fn log_inode_error(&self, node: u64, error: &(dyn Error + 'static)) {
        if self.is_new(Cause::Node(node)) {
            tracing::error!(inode = node, "{}", chain(error));
        }
    }

    /// Logs the first error of a cause that does not concern one inode.
    pub(super) fn log_named_error(&self, what: &'static str, error: &(dyn Error + 'static)) {
        if self.is_new(Cause::Named(what)) {
            tracing::warn!("{what}: {}", chain(error));
        }
    }

    fn is_new(&self, cause: Cause) -> bool {
        let mut known = self.0.lock();
        if known.len() > CAUSES_MAX || !known.insert(cause) {
            return false;
        }
        if known.len() > CAUSES_MAX {
            tracing::error!(
                "more than {CAUSES_MAX} different failures: no further ones are logged; run 'sapwood fsck --all'"
            );
            return false;
        }
        true
    }
}

/// A limit of one log line per interval.
#[derive(Default)]
pub(super) struct LogInterval(Mutex<Option<Instant>>);

impl LogInterval {
    /// A slow network delays all readers, so one line in this time is as informative as a hundred.
    const MIN_INTERVAL: Duration = Duration::from_secs(5);

    /// Returns whether the interval since the last line has passed, and starts the next one if so.
    pub(super) fn is_due(&self) -> bool {
        let mut last = self.0.lock();
        let is_due = last.is_none_or(|last| last.elapsed() >= Self::MIN_INTERVAL);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_logged_once_up_to_the_limit() {
        let log = LogOnce::default();
        assert!(log.is_new(Cause::Node(1)));
        assert!(!log.is_new(Cause::Node(1)));
        assert!(log.is_new(Cause::Named("x")));
        let new = (2..10_000).filter(|node| log.is_new(Cause::Node(*node))).count();
        assert_eq!(new, CAUSES_MAX - 2);
    }
}
