//! A table of running fetches: a thread that needs something which is being fetched waits for that fetch.
//!
//! The first thread that asks for a key becomes the [`Leader`] of the fetch. All threads that ask for it get a [`Waiter`].
//!
//! *Invariants*: at most one fetch of a key runs at a time. No lock is held during a fetch. Every waiter gets the result or
//! the error; one may leave at its deadline while the fetch continues for the others. A leader that is dropped without a
//! result ends the fetch with an error of its own, so that no waiter blocks for ever.
//!
//! *Used by* `image`, `objects` and other files of `fetch`.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::cache::fetch::error::LazyFetchError;

/// The running fetches, by key.
#[derive(Debug)]
pub(in crate::cache) struct InFlight<K: Eq + Hash + Copy>(Arc<Mutex<HashMap<K, Arc<RunningFetch>>>>);

#[derive(Debug, Default)]
struct RunningFetch {
    result: Mutex<Option<Result<(), LazyFetchError>>>,
    completed: Condvar,
}

/// A handle that waits for a running fetch, which may have been started by another thread.
#[derive(Debug, Clone)]
pub(in crate::cache) struct Waiter(Arc<RunningFetch>);

/// The obligation to execute a fetch and to report its result. Dropping it reports [`LazyFetchError::Abandoned`].
pub(in crate::cache) struct Leader<K: Eq + Hash + Copy> {
    table: InFlight<K>,
    key: K,
    fetch: Arc<RunningFetch>,
}

impl<K: Eq + Hash + Copy> Default for InFlight<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Copy> Clone for InFlight<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash + Copy> InFlight<K> {
    /// Joins the fetch of `key`. The first caller also gets the leader, and has to execute the fetch.
    pub(crate) fn join(&self, key: K) -> (Waiter, Option<Leader<K>>) {
        let mut table = self.0.lock();
        if let Some(fetch) = table.get(&key) {
            return (Waiter(Arc::clone(fetch)), None);
        }
        let fetch = Arc::<RunningFetch>::default();
        table.insert(key, Arc::clone(&fetch));
        let leader = Leader { table: self.clone(), key, fetch: Arc::clone(&fetch) };
        (Waiter(fetch), Some(leader))
    }

    /// Returns whether a fetch of `key` is running.
    pub(crate) fn is_in_flight(&self, key: K) -> bool {
        self.0.lock().contains_key(&key)
    }
}

impl Waiter {
    /// Waits for the result of the fetch, at most until `deadline`.
    pub(crate) fn wait(&self, deadline: Instant) -> Result<(), LazyFetchError> {
        let mut result = self.0.result.lock();
        loop {
            if let Some(result) = &*result {
                return result.clone();
            }
            if self.0.completed.wait_until(&mut result, deadline).timed_out() && result.is_none() {
                return Err(LazyFetchError::TimedOut);
            }
        }
    }
}

impl<K: Eq + Hash + Copy> Leader<K> {
    /// Returns the key of the fetch.
    pub(crate) const fn key(&self) -> K {
        self.key
    }

    /// Passes the result to all waiters. A later request for the key starts a new fetch.
    pub(crate) fn complete(self, result: Result<(), LazyFetchError>) {
        self.finish(result);
    }

    fn finish(&self, result: Result<(), LazyFetchError>) {
        // Removed from the table first: a thread that finds no entry has to see what this fetch stored.
        self.table.0.lock().remove(&self.key);
        self.fetch.result.lock().get_or_insert(result);
        self.fetch.completed.notify_all();
    }
}

impl<K: Eq + Hash + Copy> Drop for Leader<K> {
    fn drop(&mut self) {
        if self.fetch.result.lock().is_none() {
            self.finish(Err(LazyFetchError::Abandoned));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn in_20_seconds() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn one_of_many_threads_fetches_and_all_get_the_result() {
        for result in [Ok(()), Err(LazyFetchError::TimedOut)] {
            let (in_flight, fetches) = (InFlight::default(), AtomicUsize::new(0));
            let start = std::sync::Barrier::new(32);
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..32)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            let (waiter, leader) = in_flight.join(7_u32);
                            if let Some(leader) = leader {
                                fetches.fetch_add(1, Ordering::SeqCst);
                                std::thread::sleep(Duration::from_millis(200));
                                leader.complete(result.clone());
                            }
                            waiter.wait(in_20_seconds())
                        })
                    })
                    .collect();
                for thread in threads {
                    assert_eq!(thread.join().expect("no panic").is_ok(), result.is_ok());
                }
            });
            assert_eq!(fetches.load(Ordering::SeqCst), 1);
            assert!(!in_flight.is_in_flight(7));
        }
    }

    #[test]
    fn dropped_leader_fails_waiters_and_a_timeout_only_its_waiter() {
        let in_flight = InFlight::default();
        let (waiter, leader) = in_flight.join("key");
        assert!(matches!(waiter.wait(Instant::now()), Err(LazyFetchError::TimedOut)));
        assert!(in_flight.is_in_flight("key"));
        drop(leader);
        assert!(matches!(waiter.wait(in_20_seconds()), Err(LazyFetchError::Abandoned)));
        assert!(in_flight.join("key").1.is_some());
    }
}
