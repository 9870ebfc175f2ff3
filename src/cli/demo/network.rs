//! The second half of the demonstration: publishing, serving on the loopback interface, and mounting lazily from an empty
//! repository.
//!
//! *Used by* `demo::mod`.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::env::{DemoEnvironment, Machine};
use super::{REF, run_program, timed};
use crate::cli::output;

/// The name of the key that signs the commit.
const KEY: &str = "demo";

/// The traffic of the lazy mount up to a certain moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchedSoFar {
    /// The number of requests sent.
    pub(crate) requests: u64,
    /// The number of bytes received.
    pub(crate) bytes: u64,
}

/// The figures that this half measured.
pub(crate) struct NetworkFigures {
    published_bytes: u64,
    publish: Duration,
    mount: Duration,
    list: Duration,
    listed: FetchedSoFar,
    start: Option<Duration>,
    started: FetchedSoFar,
}

/// Publishes, serves, mounts lazily, lists the mount and runs a program from it. `say` is called with the commands and what
/// they printed.
///
/// # Errors
/// When any of these fails.
pub(crate) fn demonstrate(
    environment: &DemoEnvironment,
    say: &dyn Fn(std::fmt::Arguments<'_>),
) -> Result<NetworkFigures> {
    let destination = format!("file://{}", text(&environment.published())?);
    say(format_args!("\n$ sapwood key generate {KEY}\n$ sapwood publish --sign {KEY} {destination} {REF}"));
    environment.sapwood(Machine::Publisher, &["key", "generate", KEY])?;
    let (publish, printed) =
        timed(|| environment.sapwood(Machine::Publisher, &["publish", "--json", "--sign", KEY, &destination, REF]))?;
    let report: Value =
        serde_json::from_str(&printed).context("cannot understand what 'sapwood publish --json' printed")?;
    say(format_args!("$ sapwood serve {}", environment.published().display()));
    let url = environment.serve()?;
    let source = format!("{url}#{REF}");
    let mountpoint = environment.mountpoint();
    let mounted_on = text(&mountpoint)?;
    say(format_args!(
        "{url}\n$ sapwood --repo {} mount --key {KEY} {source} {mounted_on}",
        environment.client().display()
    ));
    let (mount, _) = timed(|| environment.sapwood(Machine::Client, &["mount", "--key", KEY, &source, mounted_on]))?;
    let (list, entries) = timed(|| Ok(fs::read_dir(&mountpoint)?.count()))?;
    say(format_args!("$ ls {mounted_on} | wc -l\n{entries}"));
    let listed = read_fetched(environment)?;
    let (start, program) = timed(|| Ok(run_program(&mountpoint)))?;
    if let Some(program) = &program {
        say(format_args!("{program}"));
    }
    let started = read_fetched(environment)?;
    environment.unmount()?;
    Ok(NetworkFigures {
        published_bytes: report["traffic"]["sent"].as_u64().unwrap_or(0),
        publish,
        mount,
        list,
        listed,
        start: program.map(|_| start),
        started,
    })
}

fn read_fetched(environment: &DemoEnvironment) -> Result<FetchedSoFar> {
    let mountpoint = environment.mountpoint();
    let printed = environment.sapwood(Machine::Client, &["mounts", "--json", text(&mountpoint)?])?;
    let status: Value =
        serde_json::from_str(&printed).context("cannot understand what 'sapwood mounts --json' printed")?;
    let figure = |name: &str| {
        status["lazy"][name].as_u64().with_context(|| format!("'sapwood mounts --json' does not say '{name}'"))
    };
    Ok(FetchedSoFar { requests: figure("requests")?, bytes: figure("bytes_fetched")? })
}

fn text(path: &std::path::Path) -> Result<&str> {
    path.to_str().context("the temporary directory is not UTF-8")
}

impl NetworkFigures {
    /// Returns the figures as JSON.
    pub(crate) fn json(&self) -> Value {
        let fetched = |it: FetchedSoFar| json!({ "requests": it.requests, "bytes": it.bytes });
        json!({
            "published_bytes": self.published_bytes, "publish_seconds": self.publish.as_secs_f64(),
            "mount_seconds": self.mount.as_secs_f64(), "first_list_seconds": self.list.as_secs_f64(),
            "fetched_after_list": fetched(self.listed), "program_seconds": self.start.map(|time| time.as_secs_f64()),
            "fetched_after_program": fetched(self.started),
        })
    }

    /// Returns the figures as rows of a table: what was done, how long it took, how much had been fetched by then.
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let seconds = |time: Duration| format!("{:.3} s", time.as_secs_f64());
        let row = |name: String, time: Duration, by_then: Option<FetchedSoFar>| {
            let requests = by_then.map(|it| output::count(it.requests)).unwrap_or_default();
            let bytes = by_then.map(|it| output::size(it.bytes)).unwrap_or_default();
            vec![name, seconds(time), requests, bytes]
        };
        let mut rows = vec![
            row(format!("publish: {}", output::size(self.published_bytes)), self.publish, None),
            row("mount with nothing pulled".to_owned(), self.mount, None),
            row("first ls".to_owned(), self.list, Some(self.listed)),
        ];
        rows.extend(self.start.map(|time| row("first program".to_owned(), time, Some(self.started))));
        rows
    }
}
