//! The mount options: one table with a row for each, from which the text behind `-o` is parsed, and from which the options part
//! of `sapwood mount --help`, the man page and `docs/mount-options.md` are made.
//!
//! Options that only `mount(8)`, fstab or systemd interpret are accepted and ignored, so that a line of fstab can be passed
//! on unchanged. An unknown option is refused, with the most similar known one.
//!
//! *Invariants*: a name stands in the table once. [`MountOptions`] can be serialized; what a value of an earlier version lacks has
//! its default, and what only a later version knows is an error.
//!
//! *Used by* the other files of this folder, `mount` and `cli`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::option_values::path_bytes;
pub(crate) use super::option_values::{
    Action, AllowedUsers, Confinement, DeviceNodes, MountMode, ProfileOption, Programs, Resend, SetUid,
};
use crate::cache::FillScope;
use crate::model::{ImagePath, PathError, parse_size};
use crate::store::Verify;

/// Default of `threads=`: the threads that read the kernel's messages. On two CPUs neither one nor four measured better.
const DEFAULT_THREADS: usize = 2;

/// Default of `fetch-timeout=`: how long a reader waits for absent content.
const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Default of `watchdog=`: how long a worker may make no progress. A disk that recovers from an error may take some seconds; no
/// operation without a fault takes this long.
const DEFAULT_WATCHDOG_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest value of `threads=`; a larger one is taken for a typing error.
const MAX_THREADS: usize = 64;

/// The options of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MountOptions {
    /// `repo=`: the directory of the repository.
    #[serde(with = "path_bytes")]
    pub(crate) repository: Option<PathBuf>,
    /// `subdir=`: the directory of the commit that becomes the root of the mount.
    pub(crate) subdir: ImagePath,
    /// `passthrough`: the kernel reads object files itself.
    pub(crate) mode: MountMode,
    /// `threads=`: the threads that read the kernel's messages.
    pub(crate) threads: NonZeroUsize,
    /// `allow_other`: whether users other than the mounting one have access.
    pub(crate) allowed_users: AllowedUsers,
    /// `suid`, `nosuid`; `None` if neither was given: a remount then leaves the flag as it is.
    pub(crate) set_uid: Option<SetUid>,
    /// `dev`, `nodev`; `None` as above.
    pub(crate) devices: Option<DeviceNodes>,
    /// `exec`, `noexec`; `None` as above.
    pub(crate) programs: Option<Programs>,
    /// `remount`: change a mount instead of making one.
    pub(crate) action: Action,
    /// `fetch-timeout=`: how long readers wait for absent content; `None` (`nowait`): as long as one attempt takes.
    pub fetch_timeout: Option<Duration>,
    /// `cache-size=`: largest number of bytes of fetched objects to keep.
    pub(crate) cache_size: Option<u64>,
    /// `profile=`: the contents that are fetched first.
    pub(crate) profile: ProfileOption,
    /// `watchdog=`: a worker that makes no progress for this time is replaced; `None` for never.
    pub watchdog: Option<Duration>,
    /// `nosandbox`: whether workers are confined to a sandbox.
    pub(crate) confinement: Confinement,
    /// `noresend`: behave as on a kernel before 6.9.
    pub(crate) resend: Resend,
    /// `background-fill`: the contents that are fetched in addition to the profile.
    pub(crate) background_fill: FillScope,
    /// `profile-record=`: the file into which the mount's reads are recorded.
    #[serde(with = "path_bytes")]
    pub(crate) profile_record: Option<PathBuf>,
    /// `verify=`: when local objects are compared with their digests.
    pub(crate) verify: Verify,
    /// `metrics-file=`: the file into which metrics are written periodically.
    #[serde(with = "path_bytes")]
    pub(crate) metrics_file: Option<PathBuf>,
    /// `metrics-listen=`: the address at which metrics are served over HTTP.
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// `context=` and similar options for the security module, unchanged.
    pub(crate) security: Vec<String>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            repository: None,
            subdir: ImagePath::root(),
            mode: MountMode::default(),
            threads: NonZeroUsize::new(DEFAULT_THREADS).expect("not zero"),
            allowed_users: AllowedUsers::default(),
            set_uid: None,
            devices: None,
            programs: None,
            action: Action::default(),
            fetch_timeout: Some(DEFAULT_FETCH_TIMEOUT),
            cache_size: None,
            profile: ProfileOption::default(),
            watchdog: Some(DEFAULT_WATCHDOG_TIMEOUT),
            confinement: Confinement::default(),
            resend: Resend::default(),
            background_fill: FillScope::default(),
            verify: Verify::default(),
            metrics_file: None,
            metrics_listen: None,
            profile_record: None,
            security: Vec::new(),
        }
    }
}

/// An error in the text behind `-o`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The option does not exist.
    #[error("unknown mount option '{option}'; did you mean '{nearest}'?")]
    Unknown {
        /// The option as given.
        option: String,
        /// The most similar known option.
        nearest: &'static str,
    },
    /// `rw` was given, but a commit cannot be written to.
    #[error("mount option 'rw' is not possible: a commit never changes")]
    ReadWrite,
    /// The option lacks the value that it needs, or has one although it takes none.
    #[error("mount option '{name}' {}", if *.wants_value { "needs a value: NAME=VALUE" } else { "takes no value" })]
    Value {
        /// The name of the option.
        name: String,
        /// Whether the option needs a value.
        wants_value: bool,
    },
    /// The value is no number of threads.
    #[error("mount option 'threads={0}': a number from 1 to {MAX_THREADS} is needed")]
    Threads(String),
    /// The value is no number of seconds, or more than [`SECONDS_MAX`].
    #[error("mount option '{name}={value}': a number of seconds up to {SECONDS_MAX} is needed")]
    Seconds {
        /// The name of the option.
        name: String,
        /// The value as given.
        value: String,
    },
    /// The value is no number of bytes.
    #[error("mount option 'cache-size={0}': a number of bytes is needed, with K, M, G or T after it if you like")]
    Size(String),
    /// The value is no way to verify.
    #[error("mount option 'verify={0}': 'open' compares what is read first, 'full' all that is read, 'none' neither")]
    Verify(String),
    /// The value is no address with a port.
    #[error("mount option 'metrics-listen={0}': an address and a port are needed, as 127.0.0.1:9321")]
    Address(String),
    /// The value is no path inside an image.
    #[error("mount option 'subdir': {0}")]
    Subdir(#[from] PathError),
}

/// A mount option.
#[derive(Debug, Clone, Copy)]
pub struct MountOption {
    /// The name, which stands before the `=` if there is a value.
    pub name: &'static str,
    kind: OptionKind,
    /// What holds without the option; empty if that is nothing.
    pub default: &'static str,
    /// What the option does, as Markdown without a full stop; empty if it is ignored.
    pub help: &'static str,
}

/// What an option takes, and how it changes the options of a mount.
#[derive(Debug, Clone, Copy)]
enum OptionKind {
    /// No value.
    Flag(fn(&mut MountOptions)),
    /// A value, which the placeholder stands for in texts.
    Value(&'static str, fn(&mut MountOptions, &str) -> Result<(), OptionError>),
    /// A value for the security module, which gets the option as it is.
    Security(&'static str),
    /// Accepted with and without a value, and ignored.
    Ignored,
}

/// Options that belong together.
#[derive(Debug, Clone, Copy)]
pub struct OptionGroup {
    /// The heading above them.
    pub title: &'static str,
    /// A paragraph that holds for all of them; may be empty.
    pub note: &'static str,
    /// The options, in the order of the texts.
    pub options: &'static [MountOption],
}

const fn flag(
    name: &'static str,
    set: fn(&mut MountOptions),
    default: &'static str,
    help: &'static str,
) -> MountOption {
    MountOption { name, kind: OptionKind::Flag(set), default, help }
}

const fn value(
    (name, placeholder): (&'static str, &'static str),
    set: fn(&mut MountOptions, &str) -> Result<(), OptionError>,
    default: &'static str,
    help: &'static str,
) -> MountOption {
    MountOption { name, kind: OptionKind::Value(placeholder, set), default, help }
}

const fn security(name: &'static str, help: &'static str) -> MountOption {
    MountOption { name, kind: OptionKind::Security("CONTEXT"), default: "", help }
}

const fn ignored(name: &'static str) -> MountOption {
    MountOption { name, kind: OptionKind::Ignored, default: "", help: "" }
}

/// All mount options. `rw` is none: it is refused.
pub const OPTION_GROUPS: &[OptionGroup] = &[
    OptionGroup {
        title: "What is mounted",
        note: "",
        options: &[
            value(
                ("repo", "DIR"),
                |options, value| set(&mut options.repository, Some(value.into())),
                "as for every verb",
                "the repository",
            ),
            value(
                ("subdir", "/DIR"),
                |options, value| set(&mut options.subdir, ImagePath::parse(value.as_bytes())?),
                "the root of the commit",
                "the directory of the commit that becomes the root of the mount",
            ),
            flag("ro", |_| {}, "always", "accepted; `rw` is refused, because a commit never changes"),
            flag("remount", |options| options.action = Action::Remount, "", "new flags for an existing mount"),
        ],
    },
    OptionGroup {
        title: "Who may do what in it",
        note: "",
        options: &[
            flag(
                "allow_other",
                |options| options.allowed_users = AllowedUsers::All,
                "only the user who mounts",
                "all users may read, by the usual permissions; ordinary users need `user_allow_other` in `/etc/fuse.conf`",
            ),
            flag(
                "suid",
                |options| options.set_uid = Some(SetUid::Honoured),
                "`nosuid`",
                "set-user-id bits and file capabilities have an effect",
            ),
            flag("nosuid", |options| options.set_uid = Some(SetUid::Ignored), "", "the opposite of `suid`"),
            flag(
                "dev",
                |options| options.devices = Some(DeviceNodes::Honoured),
                "`nodev`",
                "device nodes open devices",
            ),
            flag("nodev", |options| options.devices = Some(DeviceNodes::Ignored), "", "the opposite of `dev`"),
            flag("exec", |options| options.programs = Some(Programs::Run), "", "programs may be run"),
            flag("noexec", |options| options.programs = Some(Programs::Refused), "`exec`", "no program may be run"),
            security("context", "handed to the security module as it is, like the next three"),
            security("fscontext", "the context of the filesystem"),
            security("defcontext", "the context of files that have none"),
            security("rootcontext", "the context of the root"),
        ],
    },
    OptionGroup {
        title: "How contents are read",
        note: "",
        options: &[
            flag(
                "passthrough",
                |options| options.mode = MountMode::Passthrough,
                "off",
                "the kernel reads large files itself; two messages for each open; root, Linux 6.9. For bulk data",
            ),
            value(
                ("threads", "N"),
                |options, value| set(&mut options.threads, parse_threads(value)?),
                "2",
                "threads that answer the kernel, 1 to 64",
            ),
            value(
                ("verify", "none|open|full"),
                |options, value| set(&mut options.verify, parse_verify(value)?),
                "`none`",
                "compare what is stored with its digest: not again after it was stored, when a mount reads it first, each time it is \
                 read. What is damaged is fetched again if a remote has it, else it is an I/O error",
            ),
            value(
                ("watchdog", "SECONDS"),
                |options, value| {
                    let limit = parse_seconds("watchdog", value)?;
                    set(&mut options.watchdog, Some(limit).filter(|limit| !limit.is_zero()))
                },
                "30",
                "a worker that answers nothing for so long is replaced; 0 for never",
            ),
            flag(
                "nosandbox",
                |options| options.confinement = Confinement::Unconfined,
                "sandboxed",
                "the worker keeps all rights of its user",
            ),
            flag(
                "noresend",
                |options| options.resend = Resend::Never,
                "off",
                "behave as on kernels before 6.9, for tests",
            ),
        ],
    },
    OptionGroup {
        title: "What is fetched, and when",
        note: "These options matter for commits of which parts are missing.",
        options: &[
            value(
                ("fetch-timeout", "SECONDS"),
                |options, value| set(&mut options.fetch_timeout, Some(parse_seconds("fetch-timeout", value)?)),
                "30",
                "how long a reader waits for something missing before it gets EIO",
            ),
            flag(
                "nowait",
                |options| options.fetch_timeout = None,
                "off",
                "a reader waits only as long as one attempt takes",
            ),
            value(
                ("cache-size", "SIZE"),
                |options, value| set(&mut options.cache_size, Some(parse_bytes(value)?)),
                "the repository's setting",
                "keep at most so much of what is fetched, what was used last; `512M`, `2G`",
            ),
            flag(
                "background-fill",
                |options| options.background_fill = FillScope::Everything,
                "off",
                "fetch everything while nothing urgent is to be done; also `--background-fill`",
            ),
            value(
                ("profile", "auto|none|FILE"),
                |options, value| set(&mut options.profile, ProfileOption::parse(value)),
                "as soon as some file is read",
                "fetch what the publisher's profile lists: at once; not at all; what a local file lists, at once",
            ),
            value(
                ("profile-record", "FILE"),
                |options, value| set(&mut options.profile_record, Some(value.into())),
                "",
                "write down what is read, for `sapwood publish --profile`; not with `passthrough`",
            ),
        ],
    },
    OptionGroup {
        title: "Metrics",
        note: "",
        options: &[
            value(
                ("metrics-file", "FILE"),
                |options, value| set(&mut options.metrics_file, Some(value.into())),
                "",
                "write the metrics to a file every 10 s; also `--metrics-file`",
            ),
            value(
                ("metrics-listen", "ADDRESS:PORT"),
                |options, value| {
                    let address = value.parse().map_err(|_| OptionError::Address(value.to_owned()))?;
                    set(&mut options.metrics_listen, Some(address))
                },
                "",
                "answer HTTP requests with them; also `--metrics-listen`",
            ),
        ],
    },
    OptionGroup {
        title: "Accepted and ignored",
        note: "Options that only `mount(8)`, fstab or systemd read, that are true anyway, or that `mount -o remount` copies from the \
               kernel's list are accepted, so that a line of fstab can be passed on as it is. So is everything that begins with \
               `x-`, `X-` or `comment=`.",
        options: &[
            ignored("defaults"),
            ignored("auto"),
            ignored("noauto"),
            ignored("user"),
            ignored("nouser"),
            ignored("users"),
            ignored("owner"),
            ignored("group"),
            ignored("nofail"),
            ignored("_netdev"),
            ignored("atime"),
            ignored("noatime"),
            ignored("relatime"),
            ignored("norelatime"),
            ignored("strictatime"),
            ignored("nodiratime"),
            ignored("diratime"),
            ignored("lazytime"),
            ignored("nolazytime"),
            ignored("async"),
            ignored("sync"),
            ignored("dirsync"),
            ignored("default_permissions"),
            ignored("loud"),
            ignored("silent"),
            ignored("mand"),
            ignored("nomand"),
            ignored("user_id"),
            ignored("group_id"),
            ignored("max_read"),
            ignored("subtype"),
        ],
    },
];

impl MountOption {
    /// Returns the option as it is written, with a placeholder for its value: `threads=N`.
    #[must_use]
    pub fn form(&self) -> String {
        match self.kind {
            OptionKind::Value(placeholder, _) | OptionKind::Security(placeholder) => {
                format!("{}={placeholder}", self.name)
            }
            OptionKind::Flag(_) | OptionKind::Ignored => self.name.to_owned(),
        }
    }

    /// Returns whether the option has no effect.
    #[must_use]
    pub const fn is_ignored(&self) -> bool {
        matches!(self.kind, OptionKind::Ignored)
    }
}

/// Sets a field. Each row of the table is one expression with it.
fn set<T>(field: &mut T, value: T) -> Result<(), OptionError> {
    *field = value;
    Ok(())
}

fn all_options() -> impl Iterator<Item = &'static MountOption> {
    OPTION_GROUPS.iter().flat_map(|group| group.options)
}

/// Longest time that an option can give, in seconds: some 30 years, so that points in time can be computed from it.
pub(crate) const SECONDS_MAX: u64 = 1_000_000_000;

impl MountOptions {
    /// Parses the comma-separated text behind `-o`. A value in double quotes may contain commas, as security contexts do.
    ///
    /// # Errors
    /// [`OptionError`], which names the option.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        split_options(text).into_iter().try_for_each(|option| options.apply(option))?;
        Ok(options)
    }

    fn apply(&mut self, option: &str) -> Result<(), OptionError> {
        if option.is_empty() || option.starts_with("x-") || option.starts_with("X-") || option.starts_with("comment=") {
            return Ok(());
        }
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        if name == "rw" {
            return Err(OptionError::ReadWrite);
        }
        let unknown = || OptionError::Unknown { option: option.to_owned(), nearest: nearest(name) };
        let known = all_options().find(|known| known.name == name).ok_or_else(unknown)?;
        let wrong = |wants_value| Err(OptionError::Value { name: name.to_owned(), wants_value });
        match (known.kind, value.filter(|value| !value.is_empty())) {
            (OptionKind::Ignored, _) => {}
            (OptionKind::Flag(set), None) => set(self),
            (OptionKind::Flag(_), Some(_)) => return wrong(false),
            (OptionKind::Value(_, set), Some(value)) => set(self, value)?,
            (OptionKind::Security(_), Some(_)) => self.security.push(option.to_owned()),
            (OptionKind::Value(..) | OptionKind::Security(_), None) => return wrong(true),
        }
        Ok(())
    }
}

/// Splits the text at commas outside double quotes.
fn split_options(text: &str) -> Vec<&str> {
    let mut quoted = false;
    text.split(move |character| {
        quoted ^= character == '"';
        character == ',' && !quoted
    })
    .collect()
}

fn parse_threads(value: &str) -> Result<NonZeroUsize, OptionError> {
    let number = value.parse::<NonZeroUsize>().ok().filter(|number| number.get() <= MAX_THREADS);
    number.ok_or_else(|| OptionError::Threads(value.to_owned()))
}

fn parse_seconds(name: &str, value: &str) -> Result<Duration, OptionError> {
    let number = value.parse().ok().filter(|number| *number <= SECONDS_MAX);
    let wrong = || OptionError::Seconds { name: name.to_owned(), value: value.to_owned() };
    number.map(Duration::from_secs).ok_or_else(wrong)
}

fn parse_verify(value: &str) -> Result<Verify, OptionError> {
    match value {
        "none" => Ok(Verify::OnEntry),
        "open" => Ok(Verify::OnOpen),
        "full" => Ok(Verify::Always),
        _ => Err(OptionError::Verify(value.to_owned())),
    }
}

fn parse_bytes(value: &str) -> Result<u64, OptionError> {
    parse_size(value).ok_or_else(|| OptionError::Size(value.to_owned()))
}

/// Returns the known option with the smallest edit distance.
fn nearest(name: &str) -> &'static str {
    let names = all_options().map(|option| option.name);
    names.min_by_key(|known| edit_distance(name.as_bytes(), known.as_bytes())).expect("the table is not empty")
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
    fn options_of_an_fstab_line_are_parsed() {
        let text =
            "defaults,ro,_netdev,noauto,x-systemd.automount,nofail,repo=/sapwood/repo,subdir=/usr,suid,dev,threads=4";
        let options = MountOptions::parse(text).expect("legal");
        assert_eq!(options.repository, Some("/sapwood/repo".into()));
        assert_eq!(options.subdir.to_string(), "/usr");
        assert_eq!((options.set_uid, options.devices), (Some(SetUid::Honoured), Some(DeviceNodes::Honoured)));
        assert_eq!(options.threads.get(), 4);
        assert_eq!(MountOptions::parse(""), Ok(MountOptions::default()));
    }

    #[test]
    fn last_of_two_opposite_options_wins() {
        let options = MountOptions::parse("suid,nosuid,noexec").expect("legal");
        assert_eq!((options.set_uid, options.programs), (Some(SetUid::Ignored), Some(Programs::Refused)));
    }

    #[test]
    fn quoted_context_keeps_its_commas() {
        let context = "context=\"system_u:object_r:usr_t:s0:c1,c2\"";
        let options = MountOptions::parse(&format!("ro,{context},passthrough")).expect("legal");
        assert_eq!(options.security, [context]);
        assert_eq!(options.mode, MountMode::Passthrough);
    }

    #[test]
    fn error_names_the_option() {
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

    #[test]
    fn table_has_each_name_once_and_shows_the_true_defaults() {
        let mut names: Vec<&str> = all_options().map(|option| option.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        let shown = |name| all_options().find(|option| option.name == name).expect("it is there").default;
        assert_eq!(shown("threads"), DEFAULT_THREADS.to_string());
        assert_eq!(shown("fetch-timeout"), DEFAULT_FETCH_TIMEOUT.as_secs().to_string());
        assert_eq!(shown("watchdog"), DEFAULT_WATCHDOG_TIMEOUT.as_secs().to_string());
    }

    #[test]
    fn defaults_that_are_options_change_nothing_but_their_flag() {
        for text in ["verify=none", "threads=2", "fetch-timeout=30", "watchdog=30", "ro", "defaults,user_id=0,x-a=b"] {
            assert_eq!(MountOptions::parse(text), Ok(MountOptions::default()), "{text}");
        }
    }

    #[test]
    fn options_survive_serialization() {
        let text = "repo=/r,subdir=/usr/lib,remount,allow_other,suid,nodev,noexec,context=a:b,passthrough,threads=4,verify=full,\
                    watchdog=0,nosandbox,noresend,nowait,cache-size=10G,background-fill,profile=/p,profile-record=/w,\
                    metrics-file=/m,metrics-listen=127.0.0.1:9000";
        for text in [text, "", "profile=auto,verify=open,fetch-timeout=7"] {
            let options = MountOptions::parse(text).expect("legal");
            let json = serde_json::to_string(&options).expect("serializable");
            assert_eq!(serde_json::from_str::<MountOptions>(&json).expect("readable"), options, "{json}");
        }
        assert_eq!(serde_json::from_str::<MountOptions>("{}").expect("readable"), MountOptions::default());
        assert!(serde_json::from_str::<MountOptions>(r#"{"subdir":[46,46]}"#).is_err());
    }
}
