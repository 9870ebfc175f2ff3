//! What follows from how workers ended: pure decisions.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::fuse::board::{Death, Service};
use crate::fuse::daemon::MADE_ROOM;

/// Crashes count for this long, in milliseconds.
pub(super) const WINDOW: u64 = 60_000;

/// So many crashes within the window are enough: what needs a network is left alone from then on.
const ENOUGH: u64 = 5;

/// How long without a crash until everything is tried again.
pub(super) const CALM: u64 = 10 * 60_000;

/// So many workers in a row that were killed from outside before they served are taken for crashes.
pub(super) const UNREADY: u32 = 3;

/// So many workers in a row that ended before they served are enough: each access is answered with an error from then on.
/// With the delays between them these are some six seconds, in which a passing fault is waited for.
const GIVE_UP: u32 = 6;

/// How long after that a worker is started again to see whether it comes to serve now, in milliseconds: at first, and at most.
pub(super) const TRY_AGAIN: u64 = 1_000;
pub(super) const TRY_AGAIN_MAX: u64 = 60_000;

/// How the life of a worker was, now that it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The filesystem is unmounted.
    Over,
    /// It never came to serve, and neither did any before it.
    Stillborn(u8),
    /// Somebody killed it, or it wants to begin anew; the next one begins at once.
    Killed,
    /// It ended by itself.
    Crashed,
}

/// Judges a death. `unready` counts the workers in a row, this one included, that ended before they served.
pub(super) fn judge(death: Death, ever_served: bool, unready: u32) -> Verdict {
    match death {
        Death::Exited(0) => Verdict::Over,
        Death::Exited(MADE_ROOM) => Verdict::Killed,
        Death::Exited(code) if !ever_served => Verdict::Stillborn(code),
        _ if !ever_served => Verdict::Stillborn(1),
        Death::Killed(signal) if signal == Signal::SIGKILL as u8 || signal == Signal::SIGTERM as u8 => {
            if unready >= UNREADY { Verdict::Crashed } else { Verdict::Killed }
        }
        Death::Killed(_) | Death::Exited(_) | Death::Hung => Verdict::Crashed,
    }
}

/// How long to wait before the next worker, after so many crashes within the window.
pub(super) const fn delay(crashes: u64) -> Duration {
    Duration::from_millis(match crashes {
        0 | 1 => 0,
        2 => 50,
        3 => 200,
        4 => 1000,
        _ => 5000,
    })
}

/// What the next worker is to do, after so many crashes within the window and so many workers in a row that ended before they
/// served.
pub(super) const fn service(crashes: u64, unready: u32, now: Service) -> Service {
    match now {
        Service::Refusing => Service::Refusing,
        _ if unready >= GIVE_UP => Service::Refusing,
        _ if crashes >= ENOUGH => Service::CachedOnly,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_judged() {
        let (kill, segv) = (Death::Killed(Signal::SIGKILL as u8), Death::Killed(Signal::SIGSEGV as u8));
        let cases = [
            (Death::Exited(0), true, 0, Verdict::Over),
            (Death::Exited(0), false, 1, Verdict::Over),
            (Death::Exited(3), false, 1, Verdict::Stillborn(3)),
            (Death::Exited(MADE_ROOM), true, 0, Verdict::Killed),
            (kill, false, 1, Verdict::Stillborn(1)),
            (kill, true, 0, Verdict::Killed),
            (kill, true, 2, Verdict::Killed),
            (kill, true, 3, Verdict::Crashed),
            (segv, true, 0, Verdict::Crashed),
            (Death::Exited(101), true, 0, Verdict::Crashed),
            (Death::Hung, true, 0, Verdict::Crashed),
        ];
        for (death, ever_served, unready, verdict) in cases {
            assert_eq!(judge(death, ever_served, unready), verdict, "{death} {ever_served} {unready}");
        }
    }

    #[test]
    fn crashes_slow_down_and_end_in_serving_what_is_here_or_nothing() {
        let services: Vec<Service> = (0..7).map(|crashes| service(crashes, 0, Service::Full)).collect();
        assert_eq!(services.iter().filter(|service| **service == Service::Full).count(), 5);
        assert_eq!(service(0, 0, Service::CachedOnly), Service::CachedOnly);
        assert_eq!(service(6, GIVE_UP - 1, Service::CachedOnly), Service::CachedOnly);
        assert_eq!(service(6, GIVE_UP, Service::CachedOnly), Service::Refusing);
        assert_eq!(service(0, 0, Service::Refusing), Service::Refusing);
        assert!((1..9).all(|crashes| delay(crashes - 1) <= delay(crashes)));
        assert_eq!(delay(1), Duration::ZERO);
    }
}
