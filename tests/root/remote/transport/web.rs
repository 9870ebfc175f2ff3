//! Plain web servers: nginx, and Python's, which has no ranges.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sapwood::remote::transport::Transport;

use super::fixture::{Fixture, chain, impatient};
use super::nginx::Nginx;

#[test]
fn publication_on_nginx_is_pulled_and_mounted() {
    let fixture = Fixture::new("transport-nginx");
    let nginx = Nginx::serve(&fixture.sandbox.join("nginx"), &fixture.published());
    fixture.add_remote(&nginx.url(), &[]);
    fixture.assert_client_pulls();
    let pulled = nginx.requests();
    let ranges = pulled.iter().filter(|line| line.contains(" 206 range=bytes=")).count();
    assert!(ranges > 2 && pulled.iter().all(|line| !line.contains(" 416 ")), "{pulled:#?}");
    assert!(pulled.iter().all(|line| line.contains("auth=-")), "{pulled:#?}");
    fixture.assert_lazy_mount_is_same(&nginx.url());

    // An update while the server runs.
    let id = fixture.grow("another");
    fixture.published();
    assert_eq!(fixture.client.run(["pull", "os:main"]).success(), id);
    fixture.assert_client_has_all();

    // Publishing to a plain web server is refused with a message.
    let said = fixture.publisher.run(["publish", &nginx.url(), "main"]).failure(1);
    assert!(said.contains("takes no uploads"), "{said}");
    let said = fixture.client.run(["pull", "--insecure-unsigned", &format!("{}#nothing", nginx.url())]).failure(1);
    assert!(said.contains("has no ref 'nothing'"), "{said}");
}

/// Python's `http.server`, on a port that it chooses.
struct Python {
    child: Child,
    url: String,
}

impl Python {
    fn serve(directory: &Path) -> Self {
        let arguments = ["-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory"];
        let mut command = Command::new("python3");
        command.args(arguments).arg(directory).arg("0").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("python3 can be started (tests/install installs it)");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it says where it is");
        let (_, rest) = line.split_once("(http://").unwrap_or_else(|| panic!("no URL in {line}"));
        let address = rest.split('/').next().expect("an address");
        Self { child, url: format!("http://{address}") }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn server_without_ranges_is_read_from_the_start_up_to_a_limit() {
    let fixture = Fixture::new("transport-python");
    let published = fixture.published();
    let python = Python::serve(&published);
    fixture.add_remote(&python.url, &[]);
    fixture.assert_client_pulls();
    fixture.assert_lazy_mount_is_same(&python.url);

    // A sparse file, of which Python would send everything. The largest published packs have 65 MiB.
    let large = fs::File::create(published.join("large")).expect("writable");
    large.set_len(100 << 20).expect("writable");
    let transport = Transport::open(&python.url, &impatient()).expect("a URL");
    let end = 80 << 20;
    let refused = transport.get_range("large", end - 1000..end + 1).expect_err("too far behind to be read to");
    let said = chain(&refused);
    assert!(said.contains("does not support Range requests") && said.contains("nginx"), "{said}");
    assert_eq!(transport.get_range("large", end - 1000..end).expect("not too far"), vec![0; 1000]);
}
