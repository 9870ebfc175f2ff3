//! The decisions that follow from the ends of workers: restart, delay, service level. Pure functions.
//!
//! *Not here*: carrying them out (`children`).
//!
//! *Used by* `children`.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::fuse::{Death, Service};
use crate::mount::worker::EXIT_REPLACED;

/// Period in which crashes are counted, in milliseconds.
pub(super) const CRASH_WINDOW_MS: u64 = 60_000;

/// Number of crashes within the window from which only local content is served.
const CACHED_ONLY_CRASHES: u64 = 5;

/// Period without a crash after which full service is restored, in milliseconds.
pub(super) const CALM_PERIOD_MS: u64 = 10 * 60_000;

/// Number of consecutive workers killed from outside before they were ready from which such an end counts as a crash.
pub(super) const KILLED_STARTS_MAX: u32 = 3;

/// Number of consecutive workers that ended before they were ready from which all accesses are refused. The delays between
/// them add up to some six seconds, in which a transient fault may pass.
const REFUSING_FAILED_STARTS: u32 = 6;

/// First delay until a probe is started while all accesses are refused, in milliseconds. It doubles with each probe.
pub(super) const PROBE_DELAY_MS: u64 = 1_000;
/// Largest such delay.
pub(super) const PROBE_DELAY_MAX_MS: u64 = 60_000;

/// The class of a worker's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExitClass {
    /// The filesystem was unmounted.
    Unmounted,
    /// It failed to start with this code, and no worker of the mount ever served.
    FailedToStart(u8),
    /// It was killed from outside, or asked to be replaced. The next worker starts at once.
    Restart,
    /// It crashed or hung.
    Crashed,
}

/// Classifies the end of a worker. `failed_starts` is the number of consecutive workers, this one included, that ended before
/// they were ready.
pub(super) fn classify(death: Death, ever_served: bool, failed_starts: u32) -> ExitClass {
    match death {
        Death::Exited(0) => ExitClass::Unmounted,
        Death::Exited(EXIT_REPLACED) => ExitClass::Restart,
        Death::Exited(code) if !ever_served => ExitClass::FailedToStart(code),
        _ if !ever_served => ExitClass::FailedToStart(1),
        Death::Killed(signal) if signal == Signal::SIGKILL as u8 || signal == Signal::SIGTERM as u8 => {
            if failed_starts >= KILLED_STARTS_MAX { ExitClass::Crashed } else { ExitClass::Restart }
        }
        Death::Killed(_) | Death::Exited(_) | Death::Hung => ExitClass::Crashed,
    }
}

/// Returns the delay before the next worker, after this number of crashes within the window.
pub(super) const fn restart_delay(crashes: u64) -> Duration {
    Duration::from_millis(match crashes {
        0 | 1 => 0,
        2 => 50,
        3 => 200,
        4 => 1000,
        _ => 5000,
    })
}

/// Returns the service level of the next worker, after this number of crashes within the window and of consecutive workers that
/// ended before they were ready.
pub(super) const fn next_service(crashes: u64, failed_starts: u32, current: Service) -> Service {
    match current {
        Service::Refusing => Service::Refusing,
        _ if failed_starts >= REFUSING_FAILED_STARTS => Service::Refusing,
        _ if crashes >= CACHED_ONLY_CRASHES => Service::CachedOnly,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_classified() {
        let (kill, segv) = (Death::Killed(Signal::SIGKILL as u8), Death::Killed(Signal::SIGSEGV as u8));
        let cases = [
            (Death::Exited(0), true, 0, ExitClass::Unmounted),
            (Death::Exited(0), false, 1, ExitClass::Unmounted),
            (Death::Exited(3), false, 1, ExitClass::FailedToStart(3)),
            (Death::Exited(EXIT_REPLACED), true, 0, ExitClass::Restart),
            (kill, false, 1, ExitClass::FailedToStart(1)),
            (kill, true, 0, ExitClass::Restart),
            (kill, true, 2, ExitClass::Restart),
            (kill, true, 3, ExitClass::Crashed),
            (segv, true, 0, ExitClass::Crashed),
            (Death::Exited(101), true, 0, ExitClass::Crashed),
            (Death::Hung, true, 0, ExitClass::Crashed),
        ];
        for (death, ever_served, failed_starts, class) in cases {
            assert_eq!(classify(death, ever_served, failed_starts), class, "{death} {ever_served} {failed_starts}");
        }
    }

    #[test]
    fn crashes_delay_restarts_and_lower_the_service_level() {
        let services: Vec<Service> = (0..7).map(|crashes| next_service(crashes, 0, Service::Full)).collect();
        assert_eq!(services.iter().filter(|service| **service == Service::Full).count(), 5);
        assert_eq!(next_service(0, 0, Service::CachedOnly), Service::CachedOnly);
        assert_eq!(next_service(6, REFUSING_FAILED_STARTS - 1, Service::CachedOnly), Service::CachedOnly);
        assert_eq!(next_service(6, REFUSING_FAILED_STARTS, Service::CachedOnly), Service::Refusing);
        assert_eq!(next_service(0, 0, Service::Refusing), Service::Refusing);
        assert!((1..9).all(|crashes| restart_delay(crashes - 1) <= restart_delay(crashes)));
        assert_eq!(restart_delay(1), Duration::ZERO);
    }
}
