//! A bound on the bytes that are in memory at once.
//!
//! *Used by* `session`, for downloaded bytes that wait to be decoded.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// A limit on the bytes that all permits together may cover.
pub(super) struct MemoryBudget {
    total: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// A permit to hold some bytes in memory. Dropping it returns them to the budget.
pub(super) struct MemoryPermit {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl MemoryBudget {
    pub(super) fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { total, used: Mutex::new(0), freed: Condvar::new() })
    }

    /// Waits until `bytes` more may be held. A request for more than the whole budget is granted when no other permit
    /// exists.
    pub(super) fn acquire(self: &Arc<Self>, bytes: u64) -> MemoryPermit {
        let mut used = self.used.lock();
        while *used > 0 && used.saturating_add(bytes) > self.total {
            self.freed.wait(&mut used);
        }
        *used = used.saturating_add(bytes);
        drop(used);
        MemoryPermit { budget: Arc::clone(self), bytes }
    }
}

impl Drop for MemoryPermit {
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
    fn permits_never_exceed_the_budget() {
        let budget = MemoryBudget::new(10);
        let held = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for bytes in 1..=8 {
                let (budget, held) = (&budget, &held);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let _permit = budget.acquire(bytes);
                        assert!(held.fetch_add(bytes, Ordering::SeqCst) + bytes <= 10);
                        held.fetch_sub(bytes, Ordering::SeqCst);
                    }
                });
            }
        });
        drop(budget.acquire(1000));
    }
}
