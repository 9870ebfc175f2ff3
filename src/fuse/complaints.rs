//! One line in the log for each thing that is broken, not one for each read of it.

use std::collections::HashSet;
use std::error::Error;
use std::iter::successors;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Causes remembered at most; a repository with more damage than this needs `fsck`, not a longer log.
const LIMIT: usize = 256;

/// What was complained about already.
#[derive(Default)]
pub(super) struct Complaints(Mutex<HashSet<Cause>>);

#[derive(PartialEq, Eq, Hash)]
enum Cause {
    Node(u64),
    Named(&'static str),
}

impl Complaints {
    /// Reports that an inode cannot be served.
    pub(super) fn log(&self, node: u64, error: &(dyn Error + 'static)) {
        if self.first(Cause::Node(node)) {
            tracing::error!(inode = node, "{}", chain(error));
        }
    }

    /// Reports something that is not about one inode.
    pub(super) fn log_once(&self, what: &'static str, error: &(dyn Error + 'static)) {
        if self.first(Cause::Named(what)) {
            tracing::warn!("{what}: {}", chain(error));
        }
    }

    fn first(&self, cause: Cause) -> bool {
        let mut known = self.0.lock();
        if known.len() > LIMIT || !known.insert(cause) {
            return false;
        }
        if known.len() > LIMIT {
            tracing::error!(
                "more than {LIMIT} different failures: no further ones are logged; run 'sapwood fsck --all'"
            );
            return false;
        }
        true
    }
}

/// Says no more than one thing in a while.
#[derive(Default)]
pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// A network that is slow is slow for everybody: one line every few seconds tells as much as a hundred.
    const PAUSE: Duration = Duration::from_secs(5);

    /// Whether it is time for another.
    pub(super) fn is_due(&self) -> bool {
        let mut last = self.0.lock();
        let is_due = last.is_none_or(|last| last.elapsed() >= Self::PAUSE);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

/// The error with its causes, as one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_new_once_and_there_is_an_end() {
        let complaints = Complaints::default();
        assert!(complaints.first(Cause::Node(1)));
        assert!(!complaints.first(Cause::Node(1)));
        assert!(complaints.first(Cause::Named("x")));
        let new = (2..10_000).filter(|node| complaints.first(Cause::Node(*node))).count();
        assert_eq!(new, LIMIT - 2);
    }
}
