//! The second half of the demonstration: what is published is served on loopback, and mounted by a machine that has nothing.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::ground::{Ground, Machine};
use super::{REF, run_program, timed};
use crate::cli::output;

/// The key that signs.
const KEY: &str = "demo";

/// What came over the network until some moment.
#[derive(Debug, Clone, Copy)]
pub struct Fetched {
    /// Requests sent.
    pub requests: u64,
    /// Bytes that came.
    pub bytes: u64,
}

/// What was measured.
pub struct Network {
    published_bytes: u64,
    publish: Duration,
    mount: Duration,
    list: Duration,
    listed: Fetched,
    start: Option<Duration>,
    started: Fetched,
}

/// Publishes, serves, mounts lazily, lists and runs a program. `say` gets the commands and what they printed.
///
/// # Errors
/// When any of it fails.
pub fn demonstrate(ground: &Ground, say: &dyn Fn(std::fmt::Arguments<'_>)) -> Result<Network> {
    let place = format!("file://{}", text(&ground.published())?);
    say(format_args!("\n$ sapwood key generate {KEY}\n$ sapwood publish --sign {KEY} {place} {REF}"));
    ground.sapwood(Machine::Publisher, &["key", "generate", KEY])?;
    let (publish, printed) =
        timed(|| ground.sapwood(Machine::Publisher, &["publish", "--json", "--sign", KEY, &place, REF]))?;
    let report: Value =
        serde_json::from_str(&printed).context("cannot understand what 'sapwood publish --json' printed")?;
    say(format_args!("$ sapwood serve {}", ground.published().display()));
    let url = ground.serve()?;
    let source = format!("{url}#{REF}");
    let mountpoint = ground.mountpoint();
    let mounted_on = text(&mountpoint)?;
    say(format_args!("{url}\n$ sapwood --repo {} mount --key {KEY} {source} {mounted_on}", ground.client().display()));
    let (mount, _) = timed(|| ground.sapwood(Machine::Client, &["mount", "--key", KEY, &source, mounted_on]))?;
    let (list, entries) = timed(|| Ok(fs::read_dir(&mountpoint)?.count()))?;
    say(format_args!("$ ls {mounted_on} | wc -l\n{entries}"));
    let listed = fetched(ground)?;
    let (start, program) = timed(|| Ok(run_program(&mountpoint)))?;
    if let Some(program) = &program {
        say(format_args!("{program}"));
    }
    let started = fetched(ground)?;
    ground.unmount()?;
    Ok(Network {
        published_bytes: report["traffic"]["sent"].as_u64().unwrap_or(0),
        publish,
        mount,
        list,
        listed,
        start: program.map(|_| start),
        started,
    })
}

fn fetched(ground: &Ground) -> Result<Fetched> {
    let mountpoint = ground.mountpoint();
    let printed = ground.sapwood(Machine::Client, &["mounts", "--json", text(&mountpoint)?])?;
    let status: Value =
        serde_json::from_str(&printed).context("cannot understand what 'sapwood mounts --json' printed")?;
    let figure = |name: &str| {
        status["lazy"][name].as_u64().with_context(|| format!("'sapwood mounts --json' does not say '{name}'"))
    };
    Ok(Fetched { requests: figure("requests")?, bytes: figure("bytes_fetched")? })
}

fn text(path: &std::path::Path) -> Result<&str> {
    path.to_str().context("the temporary directory is not UTF-8")
}

impl Network {
    /// The figures, for programs.
    pub fn json(&self) -> Value {
        let fetched = |it: Fetched| json!({ "requests": it.requests, "bytes": it.bytes });
        json!({
            "published_bytes": self.published_bytes, "publish_seconds": self.publish.as_secs_f64(),
            "mount_seconds": self.mount.as_secs_f64(), "first_list_seconds": self.list.as_secs_f64(),
            "fetched_after_list": fetched(self.listed), "program_seconds": self.start.map(|time| time.as_secs_f64()),
            "fetched_after_program": fetched(self.started),
        })
    }

    /// The figures, as rows of a table: what was done, how long it took, what had been fetched by then.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let seconds = |time: Duration| format!("{:.3} s", time.as_secs_f64());
        let row = |name: String, time: Duration, by_then: Option<Fetched>| {
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
