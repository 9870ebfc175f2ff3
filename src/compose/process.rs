//! Runs programs and passes their output, line by line, to a log file and to a progress display.
//!
//! *Not here*: isolation of programs (`sandbox`).
//!
//! *Invariants*: a program gets neither standard input nor the environment of this process, except [`KEPT_VARIABLES`].
//!
//! *Used by* `engine`, `pipeline`, `root`; `cli/compose` shows the events.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

/// The `PATH` of every program.
pub(super) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment variables that programs keep: proxies, and the directory for large temporary files.
const KEPT_VARIABLES: [&str; 10] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "TMPDIR",
];

/// The number of last lines that an error carries.
const TAIL_LINES: usize = 40;

/// The longest line in bytes; a longer one is split.
const LINE_MAX: usize = 64 << 10;

/// The most bytes that a program may print. Building a large initramfs prints some hundred kilobytes; the list of all files of a
/// large root has some ten megabytes.
const OUTPUT_MAX: usize = if cfg!(test) { 1 << 20 } else { 256 << 20 };

/// A progress event of a compose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ComposeEvent<'a> {
    /// A new stage begins.
    Stage(&'a str),
    /// A program printed a line.
    Line(&'a str),
    /// A notice for the user.
    Note(&'a str),
}

/// A callback that receives the events.
pub(crate) type EventSink<'a> = &'a (dyn Fn(ComposeEvent<'_>) + Sync);

/// Why a program failed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// The name of the program.
        program: String,
        /// The system's error.
        source: io::Error,
    },
    /// The program ended with an error.
    #[error("{what} {}", describe_status(.status))]
    Failed {
        /// The task that the program was started for.
        what: String,
        /// Its exit status.
        status: ExitStatus,
        /// The last lines of its output, at most 40.
        tail: Vec<String>,
        /// The log file with the whole output.
        log: PathBuf,
    },
    /// The program ran longer than allowed and was killed.
    #[error("{what} still ran after {} minutes and was stopped", .limit.as_secs() / 60)]
    TooLong {
        /// The task that the program was started for.
        what: String,
        /// The time it was allowed.
        limit: Duration,
    },
    /// The program printed more than allowed and was killed.
    #[error("{what} printed more than {} MB and was stopped", OUTPUT_MAX / 1_000_000)]
    TooMuch {
        /// The task that the program was started for.
        what: String,
    },
    /// The program's output cannot be read.
    #[error("cannot read the output of {what}")]
    Output {
        /// The task that the program was started for.
        what: String,
        /// The system's error.
        source: io::Error,
    },
}

fn describe_status(status: &ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".to_owned(),
    }
}

/// The log file of one compose.
#[derive(Debug)]
pub(crate) struct ComposeLog {
    path: PathBuf,
    file: Mutex<File>,
}

impl ComposeLog {
    /// Creates the log at `path`, replacing an older one.
    ///
    /// # Errors
    /// The error of creating the file.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(File::create(path)?) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line. A write error is ignored: a full disk fails the compose elsewhere, with a better message.
    pub(crate) fn write_line(&self, line: &str) {
        let _ = writeln!(self.file.lock(), "{line}");
    }
}

/// Runs programs for one compose.
#[derive(Clone, Copy)]
pub(crate) struct Runner<'a> {
    /// The log that gets every line.
    pub(crate) log: &'a ComposeLog,
    /// The callback that gets every event.
    pub(crate) report: EventSink<'a>,
}

impl Runner<'_> {
    /// Reports that a stage begins.
    pub(crate) fn stage(&self, text: &str) {
        self.log.write_line(&format!("=== {text}"));
        (self.report)(ComposeEvent::Stage(text));
    }

    /// Reports a notice for the user.
    pub(crate) fn note(&self, text: &str) {
        self.log.write_line(text);
        (self.report)(ComposeEvent::Note(text));
    }

    /// Runs a command to its end; standard output and standard error go to the log. A command that runs longer than `limit`
    /// is killed.
    pub(crate) fn run(&self, what: &str, command: &mut Command, limit: Duration) -> Result<(), ProcessError> {
        let line = command_line(command);
        self.run_with_input(what, command, &line, Stdio::null(), limit)
    }

    /// Runs a command like [`Self::run`], with this standard input; `line` is what the log shows of it.
    pub(super) fn run_with_input(
        &self,
        what: &str,
        command: &mut Command,
        line: &str,
        input: Stdio,
        limit: Duration,
    ) -> Result<(), ProcessError> {
        clean_environment(command);
        let output_error = |source| ProcessError::Output { what: what.to_owned(), source };
        let (reader, writer) = io::pipe().map_err(output_error)?;
        command.stdin(input).stdout(writer.try_clone().map_err(output_error)?).stderr(writer);
        self.log.write_line(&format!("+ {line}"));
        let mut child = spawn(command)?;
        // `command` holds the writing end of the pipe. It has to be closed here, or the end of the output is never seen.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut tail = LastLines::default();
        let deadline = Instant::now() + limit;
        let followed = read_lines(reader, deadline, &mut |line| {
            self.log.write_line(line);
            (self.report)(ComposeEvent::Line(line));
            tail.push(line);
        });
        let end = followed.map_err(output_error)?;
        if end != OutputEnd::Closed {
            let _ = child.kill();
        }
        let status = child.wait().map_err(output_error)?;
        match (end, status.success()) {
            (OutputEnd::Late, _) => Err(ProcessError::TooLong { what: what.to_owned(), limit }),
            (OutputEnd::Full, _) => Err(ProcessError::TooMuch { what: what.to_owned() }),
            (OutputEnd::Closed, true) => Ok(()),
            (OutputEnd::Closed, false) => {
                Err(ProcessError::Failed { what: what.to_owned(), status, tail: tail.0, log: self.log.path.clone() })
            }
        }
    }

    /// Runs a command and returns its standard output; its standard error goes to the log.
    pub(crate) fn capture(&self, what: &str, command: &mut Command) -> Result<String, ProcessError> {
        let line = command_line(command);
        self.capture_with_input(what, command, &line, Stdio::null())
    }

    /// Runs a command like [`Self::capture`], with this standard input; `line` is what the log shows of it.
    pub(super) fn capture_with_input(
        &self,
        what: &str,
        command: &mut Command,
        line: &str,
        input: Stdio,
    ) -> Result<String, ProcessError> {
        clean_environment(command);
        self.log.write_line(&format!("+ {line}"));
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| ProcessError::Start { program, source })?;
        let output_error = |source| ProcessError::Output { what: what.to_owned(), source };
        let (output, errors) = read_both(&mut child).map_err(output_error)?;
        if output.len().max(errors.len()) > OUTPUT_MAX {
            let _ = child.kill();
        }
        let status = child.wait().map_err(output_error)?;
        if output.len().max(errors.len()) > OUTPUT_MAX {
            return Err(ProcessError::TooMuch { what: what.to_owned() });
        }
        let (text, errors) = (String::from_utf8_lossy(&output), String::from_utf8_lossy(&errors));
        if status.success() {
            errors.lines().for_each(|line| self.log.write_line(line));
            return Ok(text.into_owned());
        }
        let mut tail = LastLines::default();
        for line in text.lines().chain(errors.lines()) {
            self.log.write_line(line);
            tail.push(line);
        }
        let (tail, log) = (tail.0, self.log.path.clone());
        Err(ProcessError::Failed { what: what.to_owned(), status, tail, log })
    }
}

/// Removes the environment of this process from `command`, so that programs of packages do not see the user's tokens and
/// passwords. Variables that were set for the command stay, and so do the proxies and `TMPDIR`.
pub(crate) fn clean_environment(command: &mut Command) {
    let set: Vec<(OsString, OsString)> =
        command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    command.env_clear().env("PATH", SEARCH_PATH).env("LANG", "C.UTF-8").env("HOME", "/root");
    command.envs(KEPT_VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?)))).envs(set);
}

fn spawn(command: &mut Command) -> Result<Child, ProcessError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|source| ProcessError::Start { program, source })
}

/// Reads standard output and standard error to their ends, of each at most one byte more than [`OUTPUT_MAX`].
fn read_both(child: &mut Child) -> io::Result<(Vec<u8>, Vec<u8>)> {
    fn read(pipe: Option<impl io::Read>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        pipe.map_or(Ok(0), |pipe| pipe.take(OUTPUT_MAX as u64 + 1).read_to_end(&mut bytes))?;
        Ok(bytes)
    }
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let errors = scope.spawn(|| read(errors));
        let output = read(output)?;
        Ok((output, errors.join().map_err(|_| io::Error::other("its reader ended"))??))
    })
}

/// Returns a command line as the log shows it.
fn command_line(command: &Command) -> String {
    let arguments = std::iter::once(command.get_program()).chain(command.get_args());
    arguments.map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The last [`TAIL_LINES`] lines of a program's output.
#[derive(Default)]
struct LastLines(Vec<String>);

impl LastLines {
    fn push(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.remove(0);
        }
        self.0.push(line.to_owned());
    }
}

/// Why no more output is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OutputEnd {
    /// The other end of the pipe is closed.
    Closed,
    /// The deadline has come.
    Late,
    /// [`OUTPUT_MAX`] bytes have come.
    Full,
}

/// Calls `line` for each line until the output ends, the deadline comes, or there is too much of it. A carriage return ends a
/// line too, since programs draw progress with it.
fn read_lines(mut reader: PipeReader, deadline: Instant, line: &mut dyn FnMut(&str)) -> io::Result<OutputEnd> {
    let mut buffer = vec![0; 16 << 10];
    let mut pending: Vec<u8> = Vec::new();
    let mut left_bytes = OUTPUT_MAX;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(OutputEnd::Late);
        }
        let timeout = PollTimeout::try_from(left.min(Duration::from_secs(60))).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let length = reader.read(&mut buffer)?;
        left_bytes = left_bytes.saturating_sub(length);
        if left_bytes == 0 {
            return Ok(OutputEnd::Full);
        }
        for byte in &buffer[..length] {
            match byte {
                b'\n' | b'\r' => emit_line(&mut pending, line),
                _ if pending.len() >= LINE_MAX => emit_line(&mut pending, line),
                _ => pending.push(*byte),
            }
        }
        if length == 0 {
            emit_line(&mut pending, line);
            return Ok(OutputEnd::Closed);
        }
    }
}

fn emit_line(pending: &mut Vec<u8>, line: &mut dyn FnMut(&str)) {
    if !pending.is_empty() {
        line(&String::from_utf8_lossy(pending));
        pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_runner<T>(work: impl FnOnce(Runner<'_>) -> T) -> (T, Vec<String>, String) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = ComposeLog::create(&directory.path().join("log")).expect("writable");
        let lines = Mutex::new(Vec::new());
        let report = |event: ComposeEvent<'_>| {
            if let ComposeEvent::Line(line) = event {
                lines.lock().push(line.to_owned());
            }
        };
        let result = work(Runner { log: &log, report: &report });
        let text = fs::read_to_string(log.path()).expect("readable");
        (result, lines.into_inner(), text)
    }

    #[test]
    fn run_reports_and_logs_lines_of_both_outputs() {
        let (result, lines, log) = with_runner(|runner| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo one; echo two >&2; printf 'a\\rb'; exit 3"]);
            runner.run("a test", &mut command, Duration::from_secs(60))
        });
        assert_eq!(lines, ["one", "two", "a", "b"]);
        assert!(log.ends_with("one\ntwo\na\nb\n"), "{log}");
        let error = result.expect_err("status 3");
        assert_eq!(error.to_string(), "a test failed with status 3");
        let ProcessError::Failed { tail, .. } = error else { panic!("failed") };
        assert_eq!(tail, ["one", "two", "a", "b"]);
    }

    #[test]
    fn program_that_prints_without_end_is_stopped() {
        let endless = || {
            let mut command = Command::new("sh");
            command.args(["-c", "tr '\\0' a </dev/zero"]);
            command
        };
        let (result, ..) = with_runner(|runner| runner.run("a test", &mut endless(), Duration::from_secs(600)));
        assert!(matches!(result, Err(ProcessError::TooMuch { .. })), "{result:?}");
        let (result, ..) = with_runner(|runner| runner.capture("a test", &mut endless()));
        assert!(matches!(result, Err(ProcessError::TooMuch { .. })), "{:?}", result.map(|text| text.len()));
    }

    #[test]
    fn run_kills_a_program_after_its_limit() {
        let (result, ..) =
            with_runner(|runner| runner.run("a test", Command::new("sleep").arg("600"), Duration::from_millis(50)));
        assert!(matches!(result, Err(ProcessError::TooLong { .. })));
        let (result, ..) = with_runner(|runner| runner.run("a test", &mut Command::new("/none"), Duration::MAX / 4));
        assert!(matches!(result, Err(ProcessError::Start { .. })));
    }
}
