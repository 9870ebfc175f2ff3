//! Metrics for monitoring, read by Prometheus' own parser, and the report for people.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::published::Published;
use crate::common::sandbox::{Sandbox, run};
use crate::common::trees;
use crate::common::web::Web;

/// Parses metrics by Prometheus' library. Returns `name{labels} value` for each sample.
fn samples(sandbox: &Sandbox, text: &str) -> Vec<String> {
    let path = sandbox.join("metrics.txt");
    std::fs::write(&path, text).expect("writable");
    let script = "import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(open(sys.argv[1]).read()):
    for sample in family.samples: print(sample.name, sample.value, sample.labels.get('le', sample.labels.get('kind', '')), sample.labels['mountpoint'])";
    // The distribution's Python, which has the parser, and not the first one in PATH.
    let text = run("/usr/bin/python3", ["-c".as_ref(), script.as_ref(), path.as_os_str()]).success();
    text.lines().map(str::to_owned).collect()
}

fn value(samples: &[String], name: &str) -> f64 {
    let found = samples.iter().find_map(|sample| sample.strip_prefix(name)?.strip_prefix(' ')?.split(' ').next());
    found.unwrap_or_else(|| panic!("no {name} in {samples:#?}")).parse().expect("a number")
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the listener runs");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn mounts_lists_bulk_readers_and_completeness() {
    let of_tree = Sandbox::new("readers-tree");
    let fixture = super::Fixture::new("readers", &super::medium_tree(&of_tree, 2100));
    let mounted = fixture.mount(&[]);
    let at = mounted.path();
    let whole_at = |path: &Path| fixture.client.run([OsStr::new("mounts"), OsStr::new("--whole"), path.as_os_str()]);
    let whole = || whole_at(at).status.code();
    let link = fixture.sandbox.join("link");
    std::os::unix::fs::symlink(at, &link).expect("writable");
    for path in [link.clone(), at.join("00"), link.join("00/file-200"), at.join("../mounted")] {
        assert_eq!(whole_at(&path).status.code(), Some(1), "{}", path.display());
    }
    assert!(fixture.client.run([OsStr::new("mounts"), link.as_os_str()]).success().contains("os:main"));
    run("head", ["-c1".as_ref(), at.join("00/file-200").as_os_str()]).success();
    assert_eq!((whole(), fixture.status()["figures"]["readers"].is_null()), (Some(1), true));
    // One process reads everything; most others read a file each.
    let script = format!(
        "cp /bin/cat {0}/crawler; find {1} -type f -size -8k | head -500 | xargs -n1 head -c9 > /dev/null
         find {1} -type f -print0 | xargs -0 -n100000 {0}/crawler > /dev/null",
        fixture.sandbox.path().display(),
        at.display()
    );
    run("sh", ["-c", &script]).success();
    let readers = fixture.status()["figures"]["readers"].as_array().expect("a list").clone();
    let names: Vec<_> = readers.iter().map(|reader| reader["name"].as_str()).collect();
    assert!(names == [Some("crawler")] && readers[0]["bytes"].as_u64() >= Some(32 << 20), "{readers:?}");
    let said = fixture.client.run(["mounts".as_ref(), at.as_os_str()]).success();
    assert!(said.contains("read by   crawler (process "), "{said}");
    super::eventually("all is here", || whole() == Some(0));
    mounted.unmount();
    assert_eq!(whole_at(&link).status.code(), Some(0), "nothing is fetched where nothing is mounted");
}

#[test]
fn metrics_agree_over_http_in_a_file_and_in_mounts() {
    let sandbox = Sandbox::new("figures");
    let tree = sandbox.join("tree");
    trees::medium(&tree, 60);
    let publisher = sandbox.repository("publisher");
    publisher.commit("main", &tree);
    let published = sandbox.join("published");
    Published::default().add(publisher.path(), "main", &published);
    let web = Web::serve(&published);
    let client = sandbox.repository("client");
    client.run(["remote", "add", "os", &web.url(), "--insecure-unsigned"]).success();
    let address = TcpListener::bind("127.0.0.1:0").expect("ports").local_addr().expect("bound");
    let (file, at) = (sandbox.join("sapwood.prom"), sandbox.directory("m"));
    let mut command = client.command(["mount", "os:main", "--metrics-listen", &address.to_string(), "--metrics-file"]);
    command.arg(&file).arg(&at);
    crate::common::sandbox::finish(command).success();
    run("diff", ["-r".as_ref(), tree.as_os_str(), at.as_os_str()]).success();

    let answer = get(address, "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("openmetrics-text"), "{head}");
    assert!(get(address, "/etc/passwd").starts_with("HTTP/1.1 404"));
    // Clients that say nothing, or half of it, keep no others waiting.
    let mut idle: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    idle.iter_mut().step_by(2).for_each(|client| drop(client.write_all(b"GET /metr")));
    assert!(get(address, "/metrics").starts_with("HTTP/1.1 200"));
    drop(idle);
    let told = samples(&sandbox, body);
    let fetched = value(&told, "sapwood_fetch_requests_total");
    assert!(fetched > 0.0 && value(&told, "sapwood_read_bytes_total") > 1e5, "{told:#?}");
    // Profiles and fills are fetched as streams, whose durations are not measured.
    let timed = value(&told, "sapwood_fetch_duration_seconds_count");
    assert!(timed > 0.0 && timed <= fetched && value(&told, "sapwood_fetch_duration_seconds_sum") > 0.0, "{told:#?}");
    assert_eq!(value(&told, "sapwood_errors_total"), 0.0);
    assert!(told.iter().all(|sample| sample.ends_with(at.to_str().expect("UTF-8"))));

    let listed = client.run(["mounts".as_ref(), "--openmetrics".as_ref(), at.as_os_str()]).success();
    assert_eq!(value(&samples(&sandbox, &format!("{listed}\n")), "sapwood_up"), 1.0);

    let begin = Instant::now();
    let written = loop {
        let text = std::fs::read_to_string(&file).expect("it is written when the mount begins");
        let written = samples(&sandbox, &text);
        if value(&written, "sapwood_fetch_requests_total") >= fetched {
            break written;
        }
        assert!(begin.elapsed() < Duration::from_secs(90), "the file is not written again");
        std::thread::sleep(Duration::from_millis(500));
    };
    assert_eq!(written.len(), told.len());

    let bundle = sandbox.join("bundle.txt");
    client.run(["debug".as_ref(), "bundle".as_ref(), at.as_os_str(), bundle.as_os_str()]).success();
    let report = std::fs::read_to_string(&bundle).expect("written");
    for part in ["version", "status", "metrics", "worker: status", "mount table", "repository: settings", "log"] {
        assert!(report.contains(&format!("=== {part}\n")), "no {part} in {report}");
    }
    assert!(report.contains("sapwood_fetch_requests_total") && report.contains("mounted on"), "{report}");
    client.umount(&at);
    assert!(TcpStream::connect(address).is_err(), "a listener is left");
}
