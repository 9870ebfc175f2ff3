//! A bound on the bytes that are in memory at once.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// So many bytes may be held at once, by all who take permits.
pub(super) struct Budget {
    total: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// Permission to hold some bytes, given back when dropped.
pub(super) struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { total, used: Mutex::new(0), freed: Condvar::new() })
    }

    /// Waits until `bytes` more may be held. More than the whole budget may be held by one alone.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Permit {
        let mut used = self.used.lock();
        while *used > 0 && used.saturating_add(bytes) > self.total {
            self.freed.wait(&mut used);
        }
        *used = used.saturating_add(bytes);
        drop(used);
        Permit { budget: Arc::clone(self), bytes }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = self.budget.used.lock();
        *used = used.saturating_sub(self.bytes);
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn never_more_than_the_budget_is_held() {
        let budget = Budget::new(10);
        let held = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for bytes in 1..=8 {
                let (budget, held) = (&budget, &held);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let _permit = budget.take(bytes);
                        assert!(held.fetch_add(bytes, Ordering::SeqCst) + bytes <= 10);
                        held.fetch_sub(bytes, Ordering::SeqCst);
                    }
                });
            }
        });
        drop(budget.take(1000));
    }
}
