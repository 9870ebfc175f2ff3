//! Whether a ref record is recent enough to be taken as what a ref names now.
//!
//! A server that keeps showing an old state proves nothing wrong: each of its records is genuine. Only time shows it. So a
//! publisher signs until when a record is to be taken as new, and signs it again before that (`publish --refresh`).
//!
//! *Not here*: the clock, which is an argument; what is in the repository already, which is used at any age.
//!
//! *Invariants*: a clock that shows a time before one that was signed is wrong, so nothing is concluded from it.
//!
//! *Used by* `client`.

use std::str::FromStr;

use crate::trust::{LastSeen, RefRecord};

/// Number of seconds of a day.
pub(crate) const DAY: i64 = 24 * 60 * 60;

/// What is done with a record that is too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpiredPolicy {
    /// It is used, with a warning.
    #[default]
    Warn,
    /// It is refused.
    Refuse,
}

impl ExpiredPolicy {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub(super) const fn is_default(&self) -> bool {
        matches!(self, Self::Warn)
    }
}

impl FromStr for ExpiredPolicy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "warn" => Ok(Self::Warn),
            "refuse" => Ok(Self::Refuse),
            _ => Err("it is 'warn' or 'refuse'"),
        }
    }
}

/// The age of a record in comparison with its expiry and with the limit of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Staleness {
    /// The publisher's limit has passed.
    #[error("it expired {} day(s) ago: the server may be withholding a newer state", .since / DAY)]
    Expired {
        /// Seconds since then.
        since: i64,
    },
    /// The client's limit has passed.
    #[error("it was signed {} day(s) ago, and at most {limit} are allowed", .age / DAY)]
    TooOld {
        /// Seconds since it was signed.
        age: i64,
        /// In days.
        limit: u32,
    },
    /// The clock shows a time before a record was signed.
    #[error("the clock of this machine is behind the time at which it was signed, so its age is unknown")]
    ClockBehind,
}

/// Returns what is wrong with the age of `record` at the time `now`. `seen` is the newest state seen before, and `max_age` the
/// limit of the client in days.
pub(crate) fn judge(record: &RefRecord, seen: Option<LastSeen>, max_age: Option<u32>, now: i64) -> Option<Staleness> {
    let newest = seen.map_or(record.timestamp, |seen| seen.timestamp.max(record.timestamp));
    if now < newest {
        return Some(Staleness::ClockBehind);
    }
    let expires = record.binding.and_then(|binding| binding.expires);
    if let Some(expires) = expires.filter(|expires| now > *expires) {
        return Some(Staleness::Expired { since: now.saturating_sub(expires) });
    }
    let age = now.saturating_sub(record.timestamp);
    max_age.filter(|limit| age > i64::from(*limit) * DAY).map(|limit| Staleness::TooOld { age, limit })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CommitId;
    use crate::trust::{Binding, CommitOrigin, RepositoryId};

    #[test]
    fn age_is_judged_only_by_a_clock_that_can_be_right() {
        let repository = RepositoryId::from_bytes([1; 16]);
        let record = RefRecord {
            name: "main".parse().expect("legal"),
            commit: CommitId::of(b"x"),
            sequence: 1,
            timestamp: 1000 * DAY,
            binding: Some(Binding {
                repository,
                generation: 0,
                expires: Some(1030 * DAY),
                origin: CommitOrigin::ThisRef,
            }),
        };
        let later = LastSeen { timestamp: 1010 * DAY, ..record.seen(0) };
        let cases = [
            (0, None, None, Some(Staleness::ClockBehind)),
            (1000 * DAY, None, None, None),
            (1005 * DAY, Some(later), None, Some(Staleness::ClockBehind)),
            (1030 * DAY, Some(later), None, None),
            (1031 * DAY, None, None, Some(Staleness::Expired { since: DAY })),
            (1020 * DAY, None, Some(19), Some(Staleness::TooOld { age: 20 * DAY, limit: 19 })),
            (1020 * DAY, None, Some(20), None),
            (i64::MAX, None, Some(u32::MAX), Some(Staleness::Expired { since: i64::MAX - 1030 * DAY })),
        ];
        for (now, seen, max_age, expected) in cases {
            assert_eq!(judge(&record, seen, max_age, now), expected, "at {now}");
        }
        let former = RefRecord { binding: None, timestamp: i64::MIN, ..record };
        assert_eq!(judge(&former, None, None, i64::MAX), None);
    }
}
