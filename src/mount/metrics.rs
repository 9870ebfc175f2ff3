//! The figures of mounts as OpenMetrics text, served over HTTP and written to a file for node_exporter's textfile collector.
//!
//! Each metric family is one row of a table.
//!
//! *Not here*: the web server (`metrics_server`); opening the listener and the directory, which `start` does before the worker enters its sandbox.
//!
//! *Used by* `cli`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::control::ControlState;
use super::metrics_server;
use super::registry::{MountStatus, RunningMount};
use crate::cache::LATENCY_BOUNDS_MS;
use crate::disk;

/// Interval at which the file is written. Collectors read it every 15 s or less often.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);

/// A metric family: its name, kind and help text, and a function that returns its value for one mount, if it has one.
struct MetricFamily {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&MountStatus) -> Option<f64>,
}

const fn counter(name: &'static str, help: &'static str, value: fn(&MountStatus) -> Option<f64>) -> MetricFamily {
    MetricFamily { name, kind: "counter", help, value }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&MountStatus) -> Option<f64>) -> MetricFamily {
    MetricFamily { name, kind: "gauge", help, value }
}

macro_rules! field {
    ($part:ident, $field:ident) => {
        |status| status.$part.as_ref().map(|found| found.$field as f64)
    };
}

const FAMILIES: &[MetricFamily] = &[
    gauge("sapwood_up", "Whether the process that serves the mount answers.", |status| {
        Some(f64::from(u8::from(status.figures.is_some())))
    }),
    counter("sapwood_read_bytes", "Bytes of content handed to the kernel.", field!(figures, bytes_read)),
    counter("sapwood_errors", "Requests answered with an I/O error.", field!(figures, errors)),
    counter("sapwood_worker_starts", "Processes that have served the mount.", field!(health, starts)),
    counter("sapwood_worker_deaths", "Processes that ended while the mount continued.", field!(health, deaths)),
    counter("sapwood_worker_crashes", "Processes that crashed or hung.", field!(health, crashes)),
    counter("sapwood_cache_hits", "Reads answered from local content.", field!(lazy, hits)),
    counter("sapwood_cache_misses", "Reads that had to wait for the remote.", field!(lazy, misses)),
    counter("sapwood_fetch_requests", "Requests sent to the remote.", field!(lazy, requests)),
    counter("sapwood_fetch_bytes", "Bytes received from the remote.", field!(lazy, bytes_fetched)),
    counter("sapwood_fetch_failures", "Fetches that failed.", field!(lazy, failures)),
    counter("sapwood_fetch_ahead_bytes", "Bytes fetched ahead of reading.", field!(lazy, bytes_ahead)),
    counter("sapwood_evictions", "Objects that were evicted from the cache.", field!(lazy, evictions)),
    counter("sapwood_evicted_bytes", "Bytes that were freed by evictions.", field!(lazy, bytes_evicted)),
    counter("sapwood_repaired", "Damaged objects and blocks that were fetched again.", field!(lazy, repaired)),
    gauge("sapwood_remote_up", "Whether the last request to the remote was answered.", |status| {
        status.lazy.as_ref().map(|lazy| f64::from(u8::from(lazy.online)))
    }),
    gauge("sapwood_objects", "Objects of the commit.", field!(lazy, objects)),
    gauge("sapwood_objects_local", "Objects of the commit that are completely local.", |status| {
        status.lazy.as_ref()?.objects_local.map(|count| count as f64)
    }),
    gauge("sapwood_cache_used_bytes", "Bytes of fetched contents that are kept.", |status| {
        status.lazy.as_ref().filter(|lazy| lazy.cache_limit.is_some()).map(|lazy| lazy.cache_used as f64)
    }),
    gauge("sapwood_cache_limit_bytes", "Bytes of fetched contents that may be kept.", |status| {
        status.lazy.as_ref()?.cache_limit.map(|limit| limit as f64)
    }),
];

/// Returns the figures of `mounts` as OpenMetrics text.
pub(crate) fn to_open_metrics(mounts: &[MountStatus]) -> String {
    let mut text = String::new();
    render(&mut text, mounts).expect("a String takes everything");
    text
}

fn render(text: &mut String, mounts: &[MountStatus]) -> std::fmt::Result {
    for MetricFamily { name, kind, help, value } in FAMILIES {
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
    render_latencies(text, mounts)?;
    writeln!(text, "# EOF")
}

/// Renders the histogram of the remote's response times.
fn render_latencies(text: &mut String, mounts: &[MountStatus]) -> std::fmt::Result {
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

/// The outputs to which the metrics of a mount go.
#[derive(Debug, Default)]
pub(crate) struct MetricsOutput {
    /// The socket on which HTTP requests are served.
    pub(crate) listener: Option<TcpListener>,
    /// The file that is written periodically: its directory and its name.
    pub(crate) file: Option<(OwnedFd, OsString)>,
}

impl MetricsOutput {
    /// Starts threads that publish the figures of `mount` until this process ends.
    ///
    /// # Errors
    /// When a thread cannot be started, or the file cannot be written.
    pub(crate) fn start(self, mount: RunningMount, state: ControlState) -> io::Result<()> {
        let text = Arc::new(move || {
            let (figures, health, lazy) = state.figures();
            to_open_metrics(&[MountStatus { mount: mount.clone(), figures: Some(figures), health: Some(health), lazy }])
        });
        if let Some((directory, name)) = self.file {
            let text = Arc::clone(&text);
            disk::replace_in(&directory, &name, text().as_bytes())?;
            let write = move || {
                loop {
                    thread::sleep(WRITE_INTERVAL);
                    if let Err(error) = disk::replace_in(&directory, &name, text().as_bytes()) {
                        tracing::debug!("metrics: {error}");
                    }
                }
            };
            thread::Builder::new().name("metrics-file".to_owned()).spawn(write)?;
        }
        if let Some(listener) = self.listener {
            let serve = move || {
                if let Err(error) = metrics_server::serve(&listener, &*text) {
                    tracing::warn!("the metrics are not served any more: {error}");
                }
            };
            thread::Builder::new().name("metrics".to_owned()).spawn(serve)?;
        }
        Ok(())
    }
}
