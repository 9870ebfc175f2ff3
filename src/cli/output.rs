//! Everything that is printed: results go to standard output, notes, progress bars and the log to standard error.
//!
//! *Used by* all verbs.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::compose::source::ImportProgress;
use crate::model::{is_command_to_terminal, printable};
use crate::remote::fetch::FetchProgress;
use crate::remote::prune::PruneProgress;
use crate::remote::publish::{Phase, PublishProgress};

/// The interval at which a progress bar is drawn.
const PROGRESS_REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Prints a line of the result, without control characters.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", without_controls(&text.to_string()))
}

/// Returns a text in which control characters other than tabs and line ends are written as `\u{1b}`: subjects, versions and
/// names are made by strangers, and must not send commands to a terminal.
pub(crate) fn without_controls(text: &str) -> Cow<'_, str> {
    let is_command = |character: char| is_command_to_terminal(character) && !matches!(character, '\n' | '\t');
    if !text.contains(is_command) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::new();
    for character in text.chars() {
        if is_command(character) { shown.extend(character.escape_default()) } else { shown.push(character) }
    }
    Cow::Owned(shown)
}

/// Returns bytes or a text that others chose, such as a name, the target of a link or a subject, in one line that is safe for a
/// terminal: unchanged if it is UTF-8 without control characters, else escaped as in C. It is the same where the output is no
/// terminal: programs read JSON, or the exact bytes where a verb has them.
pub(crate) fn safe(text: &(impl AsRef<[u8]> + ?Sized)) -> Cow<'_, str> {
    printable(text.as_ref())
}

/// Prints bytes of the result unchanged.
pub(crate) fn bytes(bytes: &[u8]) -> io::Result<()> {
    io::stdout().lock().write_all(bytes)
}

/// Prints a result as JSON.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    writeln!(io::stdout().lock(), "{text}")
}

/// A list in JSON that is printed element by element, however long it is.
pub(crate) struct JsonList {
    out: io::BufWriter<io::Stdout>,
    is_empty: bool,
}

impl JsonList {
    /// Prints the beginning of a list.
    pub(crate) fn begin() -> io::Result<Self> {
        let mut out = io::BufWriter::new(io::stdout());
        out.write_all(b"[")?;
        Ok(Self { out, is_empty: true })
    }

    /// Prints an element.
    pub(crate) fn push(&mut self, value: &impl Serialize) -> io::Result<()> {
        self.out.write_all(if self.is_empty { b"\n  " } else { b",\n  " })?;
        self.is_empty = false;
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.out.write_all(text.replace('\n', "\n  ").as_bytes())
    }

    /// Prints the end of the list.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.out.write_all(if self.is_empty { b"]\n" } else { b"\n]\n" })?;
        self.out.flush()
    }
}

/// Prints a line for the user that is not part of the result, without control characters. A closed standard error is ignored.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{}", without_controls(&text.to_string()));
}

/// Sends log records to standard error: warnings, more with `verbose` = 1 or 2, or what `$SAPWOOD_LOG` says: a level such as
/// `debug`, or levels for modules, as in `warn,sapwood::cache=trace`. `Targets` is used instead of `EnvFilter`, which would
/// bring regular expressions into the program of the initramfs.
pub(crate) fn start_log(verbose: u8) {
    let default = [LevelFilter::WARN, LevelFilter::INFO, LevelFilter::TRACE][usize::from(verbose.min(2))];
    let asked = std::env::var("SAPWOOD_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(default));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .without_time()
        .with_target(false);
    // A second call, as in tests, has no effect.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}

/// Prints a table with a line of headings, and one safe line for each row. The columns listed in `right` are aligned to the right.
pub(crate) fn table(headings: &[&str], right: &[usize], rows: &[Vec<String>]) -> io::Result<()> {
    let rows: Vec<Vec<Cow<'_, str>>> = rows.iter().map(|row| row.iter().map(safe).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (column, cell) in cells.enumerate() {
            let width = widths[column];
            if right.contains(&column) {
                text.push_str(&format!("{cell:>width$}  "));
            } else {
                text.push_str(&format!("{cell:<width$}  "));
            }
        }
        line(text.trim_end())
    };
    print(&mut headings.iter().copied())?;
    rows.iter().try_for_each(|row| print(&mut row.iter().map(AsRef::as_ref)))
}

/// Formats a number of bytes with three digits and a unit in powers of 1000: `1.67 GB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Formats a number with commas between its thousands: `55,988`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a time given in seconds since 1970, in UTC. Returns the bare number when it is outside the calendar.
pub(crate) fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// Formats a duration in seconds: `1.25 s`.
pub(crate) fn duration(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// Runs `work` while a bar on standard error shows `done` of `total` bytes. There is no bar if standard error is no terminal.
pub(crate) fn while_showing<T>(total: u64, done: impl Fn() -> u64 + Sync, work: impl FnOnce() -> T) -> T {
    run_with_bar(
        |bar| {
            bar.set_length(total);
            bar.set_position(done());
        },
        work,
    )
}

/// Runs `work` while a bar on standard error shows an import. Its total grows as the tree is walked.
pub(crate) fn while_importing<T>(progress: &ImportProgress, work: impl FnOnce() -> T) -> T {
    let update = |bar: &ProgressBar| {
        bar.set_length(progress.bytes_found());
        bar.set_position(progress.bytes_done());
        bar.set_message(format!("{} entries", count(progress.entries())));
    };
    run_with_bar(update, work)
}

/// Runs `work` while a bar on standard error shows a download. Its total grows with each commit that is planned.
pub(crate) fn while_fetching<T>(progress: &FetchProgress, work: impl FnOnce() -> T) -> T {
    let update = |bar: &ProgressBar| {
        bar.set_length(progress.total.load(Ordering::Relaxed));
        bar.set_position(progress.downloaded.load(Ordering::Relaxed));
        bar.set_message(format!("{} objects", count(progress.objects.load(Ordering::Relaxed))));
    };
    run_with_bar(update, work)
}

/// Runs `work` while a bar on standard error shows publishing. Its total grows with each delta.
pub(crate) fn while_publishing<T>(progress: &PublishProgress, work: impl FnOnce() -> T) -> T {
    let update = |bar: &ProgressBar| {
        let (done, total) = progress.bytes();
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(match progress.phase() {
            Phase::Surveying => "looking",
            Phase::Packing => "packing",
            Phase::Deltas => "deltas",
            Phase::Naming => "naming",
        });
    };
    run_with_bar(update, work)
}

/// Runs `work` while a bar on standard error shows the copying of a prune.
pub(crate) fn while_copying<T>(progress: &PruneProgress, work: impl FnOnce() -> T) -> T {
    let update = |bar: &ProgressBar| {
        bar.set_length(progress.total.load(Ordering::Relaxed));
        bar.set_position(progress.copied.load(Ordering::Relaxed));
    };
    run_with_bar(update, work)
}

fn run_with_bar<T>(update: impl Fn(&ProgressBar) + Sync, work: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let drawing = scope.spawn(|| {
            let bar = byte_bar(0);
            while !stop.load(Ordering::Relaxed) {
                update(&bar);
                std::thread::park_timeout(PROGRESS_REDRAW_INTERVAL);
            }
            bar.finish_and_clear();
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        drawing.thread().unpark();
        result
    })
}

/// Returns a progress bar that counts bytes. It is hidden if standard error is no terminal.
pub(crate) fn byte_bar(total: u64) -> ProgressBar {
    styled(total, "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} ETA {eta} {msg}")
}

/// Returns a progress bar that counts items. It is hidden if standard error is no terminal.
pub(crate) fn item_bar(total: u64) -> ProgressBar {
    styled(total, "{bar:30} {human_pos}/{human_len} ETA {eta} {msg}")
}

fn styled(total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// The permissions of an inode as `ls -l` prints them.
pub(crate) struct ModeText {
    /// The letter of the kind of inode, such as `d`.
    pub(crate) kind: char,
    /// The lower 12 bits of the mode.
    pub(crate) permissions: u16,
}

impl Display for ModeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
            let bits = self.permissions >> shift;
            let execute = match (bits & 1 != 0, self.permissions & special != 0) {
                (true, true) => set,
                (false, true) => unset,
                (true, false) => 'x',
                (false, false) => '-',
            };
            let letter = |bit, letter| if bits & bit != 0 { letter } else { '-' };
            write!(f, "{}{}{execute}", letter(4, 'r'), letter(2, 'w'))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_not_printed() {
        assert_eq!(without_controls("a\u{1b}]0;x\u{7}\r\u{9b}b\tc\nd"), "a\\u{1b}]0;x\\u{7}\\r\\u{9b}b\tc\nd");
        assert!(matches!(without_controls("plain\tand\nmore: äß…"), Cow::Borrowed(_)));
    }

    #[test]
    fn numbers_are_rounded_and_grouped() {
        for (bytes, text) in [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1_673_000_000, "1.67 GB")] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(99_960), "100 kB");
        assert_eq!(size(999_999), "1.00 MB");
        assert_eq!([count(5), count(999), count(55_988), count(1_000_000)], ["5", "999", "55,988", "1,000,000"]);
        assert_eq!(time(0), "1970-01-01 00:00:00 UTC");
    }

    #[test]
    fn modes_are_printed_as_by_ls() {
        for (kind, permissions, text) in
            [('-', 0o4755, "-rwsr-xr-x"), ('d', 0o1777, "drwxrwxrwt"), ('-', 0o2640, "-rw-r-S---")]
        {
            assert_eq!(ModeText { kind, permissions }.to_string(), text);
        }
    }
}
