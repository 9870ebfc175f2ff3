//! Who serves, how those before it ended, and what follows from that.

use super::{Board, HEALTH, now};
use crate::fuse::sandbox::Enforced;

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

/// Crashes that are remembered with their times.
const CRASH_TIMES_MAX: u64 = 8;

/// What a mount does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Everything.
    #[default]
    Full,
    /// Nothing that needs a network: its workers have crashed too often.
    CachedOnly,
    /// Each access is answered with an error, because no worker came to serve. One is started again and again, ever more
    /// seldom.
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

    /// Returns the service of a word. A worker may have left any number there: everything else is the one that needs least.
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
    /// With an exit code.
    Exited(u8),
    /// By a signal.
    Killed(u8),
    /// It answered nothing any more and was killed by its supervisor.
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

/// How a mount is.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Health {
    /// What it does.
    pub service: Service,
    /// Workers started so far.
    pub starts: u64,
    /// Workers that ended although the mount went on.
    pub deaths: u64,
    /// Those of them that ended by themselves: they crashed, or hung.
    pub crashes: u64,
    /// Whether the process lives that replaces them.
    #[serde(default)]
    pub is_supervised: bool,
    /// Times that the program was exchanged.
    #[serde(default)]
    pub exchanges: u64,
    /// Times that the mount had to be made anew, because an old kernel could not send lost requests again.
    pub remounts: u64,
    /// What the worker that serves cannot do.
    #[serde(default)]
    pub sandbox: Enforced,
    /// How the last one ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_death: Option<Death>,
}

/// Whether the process that started this one is `supervisor`. A dead parent is replaced by another at once.
fn is_alive(supervisor: u32) -> bool {
    nix::unistd::getppid().as_raw().cast_unsigned() == supervisor
}

impl Board {
    /// How it is, for one of its workers to say.
    #[must_use]
    pub fn health(&self) -> Health {
        Health {
            service: self.service(),
            starts: self.get(STARTS),
            deaths: self.get(DEATHS),
            crashes: self.get(CRASHES),
            is_supervised: is_alive(self.supervisor()),
            exchanges: self.get(EXCHANGES),
            remounts: self.get(REMOUNTS),
            sandbox: Enforced::from_bits(self.get(SANDBOX)),
            last_death: Death::decode(self.get(LAST_DEATH)),
        }
    }

    /// What workers are to do.
    #[must_use]
    pub fn service(&self) -> Service {
        Service::decode(self.get(SERVICE))
    }

    pub(in crate::fuse) fn set_service(&self, service: Service) {
        self.set(SERVICE, service.encode());
    }

    /// A worker is about to be started; returns its number, under which its requests are noted.
    pub fn count_start(&self) -> u8 {
        Self::short(self.count(STARTS))
    }

    /// The number of the worker that was started last.
    #[must_use]
    pub fn worker_number(&self) -> u8 {
        Self::short(self.get(STARTS))
    }

    /// Enough of it to tell apart those that can be there at the same time.
    const fn short(number: u64) -> u8 {
        (number & 0xff) as u8
    }

    /// The process that serves.
    #[must_use]
    pub fn worker(&self) -> u32 {
        self.get(WORKER) as u32
    }

    /// The process that holds the mount.
    #[must_use]
    pub fn supervisor(&self) -> u32 {
        self.get(SUPERVISOR) as u32
    }

    /// Says that this process holds the mount.
    pub fn set_supervisor(&self, pid: u32) {
        self.set(SUPERVISOR, u64::from(pid));
    }

    /// The process that said last that it is ready.
    pub(in crate::fuse) fn ready(&self) -> u32 {
        self.get(READY) as u32
    }

    /// Says that this process is ready to serve.
    pub fn set_ready(&self, pid: u32) {
        self.set(READY, u64::from(pid));
    }

    /// Lets a worker that is ready serve.
    pub(in crate::fuse) fn set_go(&self, pid: u32) {
        self.set(WORKER, u64::from(pid));
        self.set(GO, u64::from(pid));
    }

    /// The process that may serve.
    #[must_use]
    pub fn go(&self) -> u32 {
        self.get(GO) as u32
    }

    /// Remembers what the worker that serves cannot do.
    pub fn set_sandbox(&self, enforced: &Enforced) {
        self.set(SANDBOX, enforced.bits());
    }

    /// Counts an exchange of the program.
    pub fn count_exchange(&self) {
        self.count(EXCHANGES);
    }

    /// Counts that the mount was made anew.
    pub fn count_remount(&self) {
        self.count(REMOUNTS);
    }

    /// Remembers how the worker with this process number ended.
    pub fn count_death(&self, pid: u32, death: Death) {
        self.set(LAST_DEATH, death.encode());
        self.set(LAST_DEAD, u64::from(pid));
        self.count(DEATHS);
    }

    /// Who ended last.
    #[must_use]
    pub fn last_dead(&self) -> u32 {
        self.get(LAST_DEAD) as u32
    }

    /// Remembers that a worker has ended by itself.
    pub fn count_crash(&self) {
        let place = self.get(CRASHES) % CRASH_TIMES_MAX;
        self.set(CRASH_TIMES + place as usize, now());
        self.count(CRASHES);
    }

    /// Crashes within the last so many milliseconds, as far as they are remembered.
    #[must_use]
    pub fn crashes_within(&self, span: u64) -> u64 {
        let now = now();
        let remembered = self.get(CRASHES).min(CRASH_TIMES_MAX);
        let is_recent = |index: &u64| now.saturating_sub(self.get(CRASH_TIMES + *index as usize)) <= span;
        (0..remembered).filter(is_recent).count() as u64
    }

    /// Adds one to a word and returns the sum. A worker may have left any number there, also the largest.
    fn count(&self, word: usize) -> u64 {
        let number = self.get(word).wrapping_add(1);
        self.set(word, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_told_as_they_were() {
        let board = Board::create().expect("memory");
        assert_eq!(board.health(), Health::default());
        for death in [Death::Exited(101), Death::Killed(11), Death::Hung] {
            board.count_death(7, death);
            assert_eq!(board.health().last_death, Some(death));
        }
        assert_eq!((board.health().deaths, board.last_dead()), (3, 7));
        assert_eq!(Death::Killed(11).to_string(), "was killed by SIGSEGV");
    }

    #[test]
    fn any_number_that_a_worker_leaves_can_be_counted_on() {
        let board = Board::create().expect("memory");
        (HEALTH..CRASH_TIMES + 8).for_each(|word| board.set(word, u64::MAX));
        assert_eq!(board.count_start(), 0);
        board.count_exchange();
        board.count_remount();
        board.count_death(1, Death::Hung);
        board.count_crash();
        assert_eq!(board.crashes_within(60_000), 0, "the count of crashes began anew");
        assert_eq!(board.health().deaths, 0);
    }

    #[test]
    fn only_recent_crashes_count() {
        let board = Board::create().expect("memory");
        for _ in 0..20 {
            board.count_crash();
        }
        assert_eq!(board.health().crashes, 20);
        assert_eq!(board.crashes_within(60_000), CRASH_TIMES_MAX);
        let long_ago = now().saturating_sub(100_000);
        (0..CRASH_TIMES_MAX as usize - 1).for_each(|index| board.set(CRASH_TIMES + index, long_ago));
        assert_eq!(board.crashes_within(60_000), 1);
    }
}
