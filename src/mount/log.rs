//! The log of a mount: a stream that is opened once and inherited by all of its processes, since its path may be gone when the
//! next process starts.
//!
//! The log is systemd's journal if there is one, else a file beside the list of mounts. The standard error of the processes
//! goes to it too.
//!
//! *Used by* the other files of this folder.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::TryInitError;

use super::runtime::{PROCESS_NAME, make_runtime_directory, runtime_directory};

/// The socket on which the journal accepts streams of lines.
const JOURNAL: &str = "/run/systemd/journal/stdout";

/// The name of the file in the directory for runtime files.
const LOG_NAME: &str = "mount.log";

/// The kind of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogKind {
    /// The journal, which records the time and expects the level in front of each line.
    Journal,
    File,
    /// The terminal, for a mount in the foreground.
    Terminal,
}

/// Opens the log of a mount in the background: a mount without a place for one works, too.
///
/// # Errors
/// When not even the null device can be opened.
pub(crate) fn open() -> io::Result<(OwnedFd, LogKind)> {
    if let Ok(stream) = connect_journal() {
        return Ok((stream.into(), LogKind::Journal));
    }
    let file = open_file().or_else(|error| {
        let path = runtime_directory().join(LOG_NAME);
        tracing::warn!("the mount has no log, since {} cannot be written: {error}", path.display());
        OpenOptions::new().append(true).open("/dev/null")
    });
    Ok((file?.into(), LogKind::File))
}

/// Connects to the journal with the protocol of systemd-cat: name, unit, default level, whether lines have level prefixes, and
/// three options that are off.
fn connect_journal() -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(JOURNAL)?;
    write!(stream, "{PROCESS_NAME}\n\n6\n1\n0\n0\n0\n")?;
    Ok(stream)
}

fn open_file() -> io::Result<File> {
    let path = make_runtime_directory()?.join(LOG_NAME);
    OpenOptions::new().create(true).append(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Makes this process log to `log`.
///
/// # Errors
/// When logging is set up already.
pub(crate) fn init(log: OwnedFd, kind: LogKind) -> Result<(), TryInitError> {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(LogWriter(Arc::new(log.into())));
    tracing_subscriber::registry().with(LevelFilter::INFO).with(lines.event_format(LineFormat(kind))).try_init()
}

#[derive(Clone)]
struct LogWriter(Arc<File>);

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a File;

    fn make_writer(&'a self) -> Self::Writer {
        &self.0
    }
}

/// The format of an event: one line, written at once, with `<level>` for the journal, else with time and level name.
struct LineFormat(LogKind);

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for LineFormat {
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        if self.0 == LogKind::Journal {
            write!(writer, "<{}>", priority(level))?;
        } else {
            // To the second. This form adds less code to a small program than strftime.
            let now = jiff::Timestamp::now();
            write!(writer, "{now:.0} {level:5} {PROCESS_NAME}[{}] ", std::process::id())?;
        }
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                write!(writer, "{}{{{fields}}} ", span.name())?;
            }
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}
