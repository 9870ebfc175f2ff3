//! The log of a mount: a stream that is opened once and inherited by all of its processes, since the paths to it may be gone
//! when the next one starts.
//!
//! The journal where there is one, else a file beside the list of mounts. Whatever a process writes to standard error is in
//! it too.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::DAEMON_NAME;

/// Where the journal takes streams of lines.
const JOURNAL: &str = "/run/systemd/journal/stdout";

/// What is at the other end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// The journal, which notes the time and wants the level in front of each line.
    Journal,
    /// A file.
    File,
    /// The terminal of whoever mounted in the foreground.
    Terminal,
}

/// Opens the log of a mount in the background.
///
/// # Errors
/// When there is neither a journal nor a place for a file.
pub fn open() -> io::Result<(OwnedFd, LogKind)> {
    match journal() {
        Ok(stream) => Ok((stream.into(), LogKind::Journal)),
        Err(_) => Ok((file()?.into(), LogKind::File)),
    }
}

/// The protocol of systemd-cat: name, unit, level without a prefix, whether levels come as prefixes, three times no.
fn journal() -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(JOURNAL)?;
    write!(stream, "{DAEMON_NAME}\n\n6\n1\n0\n0\n0\n")?;
    Ok(stream)
}

fn file() -> io::Result<File> {
    let directory = super::runtime_directory();
    std::fs::create_dir_all(&directory)?;
    OpenOptions::new().create(true).append(true).open(directory.join("mount.log"))
}

/// Has this process log there.
///
/// # Errors
/// When it logs somewhere already.
pub fn start(log: OwnedFd, kind: LogKind) -> Result<(), impl fmt::Display> {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Log(Arc::new(log.into())));
    tracing_subscriber::registry().with(LevelFilter::INFO).with(lines.event_format(Lines(kind))).try_init()
}

#[derive(Clone)]
struct Log(Arc<File>);

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a File;

    fn make_writer(&'a self) -> Self::Writer {
        &self.0
    }
}

/// One line an event, written at once: `<level>` for the journal, else the time and the level in words.
struct Lines(LogKind);

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for Lines {
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        if self.0 == LogKind::Journal {
            write!(writer, "<{}>", priority(level))?;
        } else {
            // To the second. This form takes less of a small program than strftime does.
            let now = jiff::Timestamp::now();
            write!(writer, "{now:.0} {level:5} {DAEMON_NAME}[{}] ", std::process::id())?;
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
