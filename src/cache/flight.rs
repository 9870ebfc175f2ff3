//! At most one fetch of a thing at a time: whoever wants what is on its way waits for it.
//!
//! No lock is held while something is fetched. The result, an error too, reaches everybody who waits; a waiter may leave
//! at its deadline while the fetch goes on for the others. A fetch that is given up without a result is an error of its
//! own, so that nobody waits for ever.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::error::FetchError;

/// The fetches under way, by what is fetched.
#[derive(Debug)]
pub(super) struct Flights<K: Eq + Hash + Copy>(Arc<Mutex<HashMap<K, Arc<Flight>>>>);

#[derive(Debug, Default)]
struct Flight {
    result: Mutex<Option<Result<(), FetchError>>>,
    landed: Condvar,
}

/// A place on a flight: its result is ours too.
#[derive(Debug, Clone)]
pub(super) struct Seat(Arc<Flight>);

/// The duty to fetch and to say how it went. Dropping it says that it was given up.
pub(super) struct Pilot<K: Eq + Hash + Copy> {
    flights: Flights<K>,
    key: K,
    flight: Arc<Flight>,
}

impl<K: Eq + Hash + Copy> Default for Flights<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Copy> Clone for Flights<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash + Copy> Flights<K> {
    /// A seat on the fetch of `key`, and the duty to carry it out for whoever asks first.
    pub fn board(&self, key: K) -> (Seat, Option<Pilot<K>>) {
        let mut table = self.0.lock();
        if let Some(flight) = table.get(&key) {
            return (Seat(Arc::clone(flight)), None);
        }
        let flight = Arc::<Flight>::default();
        table.insert(key, Arc::clone(&flight));
        let pilot = Pilot { flights: self.clone(), key, flight: Arc::clone(&flight) };
        (Seat(flight), Some(pilot))
    }

    /// Whether `key` is being fetched.
    pub fn is_under_way(&self, key: K) -> bool {
        self.0.lock().contains_key(&key)
    }
}

impl Seat {
    /// Waits for the result, at most until `deadline`.
    pub fn wait(&self, deadline: Instant) -> Result<(), FetchError> {
        let mut result = self.0.result.lock();
        loop {
            if let Some(result) = &*result {
                return result.clone();
            }
            if self.0.landed.wait_until(&mut result, deadline).timed_out() && result.is_none() {
                return Err(FetchError::TooLate);
            }
        }
    }
}

impl<K: Eq + Hash + Copy> Pilot<K> {
    /// What is fetched.
    pub const fn key(&self) -> K {
        self.key
    }

    /// Tells everybody how it went. Whoever asks from now on begins anew.
    pub fn land(self, result: Result<(), FetchError>) {
        self.announce(result);
    }

    fn announce(&self, result: Result<(), FetchError>) {
        // Out of the table first: who finds nothing there sees what this fetch brought.
        self.flights.0.lock().remove(&self.key);
        self.flight.result.lock().get_or_insert(result);
        self.flight.landed.notify_all();
    }
}

impl<K: Eq + Hash + Copy> Drop for Pilot<K> {
    fn drop(&mut self) {
        if self.flight.result.lock().is_none() {
            self.announce(Err(FetchError::GivenUp));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn of_many_one_fetches_and_all_hear_how_it_went() {
        for result in [Ok(()), Err(FetchError::TooLate)] {
            let (flights, fetches) = (Flights::default(), AtomicUsize::new(0));
            let start = std::sync::Barrier::new(32);
            std::thread::scope(|scope| {
                let waiters: Vec<_> = (0..32)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            let (seat, pilot) = flights.board(7_u32);
                            if let Some(pilot) = pilot {
                                fetches.fetch_add(1, Ordering::SeqCst);
                                std::thread::sleep(Duration::from_millis(200));
                                pilot.land(result.clone());
                            }
                            seat.wait(soon())
                        })
                    })
                    .collect();
                for waiter in waiters {
                    assert_eq!(waiter.join().expect("no panic").is_ok(), result.is_ok());
                }
            });
            assert_eq!(fetches.load(Ordering::SeqCst), 1);
            assert!(!flights.is_under_way(7));
        }
    }

    #[test]
    fn who_gives_up_says_so_and_who_is_impatient_leaves_alone() {
        let flights = Flights::default();
        let (seat, pilot) = flights.board("key");
        assert!(matches!(seat.wait(Instant::now()), Err(FetchError::TooLate)));
        assert!(flights.is_under_way("key"));
        drop(pilot);
        assert!(matches!(seat.wait(soon()), Err(FetchError::GivenUp)));
        assert!(flights.board("key").1.is_some());
    }
}
