//! Running the programs of others: their output goes line by line to a log that is kept and to whoever shows progress.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

/// Where programs are looked for.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What programs keep of the environment: proxies, and where large temporary files may lie.
const KEPT: [&str; 10] = [
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

/// Lines of the log that an error carries.
const TAIL_LINES: usize = 40;

/// Longest line that is kept whole.
const LINE_MAX: usize = 64 << 10;

/// What happens while a root is composed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Something new begins.
    Stage(&'a str),
    /// A program said something.
    Line(&'a str),
    /// Something the person should know.
    Note(&'a str),
}

/// Who is told of it.
pub type Report<'a> = &'a (dyn Fn(Event<'_>) + Sync);

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// Its name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It failed.
    #[error("{what} {}", ending(.status))]
    Failed {
        /// What it was to do.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last lines.
        tail: Vec<String>,
        /// Where all of them are.
        log: PathBuf,
    },
    /// It took too long.
    #[error("{what} still ran after {} minutes and was stopped", .limit.as_secs() / 60)]
    TooLong {
        /// What it was to do.
        what: String,
        /// How long it might take.
        limit: Duration,
    },
    /// Its output cannot be read or kept.
    #[error("cannot follow {what}")]
    Output {
        /// What it was to do.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

fn ending(status: &ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".to_owned(),
    }
}

/// The log of one compose.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Mutex<File>,
}

impl Log {
    /// Begins the log at `path`, over an older one.
    ///
    /// # Errors
    /// Those of creating a file.
    pub fn create(path: &Path) -> io::Result<Self> {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(File::create(path)?) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line. A full disk fails the compose elsewhere, with a better word.
    pub fn line(&self, line: &str) {
        let _ = writeln!(self.file.lock(), "{line}");
    }
}

/// Runs programs for one compose.
#[derive(Clone, Copy)]
pub struct Runner<'a> {
    /// Where lines are kept.
    pub log: &'a Log,
    /// Who is told of them.
    pub report: Report<'a>,
}

impl Runner<'_> {
    /// Says what begins.
    pub fn stage(&self, text: &str) {
        self.log.line(&format!("=== {text}"));
        (self.report)(Event::Stage(text));
    }

    /// Says something the person should know.
    pub fn note(&self, text: &str) {
        self.log.line(text);
        (self.report)(Event::Note(text));
    }

    /// Runs a command to its end, both its outputs going to the log.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn run(&self, what: &str, command: &mut Command, limit: Duration) -> Result<(), ProcessError> {
        clean_environment(command);
        let output_error = |source| ProcessError::Output { what: what.to_owned(), source };
        let (reader, writer) = io::pipe().map_err(output_error)?;
        command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(output_error)?).stderr(writer);
        self.log.line(&format!("+ {}", shown(command)));
        let mut child = spawn(command)?;
        // The command holds the writing end; as long as it lives here the end of the output would not be seen.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut tail = Tail::default();
        let deadline = Instant::now() + limit;
        let followed = follow(reader, deadline, &mut |line| {
            self.log.line(line);
            (self.report)(Event::Line(line));
            tail.push(line);
        });
        let is_late = !followed.map_err(output_error)?;
        if is_late {
            let _ = child.kill();
        }
        let status = child.wait().map_err(output_error)?;
        match (is_late, status.success()) {
            (true, _) => Err(ProcessError::TooLong { what: what.to_owned(), limit }),
            (false, true) => Ok(()),
            (false, false) => {
                Err(ProcessError::Failed { what: what.to_owned(), status, tail: tail.0, log: self.log.path.clone() })
            }
        }
    }

    /// Runs a command and gives its standard output; what it says on the other goes to the log.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn capture(&self, what: &str, command: &mut Command) -> Result<String, ProcessError> {
        clean_environment(command);
        self.log.line(&format!("+ {}", shown(command)));
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command.stdin(Stdio::null()).output().map_err(|source| ProcessError::Start { program, source })?;
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            errors.lines().for_each(|line| self.log.line(line));
            return Ok(text.into_owned());
        }
        let mut tail = Tail::default();
        for line in text.lines().chain(errors.lines()) {
            self.log.line(line);
            tail.push(line);
        }
        let (tail, log) = (tail.0, self.log.path.clone());
        Err(ProcessError::Failed { what: what.to_owned(), status: output.status, tail, log })
    }
}

/// Takes the environment of this process from `command`: tokens and passwords of the person who composes are not for programs
/// of packages. What was set for the command stays, and how this machine reaches the network.
pub fn clean_environment(command: &mut Command) {
    let set: Vec<(OsString, OsString)> =
        command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    command.env_clear().env("PATH", SEARCH_PATH).env("LANG", "C.UTF-8").env("HOME", "/root");
    command.envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)))).envs(set);
}

fn spawn(command: &mut Command) -> Result<Child, ProcessError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|source| ProcessError::Start { program, source })
}

/// A command line for the log.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[derive(Default)]
struct Tail(Vec<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.remove(0);
        }
        self.0.push(line.to_owned());
    }
}

/// Hands on each line until the other end is closed; `false` when the deadline came first. A carriage return ends a line
/// too: that is how progress is drawn.
fn follow(mut reader: PipeReader, deadline: Instant, line: &mut dyn FnMut(&str)) -> io::Result<bool> {
    let mut buffer = vec![0; 16 << 10];
    let mut pending: Vec<u8> = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = PollTimeout::try_from(left.min(Duration::from_secs(60))).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let length = reader.read(&mut buffer)?;
        for byte in &buffer[..length] {
            match byte {
                b'\n' | b'\r' => hand_on(&mut pending, line),
                _ if pending.len() >= LINE_MAX => hand_on(&mut pending, line),
                _ => pending.push(*byte),
            }
        }
        if length == 0 {
            hand_on(&mut pending, line);
            return Ok(true);
        }
    }
}

fn hand_on(pending: &mut Vec<u8>, line: &mut dyn FnMut(&str)) {
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
        let log = Log::create(&directory.path().join("log")).expect("writable");
        let lines = Mutex::new(Vec::new());
        let report = |event: Event<'_>| {
            if let Event::Line(line) = event {
                lines.lock().push(line.to_owned());
            }
        };
        let result = work(Runner { log: &log, report: &report });
        let text = fs::read_to_string(log.path()).expect("readable");
        (result, lines.into_inner(), text)
    }

    #[test]
    fn lines_of_both_outputs_are_shown_and_kept() {
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
    fn what_takes_too_long_is_stopped() {
        let (result, ..) =
            with_runner(|runner| runner.run("a test", Command::new("sleep").arg("600"), Duration::from_millis(50)));
        assert!(matches!(result, Err(ProcessError::TooLong { .. })));
        let (result, ..) = with_runner(|runner| runner.run("a test", &mut Command::new("/none"), Duration::MAX / 4));
        assert!(matches!(result, Err(ProcessError::Start { .. })));
    }
}
