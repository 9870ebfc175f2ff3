//! What may stand behind `-o`: parsed once, refused by name when unknown.
//!
//! Options that only mean something to `mount(8)`, fstab or systemd are accepted and ignored, so that a line of fstab can
//! be passed on as it is.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::cache::Rest;
use crate::model::{ImagePath, PathError, parse_size};
use crate::store::Verify;

/// Threads that answer the kernel unless `threads=` says otherwise. On two CPUs neither one nor four measured better.
const DEFAULT_THREADS: usize = 2;

/// How long readers wait for what does not come, unless `fetch-timeout=` says otherwise.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a worker may answer nothing, unless `watchdog=` says otherwise. A disk that recovers from an error may take some
/// seconds; nothing that is well takes this long.
const WATCHDOG: Duration = Duration::from_secs(30);

/// More threads than this are a typing error.
const MAX_THREADS: usize = 64;

/// Who reads the content of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The kernel asks once and keeps pages, names and attributes; opening costs no message.
    #[default]
    Cached,
    /// The kernel reads plain objects from their files itself; opening costs two messages.
    Passthrough,
}

impl Mode {
    /// The mode as one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Passthrough => "passthrough",
        }
    }
}

/// Whether setuid bits and file capabilities have an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetUid {
    /// `nosuid`.
    #[default]
    Ignored,
    /// `suid`.
    Honoured,
}

/// Whether device nodes open devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Devices {
    /// `nodev`.
    #[default]
    Ignored,
    /// `dev`.
    Honoured,
}

/// Whether programs can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Programs {
    /// `exec`.
    #[default]
    Run,
    /// `noexec`.
    Refused,
}

/// What is asked of the helper: a mount, or a change of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// A new mount.
    #[default]
    Mount,
    /// `remount`: new flags for an existing one.
    Remount,
}

/// What is fetched before it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Profile {
    /// What the publisher says is read first, as soon as some file is read.
    #[default]
    WhenReading,
    /// `auto`: the same, at once.
    Auto,
    /// `none`: nothing.
    None,
    /// What a file lists, at once.
    File(PathBuf),
}

impl Profile {
    fn parse(value: &str) -> Self {
        match value {
            "auto" => Self::Auto,
            "none" => Self::None,
            file => Self::File(file.into()),
        }
    }
}

/// Whether the kernel is asked to send again what a dead worker had in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resend {
    /// If it can.
    #[default]
    IfPossible,
    /// `noresend`: never, for trying out what happens on kernels that cannot.
    Never,
}

/// Whether a worker gives up what it does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Confinement {
    /// As far as the kernel can help.
    #[default]
    Sandboxed,
    /// `nosandbox`: not at all.
    Free,
}

/// Who may look into the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Audience {
    /// The user who mounted it.
    #[default]
    Mounter,
    /// `allow_other`: everybody, by the usual permissions.
    Everybody,
}

/// The options of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// `repo=`: the repository.
    pub repository: Option<PathBuf>,
    /// `subdir=`: the directory of the commit that becomes the root of the mount.
    pub subdir: ImagePath,
    /// `passthrough` or not.
    pub mode: Mode,
    /// `threads=`.
    pub threads: NonZeroUsize,
    /// `allow_other`.
    pub audience: Audience,
    /// `suid`, `nosuid`; `None` when neither was given, which a remount takes as "leave it".
    pub set_uid: Option<SetUid>,
    /// `dev`, `nodev`; `None` as above.
    pub devices: Option<Devices>,
    /// `exec`, `noexec`; `None` as above.
    pub programs: Option<Programs>,
    /// `remount`.
    pub action: Action,
    /// `fetch-timeout=`, `nowait`: how long readers wait for what does not come; `None` as long as one attempt takes.
    pub fetch_timeout: Option<Duration>,
    /// `cache-size=`: bytes of fetched objects that are kept at most.
    pub cache_size: Option<u64>,
    /// `profile=`: what is fetched first.
    pub profile: Profile,
    /// `watchdog=`: a worker that answers nothing for so long is replaced; `None` for never.
    pub watchdog: Option<Duration>,
    /// `nosandbox`: whether workers give up what they do not need.
    pub confinement: Confinement,
    /// `noresend`: as on a kernel before 6.9.
    pub resend: Resend,
    /// `background-fill`: what is fetched that nobody reads.
    pub rest: Rest,
    /// `profile-record=`: where it is written down what is read.
    pub profile_record: Option<PathBuf>,
    /// When what is here is compared with its names.
    pub verify: Verify,
    /// Where the figures are written again and again.
    pub metrics_file: Option<PathBuf>,
    /// Where the figures are told over HTTP.
    pub metrics_listen: Option<SocketAddr>,
    /// `context=` and its kin, for the security module, as given.
    pub security: Vec<String>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            repository: None,
            subdir: ImagePath::root(),
            mode: Mode::default(),
            threads: NonZeroUsize::new(DEFAULT_THREADS).expect("not zero"),
            audience: Audience::default(),
            set_uid: None,
            devices: None,
            programs: None,
            action: Action::default(),
            fetch_timeout: Some(FETCH_TIMEOUT),
            cache_size: None,
            profile: Profile::default(),
            watchdog: Some(WATCHDOG),
            confinement: Confinement::default(),
            resend: Resend::default(),
            rest: Rest::default(),
            verify: Verify::default(),
            metrics_file: None,
            metrics_listen: None,
            profile_record: None,
            security: Vec::new(),
        }
    }
}

/// Why the text behind `-o` is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("unknown mount option '{option}'; did you mean '{nearest}'?")]
    Unknown {
        /// As given.
        option: String,
        /// The most similar one.
        nearest: &'static str,
    },
    /// A commit cannot be written to.
    #[error("mount option 'rw' is not possible: a commit never changes")]
    ReadWrite,
    /// `name` without the `=value` it needs, or with one it cannot have.
    #[error("mount option '{name}' {}", if *.wants_value { "needs a value: NAME=VALUE" } else { "takes no value" })]
    Value {
        /// The option.
        name: String,
        /// Which of the two is wrong.
        wants_value: bool,
    },
    /// Not a number of threads.
    #[error("mount option 'threads={0}': a number from 1 to {MAX_THREADS} is needed")]
    Threads(String),
    /// Not a number of seconds, or more than [`SECONDS_MAX`].
    #[error("mount option '{name}={value}': a number of seconds up to {SECONDS_MAX} is needed")]
    Seconds {
        /// Of which option.
        name: String,
        /// What was given.
        value: String,
    },
    /// Not a number of bytes.
    #[error("mount option 'cache-size={0}': a number of bytes is needed, with K, M, G or T after it if you like")]
    Size(String),
    /// Not a way to verify.
    #[error("mount option 'verify={0}': 'open' compares what is read first, 'full' all that is read, 'none' neither")]
    Verify(String),
    /// Not an address.
    #[error("mount option 'metrics-listen={0}': an address and a port are needed, as 127.0.0.1:9321")]
    Address(String),
    /// Not a path inside an image.
    #[error("mount option 'subdir': {0}")]
    Subdir(#[from] PathError),
}

/// Options with a value.
const VALUED: &[&str] = &[
    "repo",
    "subdir",
    "threads",
    "fetch-timeout",
    "watchdog",
    "cache-size",
    "profile",
    "profile-record",
    "verify",
    "metrics-file",
    "metrics-listen",
    "context",
    "fscontext",
    "defcontext",
    "rootcontext",
];

/// Options without a value that mean something here.
const FLAGS: &[&str] = &[
    "ro",
    "passthrough",
    "nowait",
    "noresend",
    "nosandbox",
    "background-fill",
    "allow_other",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "remount",
];

/// Options that are true anyway, that only `mount(8)`, fstab and systemd read, or that `mount -o remount` copies from
/// the kernel's list of mounts.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nodiratime",
    "diratime",
    "lazytime",
    "nolazytime",
    "async",
    "sync",
    "dirsync",
    "default_permissions",
    "loud",
    "silent",
    "mand",
    "nomand",
    "user_id",
    "group_id",
    "max_read",
    "subtype",
];

/// Longest time that an option can give, in seconds: some 30 years. Points in time are computed from it.
pub const SECONDS_MAX: u64 = 1_000_000_000;

impl MountOptions {
    /// Reads the comma-separated text behind `-o`. A value in double quotes may contain commas, as security contexts do.
    ///
    /// # Errors
    /// [`OptionError`] names the option.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        split(text).into_iter().try_for_each(|option| options.apply(option))?;
        Ok(options)
    }

    fn apply(&mut self, option: &str) -> Result<(), OptionError> {
        if option.is_empty() || option.starts_with("x-") || option.starts_with("X-") || option.starts_with("comment=") {
            return Ok(());
        }
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        let wants_value = VALUED.contains(&name);
        if (wants_value || FLAGS.contains(&name)) && wants_value != value.is_some_and(|value| !value.is_empty()) {
            return Err(OptionError::Value { name: name.to_owned(), wants_value });
        }
        match (name, value) {
            ("repo", Some(value)) => self.repository = Some(value.into()),
            ("subdir", Some(value)) => self.subdir = ImagePath::parse(value.as_bytes())?,
            ("threads", Some(value)) => self.threads = threads(value)?,
            ("context" | "fscontext" | "defcontext" | "rootcontext", Some(_)) => self.security.push(option.to_owned()),
            ("fetch-timeout", Some(value)) => self.fetch_timeout = Some(seconds(name, value)?),
            ("watchdog", Some(value)) => self.watchdog = Some(seconds(name, value)?).filter(|limit| !limit.is_zero()),
            ("cache-size", Some(value)) => self.cache_size = Some(bytes(value)?),
            ("nosandbox", _) => self.confinement = Confinement::Free,
            ("noresend", _) => self.resend = Resend::Never,
            ("profile", Some(value)) => self.profile = Profile::parse(value),
            ("profile-record", Some(value)) => self.profile_record = Some(value.into()),
            ("verify", Some(value)) => self.verify = verify(value)?,
            ("metrics-file", Some(value)) => self.metrics_file = Some(value.into()),
            ("metrics-listen", Some(value)) => {
                let address = value.parse().map_err(|_| OptionError::Address(value.to_owned()))?;
                self.metrics_listen = Some(address);
            }
            ("nowait", _) => self.fetch_timeout = None,
            ("background-fill", _) => self.rest = Rest::Everything,
            ("passthrough", _) => self.mode = Mode::Passthrough,
            ("allow_other", _) => self.audience = Audience::Everybody,
            ("suid", _) => self.set_uid = Some(SetUid::Honoured),
            ("nosuid", _) => self.set_uid = Some(SetUid::Ignored),
            ("dev", _) => self.devices = Some(Devices::Honoured),
            ("nodev", _) => self.devices = Some(Devices::Ignored),
            ("exec", _) => self.programs = Some(Programs::Run),
            ("noexec", _) => self.programs = Some(Programs::Refused),
            ("remount", _) => self.action = Action::Remount,
            ("rw", _) => return Err(OptionError::ReadWrite),
            ("ro", _) => {}
            _ if IGNORED.contains(&name) => {}
            _ => return Err(OptionError::Unknown { option: option.to_owned(), nearest: nearest(name) }),
        }
        Ok(())
    }
}

/// Cuts at commas outside double quotes.
fn split(text: &str) -> Vec<&str> {
    let mut quoted = false;
    text.split(move |character| {
        quoted ^= character == '"';
        character == ',' && !quoted
    })
    .collect()
}

fn threads(value: &str) -> Result<NonZeroUsize, OptionError> {
    let number = value.parse::<NonZeroUsize>().ok().filter(|number| number.get() <= MAX_THREADS);
    number.ok_or_else(|| OptionError::Threads(value.to_owned()))
}

fn seconds(name: &str, value: &str) -> Result<Duration, OptionError> {
    let number = value.parse().ok().filter(|number| *number <= SECONDS_MAX);
    let wrong = || OptionError::Seconds { name: name.to_owned(), value: value.to_owned() };
    number.map(Duration::from_secs).ok_or_else(wrong)
}

fn verify(value: &str) -> Result<Verify, OptionError> {
    match value {
        "none" => Ok(Verify::OnEntry),
        "open" => Ok(Verify::OnOpen),
        "full" => Ok(Verify::Always),
        _ => Err(OptionError::Verify(value.to_owned())),
    }
}

fn bytes(value: &str) -> Result<u64, OptionError> {
    parse_size(value).ok_or_else(|| OptionError::Size(value.to_owned()))
}

/// The known option that takes the fewest changed letters to reach.
fn nearest(name: &str) -> &'static str {
    let known = VALUED.iter().chain(FLAGS).chain(IGNORED);
    known.min_by_key(|candidate| edit_distance(name.as_bytes(), candidate.as_bytes())).expect("the lists are not empty")
}

fn edit_distance(from: &[u8], to: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.iter().enumerate() {
        let mut diagonal = line;
        row[0] = line + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_fstab_is_understood() {
        let text =
            "defaults,ro,_netdev,noauto,x-systemd.automount,nofail,repo=/sapwood/repo,subdir=/usr,suid,dev,threads=4";
        let options = MountOptions::parse(text).expect("legal");
        assert_eq!(options.repository, Some("/sapwood/repo".into()));
        assert_eq!(options.subdir.to_string(), "/usr");
        assert_eq!((options.set_uid, options.devices), (Some(SetUid::Honoured), Some(Devices::Honoured)));
        assert_eq!(options.threads.get(), 4);
        assert_eq!(MountOptions::parse(""), Ok(MountOptions::default()));
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        let options = MountOptions::parse("suid,nosuid,noexec").expect("legal");
        assert_eq!((options.set_uid, options.programs), (Some(SetUid::Ignored), Some(Programs::Refused)));
    }

    #[test]
    fn a_quoted_context_keeps_its_commas() {
        let context = "context=\"system_u:object_r:usr_t:s0:c1,c2\"";
        let options = MountOptions::parse(&format!("ro,{context},passthrough")).expect("legal");
        assert_eq!(options.security, [context]);
        assert_eq!(options.mode, Mode::Passthrough);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |text| MountOptions::parse(text).expect_err("illegal").to_string();
        assert_eq!(message("passtrough"), "unknown mount option 'passtrough'; did you mean 'passthrough'?");
        assert_eq!(message("subdirs=/usr"), "unknown mount option 'subdirs=/usr'; did you mean 'subdir'?");
        assert_eq!(message("rw"), "mount option 'rw' is not possible: a commit never changes");
        assert_eq!(message("repo"), "mount option 'repo' needs a value: NAME=VALUE");
        assert_eq!(message("suid=1"), "mount option 'suid' takes no value");
        assert_eq!(
            message("cache-size=much"),
            "mount option 'cache-size=much': a number of bytes is needed, with K, M, G or T after it if you like"
        );
        assert_eq!(message("profile-record"), "mount option 'profile-record' needs a value: NAME=VALUE");
        assert!(message("fetch-timeout=18446744073709551615").ends_with("up to 1000000000 is needed"));
        assert_eq!(message("threads=0"), "mount option 'threads=0': a number from 1 to 64 is needed");
        assert!(message("subdir=../x").starts_with("mount option 'subdir': bad path"));
    }
}
