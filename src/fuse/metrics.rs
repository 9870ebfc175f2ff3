//! The figures of mounts in OpenMetrics, as text: for whoever scrapes them over HTTP, and for the textfile collector of
//! node_exporter.
//!
//! Knows neither sockets of its own nor paths: listener and directory are opened by whoever mounts, before the worker loses the
//! right to. Each family of metrics is one row of a table.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::control::Told;
use super::registry::{RunningMount, Status};
use crate::cache::LATENCY_BOUNDS_MS;
use crate::disk;

/// How often the file is written. Collectors look at it every 15 s or less often.
const INTERVAL: Duration = Duration::from_secs(10);

/// Whoever asks does so at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest request in bytes.
const REQUEST_MAX: usize = 8 << 10;

/// The media type of the text.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A family: its name, whether it counts or measures, what it says, and its value for one mount, if it has one.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Status) -> Option<f64>,
}

const fn counter(name: &'static str, help: &'static str, value: fn(&Status) -> Option<f64>) -> Family {
    Family { name, kind: "counter", help, value }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Status) -> Option<f64>) -> Family {
    Family { name, kind: "gauge", help, value }
}

macro_rules! of {
    ($part:ident, $field:ident) => {
        |status| status.$part.as_ref().map(|found| found.$field as f64)
    };
}

const FAMILIES: &[Family] = &[
    gauge("sapwood_up", "Whether the process that serves the mount answers.", |status| {
        Some(f64::from(u8::from(status.figures.is_some())))
    }),
    counter("sapwood_read_bytes", "Bytes of content handed to the kernel.", of!(figures, bytes_read)),
    counter("sapwood_errors", "Requests answered with an I/O error.", of!(figures, errors)),
    counter("sapwood_worker_starts", "Processes that have served the mount.", of!(health, starts)),
    counter("sapwood_worker_deaths", "Processes that ended although the mount went on.", of!(health, deaths)),
    counter("sapwood_worker_crashes", "Those of them that ended by themselves.", of!(health, crashes)),
    counter("sapwood_cache_hits", "Reads answered from what was here.", of!(lazy, hits)),
    counter("sapwood_cache_misses", "Reads that had to wait for the remote.", of!(lazy, misses)),
    counter("sapwood_fetch_requests", "Requests sent to the remote.", of!(lazy, requests)),
    counter("sapwood_fetch_bytes", "Bytes that came from the remote.", of!(lazy, bytes_fetched)),
    counter("sapwood_fetch_failures", "Fetches that failed.", of!(lazy, failures)),
    counter("sapwood_fetch_ahead_bytes", "Bytes fetched ahead of reading.", of!(lazy, bytes_ahead)),
    counter("sapwood_evictions", "Objects that were here and had to make room.", of!(lazy, evictions)),
    counter("sapwood_evicted_bytes", "Bytes that became free by that.", of!(lazy, bytes_evicted)),
    counter("sapwood_mended", "Damaged objects and blocks that came again.", of!(lazy, mended)),
    gauge("sapwood_remote_up", "Whether the last request to the remote was answered.", |status| {
        status.lazy.as_ref().map(|lazy| f64::from(u8::from(lazy.online)))
    }),
    gauge("sapwood_objects", "Objects of the commit.", of!(lazy, objects)),
    gauge("sapwood_objects_local", "Objects of the commit that are here whole.", |status| {
        status.lazy.as_ref()?.objects_local.map(|count| count as f64)
    }),
    gauge("sapwood_cache_used_bytes", "Bytes of fetched contents that are kept.", |status| {
        status.lazy.as_ref().filter(|lazy| lazy.cache_limit.is_some()).map(|lazy| lazy.cache_used as f64)
    }),
    gauge("sapwood_cache_limit_bytes", "Bytes of fetched contents that may be kept.", |status| {
        status.lazy.as_ref()?.cache_limit.map(|limit| limit as f64)
    }),
];

/// The figures of some mounts.
#[must_use]
pub fn open_metrics(mounts: &[Status]) -> String {
    let mut text = String::new();
    render(&mut text, mounts).expect("a String takes everything");
    text
}

fn render(text: &mut String, mounts: &[Status]) -> std::fmt::Result {
    for Family { name, kind, help, value } in FAMILIES {
        writeln!(text, "# TYPE {name} {kind}\n# HELP {name} {help}")?;
        let suffix = if *kind == "counter" { "_total" } else { "" };
        for status in mounts {
            if let Some(value) = value(status) {
                writeln!(text, "{name}{suffix}{{{}}} {value}", labels(&status.mount))?;
            }
        }
    }
    let name = "sapwood_requests";
    writeln!(text, "# TYPE {name} counter\n# HELP {name} Messages from the kernel, by kind.")?;
    for status in mounts {
        for (kind, count) in status.figures.iter().flat_map(|figures| &figures.by_opcode) {
            writeln!(text, "{name}_total{{{},kind=\"{kind}\"}} {count}", labels(&status.mount))?;
        }
    }
    latencies(text, mounts)?;
    writeln!(text, "# EOF")
}

/// How long the remote took.
fn latencies(text: &mut String, mounts: &[Status]) -> std::fmt::Result {
    let name = "sapwood_fetch_duration_seconds";
    writeln!(
        text,
        "# TYPE {name} histogram\n# UNIT {name} seconds\n# HELP {name} How long requests to the remote took."
    )?;
    for status in mounts {
        let Some(lazy) = &status.lazy else { continue };
        let (labels, mut sum) = (labels(&status.mount), 0);
        for (number, count) in lazy.latency.counts.iter().enumerate() {
            sum += count;
            let bound =
                LATENCY_BOUNDS_MS.get(number).map_or("+Inf".to_owned(), |bound| (*bound as f64 / 1000.0).to_string());
            writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}")?;
        }
        writeln!(text, "{name}_count{{{labels}}} {sum}")?;
        writeln!(text, "{name}_sum{{{labels}}} {}", lazy.latency.sum.as_secs_f64())?;
    }
    Ok(())
}

fn labels(mount: &RunningMount) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("mountpoint=\"{}\",source=\"{}\"", escape(&mount.mountpoint), escape(&mount.source))
}

/// Where figures go without being asked for one by one.
#[derive(Debug, Default)]
pub struct MetricsOutput {
    /// Answers whoever asks over HTTP.
    pub listener: Option<TcpListener>,
    /// The file that is written again and again: its directory and its name.
    pub file: Option<(OwnedFd, OsString)>,
}

impl MetricsOutput {
    /// Tells from now on what `told` knows of `mount`, until this process ends.
    ///
    /// # Errors
    /// When there can be no more threads, or the file cannot be written.
    pub fn start(self, mount: RunningMount, told: Told) -> io::Result<()> {
        let text = Arc::new(move || {
            let (figures, health, lazy) = told.figures();
            open_metrics(&[Status { mount: mount.clone(), figures: Some(figures), health: Some(health), lazy }])
        });
        if let Some((directory, name)) = self.file {
            let text = Arc::clone(&text);
            disk::replace_in(&directory, &name, text().as_bytes())?;
            let write = move || {
                loop {
                    thread::sleep(INTERVAL);
                    if let Err(error) = disk::replace_in(&directory, &name, text().as_bytes()) {
                        tracing::debug!("metrics: {error}");
                    }
                }
            };
            thread::Builder::new().name("metrics-file".to_owned()).spawn(write)?;
        }
        if let Some(listener) = self.listener {
            let answer = move || {
                for stream in listener.incoming() {
                    if let Err(error) = stream.and_then(|stream| answer(stream, &*text)) {
                        tracing::debug!("metrics: {error}");
                    }
                }
            };
            thread::Builder::new().name("metrics".to_owned()).spawn(answer)?;
        }
        Ok(())
    }
}

/// One request at a time, with a limit on how long it takes: whoever may reach the port cannot do more than delay others.
fn answer(mut stream: TcpStream, text: &dyn Fn() -> String) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let end = Instant::now() + PATIENCE;
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut bytes = [0; 1024];
        let length = stream.read(&mut bytes)?;
        if length == 0 || request.len() > REQUEST_MAX || Instant::now() > end {
            return Ok(());
        }
        request.extend_from_slice(&bytes[..length]);
    }
    let (status, body) = if request.starts_with(b"GET /metrics ") || request.starts_with(b"GET / ") {
        ("200 OK", text())
    } else {
        ("404 Not Found", String::new())
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}
