//! The state of a mount's workers: which one serves, how earlier ones ended, and the service level that follows.
//!
//! *Not here*: the decisions on restarts and service levels (`supervisor::policy`).
//!
//! *Used by* the supervisor, `mount::worker`, `mount::control` and the processes of a mount.

use super::{Enforced, HEALTH, SharedState, now_ms};

const STARTS: usize = HEALTH;
const SERVICE: usize = HEALTH + 1;
const DEATHS: usize = HEALTH + 2;
const CRASHES: usize = HEALTH + 3;
const LAST_DEATH: usize = HEALTH + 4;
const LAST_DEAD: usize = HEALTH + 5;
const READY: usize = HEALTH + 6;
const WORKER: usize = HEALTH + 7;
const REMOUNTS: usize = HEALTH + 8;
const EXCHANGES: usize = HEALTH + 9;
const GO: usize = HEALTH + 10;
const SUPERVISOR: usize = HEALTH + 11;
const SANDBOX: usize = HEALTH + 12;
const CRASH_TIMES: usize = HEALTH + 16;

/// Number of the last crashes whose times are kept.
const CRASH_TIMES_MAX: u64 = 8;

/// The service level of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Service {
    /// Everything, fetching included.
    #[default]
    Full,
    /// Only local content, without network, because workers have crashed too often.
    CachedOnly,
    /// Each access fails, because no worker could start. A worker is tried again, at growing intervals.
    Refusing,
}

impl Service {
    const fn encode(self) -> u64 {
        match self {
            Self::Full => 0,
            Self::CachedOnly => 1,
            Self::Refusing => 2,
        }
    }

    /// Returns the service level of a word. A crashed worker may have left any number there; an unknown one means
    /// [`Self::CachedOnly`].
    const fn decode(word: u64) -> Self {
        match word {
            0 => Self::Full,
            2 => Self::Refusing,
            _ => Self::CachedOnly,
        }
    }
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Death {
    /// It exited with this code.
    Exited(u8),
    /// This signal killed it.
    Killed(u8),
    /// It made no progress and was killed by its supervisor.
    Hung,
}

impl Death {
    const fn encode(self) -> u64 {
        match self {
            Self::Exited(code) => 1 << 8 | code as u64,
            Self::Killed(signal) => 2 << 8 | signal as u64,
            Self::Hung => 3 << 8,
        }
    }

    const fn decode(word: u64) -> Option<Self> {
        match word >> 8 {
            1 => Some(Self::Exited(word as u8)),
            2 => Some(Self::Killed(word as u8)),
            3 => Some(Self::Hung),
            _ => None,
        }
    }
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "ended with code {code}"),
            Self::Killed(signal) => match nix::sys::signal::Signal::try_from(i32::from(*signal)) {
                Ok(signal) => write!(f, "was killed by {signal}"),
                Err(_) => write!(f, "was killed by signal {signal}"),
            },
            Self::Hung => write!(f, "answered nothing any more and was killed"),
        }
    }
}

/// The state of a mount's workers.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Health {
    /// The service level of the mount.
    pub(crate) service: Service,
    /// Number of workers that were started.
    pub(crate) starts: u64,
    /// Number of workers that ended while the mount continued.
    pub(crate) deaths: u64,
    /// Number of workers that crashed or hung.
    pub(crate) crashes: u64,
    /// Whether the supervisor, which replaces workers, is alive.
    #[serde(default)]
    pub(crate) is_supervised: bool,
    /// Number of exchanges of the program.
    #[serde(default)]
    pub(crate) exchanges: u64,
    /// Number of times that the mount was made again because an old kernel could not resend lost requests.
    pub(crate) remounts: u64,
    /// The sandbox of the worker that serves.
    #[serde(default)]
    pub(crate) sandbox: Enforced,
    /// How the last worker ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_death: Option<Death>,
}

/// Returns whether the parent of this process is `supervisor`. The kernel gives the child of a dead process another parent at
/// once.
fn is_alive(supervisor: u32) -> bool {
    nix::unistd::getppid().as_raw().cast_unsigned() == supervisor
}

impl SharedState {
    /// Returns the state of the workers; to be called by a worker.
    #[must_use]
    pub fn health(&self) -> Health {
        Health {
            service: self.service(),
            starts: self.get(STARTS),
            deaths: self.get(DEATHS),
            crashes: self.get(CRASHES),
            is_supervised: is_alive(self.supervisor_pid()),
            exchanges: self.get(EXCHANGES),
            remounts: self.get(REMOUNTS),
            sandbox: Enforced::from_bits(self.get(SANDBOX)),
            last_death: Death::decode(self.get(LAST_DEATH)),
        }
    }

    /// Returns the service level.
    pub(crate) fn service(&self) -> Service {
        Service::decode(self.get(SERVICE))
    }

    pub(crate) fn set_service(&self, service: Service) {
        self.set(SERVICE, service.encode());
    }

    /// Counts the start of a worker and returns its number, under which its requests are recorded.
    pub fn count_start(&self) -> u8 {
        Self::low_byte(self.increment(STARTS))
    }

    /// Returns the number of the worker that was started last.
    #[must_use]
    pub fn worker_number(&self) -> u8 {
        Self::low_byte(self.get(STARTS))
    }

    /// Returns the lowest byte, which is enough to distinguish workers that exist at the same time.
    const fn low_byte(number: u64) -> u8 {
        (number & 0xff) as u8
    }

    /// Returns the process number of the worker that serves.
    pub(crate) fn worker_pid(&self) -> u32 {
        self.get(WORKER) as u32
    }

    /// Returns the process number of the supervisor.
    pub(crate) fn supervisor_pid(&self) -> u32 {
        self.get(SUPERVISOR) as u32
    }

    /// Records the process number of the supervisor.
    pub(crate) fn set_supervisor_pid(&self, pid: u32) {
        self.set(SUPERVISOR, u64::from(pid));
    }

    /// Returns the process number of the worker that became ready last.
    pub(crate) fn ready_pid(&self) -> u32 {
        self.get(READY) as u32
    }

    /// Records that the worker with this process number is ready to serve.
    pub(crate) fn set_ready_pid(&self, pid: u32) {
        self.set(READY, u64::from(pid));
    }

    /// Permits the worker with this process number to serve.
    pub(crate) fn set_go_ahead(&self, pid: u32) {
        self.set(WORKER, u64::from(pid));
        self.set(GO, u64::from(pid));
    }

    /// Returns the process number of the worker that may serve.
    pub(crate) fn go_ahead_pid(&self) -> u32 {
        self.get(GO) as u32
    }

    /// Records the sandbox of the worker that serves.
    pub(crate) fn set_sandbox(&self, enforced: &Enforced) {
        self.set(SANDBOX, enforced.bits());
    }

    /// Counts an exchange of the program.
    pub fn count_exchange(&self) {
        self.increment(EXCHANGES);
    }

    /// Counts that the mount was made again.
    pub fn count_remount(&self) {
        self.increment(REMOUNTS);
    }

    /// Records how the worker with this process number ended.
    pub fn count_death(&self, pid: u32, death: Death) {
        self.set(LAST_DEATH, death.encode());
        self.set(LAST_DEAD, u64::from(pid));
        self.increment(DEATHS);
    }

    /// Returns the process number of the worker that ended last.
    #[must_use]
    pub fn last_dead_pid(&self) -> u32 {
        self.get(LAST_DEAD) as u32
    }

    /// Counts a crash and records its time.
    pub fn count_crash(&self) {
        let index = self.get(CRASHES) % CRASH_TIMES_MAX;
        self.set(CRASH_TIMES + index as usize, now_ms());
        self.increment(CRASHES);
    }

    /// Returns the number of crashes within the last `span` milliseconds, among those whose times are kept.
    #[must_use]
    pub fn crashes_within(&self, span: u64) -> u64 {
        let now = now_ms();
        let remembered = self.get(CRASHES).min(CRASH_TIMES_MAX);
        let is_recent = |index: &u64| now.saturating_sub(self.get(CRASH_TIMES + *index as usize)) <= span;
        (0..remembered).filter(is_recent).count() as u64
    }

    /// Adds one to a word and returns the sum. It wraps, since a crashed worker may have left the largest number there.
    fn increment(&self, word: usize) -> u64 {
        let number = self.get(word).wrapping_add(1);
        self.set(word, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_reported_as_they_were_counted() {
        let shared = SharedState::create().expect("enough memory");
        assert_eq!(shared.health(), Health::default());
        for death in [Death::Exited(101), Death::Killed(11), Death::Hung] {
            shared.count_death(7, death);
            assert_eq!(shared.health().last_death, Some(death));
        }
        assert_eq!((shared.health().deaths, shared.last_dead_pid()), (3, 7));
        assert_eq!(Death::Killed(11).to_string(), "was killed by SIGSEGV");
    }

    #[test]
    fn counters_wrap_after_any_number_left_by_a_worker() {
        let shared = SharedState::create().expect("enough memory");
        (HEALTH..CRASH_TIMES + 8).for_each(|word| shared.set(word, u64::MAX));
        assert_eq!(shared.count_start(), 0);
        shared.count_exchange();
        shared.count_remount();
        shared.count_death(1, Death::Hung);
        shared.count_crash();
        assert_eq!(shared.crashes_within(60_000), 0, "the count of crashes wrapped to 0");
        assert_eq!(shared.health().deaths, 0);
    }

    #[test]
    fn only_recent_crashes_count() {
        let shared = SharedState::create().expect("enough memory");
        for _ in 0..20 {
            shared.count_crash();
        }
        assert_eq!(shared.health().crashes, 20);
        assert_eq!(shared.crashes_within(60_000), CRASH_TIMES_MAX);
        let long_ago = now_ms().saturating_sub(100_000);
        (0..CRASH_TIMES_MAX as usize - 1).for_each(|index| shared.set(CRASH_TIMES + index, long_ago));
        assert_eq!(shared.crashes_within(60_000), 1);
    }
}
