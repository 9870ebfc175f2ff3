//! Debian's nginx with its own configuration and prefix, on loopback, ended when dropped.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub struct Nginx {
    child: Child,
    ports: Vec<u16>,
    log: PathBuf,
}

/// Configuration of every instance. It stays in the foreground and writes only below its prefix.
const HEAD: &str = "
daemon off;
user root;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events { worker_connections 256; }
http {
    log_format asked '$server_port $server_protocol $request_method $uri $status range=$http_range auth=$http_authorization';
    access_log asked.log asked;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    # What many servers do, and must not matter.
    gzip on;
    gzip_types *;
";

impl Nginx {
    /// Starts nginx on `count` free ports; `servers` returns the server blocks for them.
    pub fn start(prefix: &Path, count: usize, servers: impl Fn(&[u16]) -> String) -> Self {
        fs::create_dir_all(prefix).expect("writable");
        // Another process may take a port before nginx does.
        for _ in 0..5 {
            let ports = free_ports(count);
            let configuration = format!("{HEAD}{}}}\n", servers(&ports));
            fs::write(prefix.join("nginx.conf"), configuration).expect("writable");
            let child = Command::new("nginx")
                .args(["-p", &format!("{}/", prefix.display()), "-c", "nginx.conf", "-e", "error.log"])
                .stdin(Stdio::null())
                .spawn()
                .expect("nginx can be started (tests/install installs it)");
            let mut nginx = Self { child, ports, log: prefix.join("asked.log") };
            if nginx.comes_up() {
                return nginx;
            }
        }
        let errors = fs::read_to_string(prefix.join("error.log")).unwrap_or_default();
        panic!("nginx does not start:\n{errors}");
    }

    /// Starts nginx with one server of `root`.
    pub fn serve(prefix: &Path, root: &Path) -> Self {
        Self::start(prefix, 1, |ports| format!("server {{ listen 127.0.0.1:{}; root {}; }}", ports[0], root.display()))
    }

    pub fn port(&self, number: usize) -> u16 {
        self.ports[number]
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Returns the log lines of one server, at least `count` of them: nginx writes a line after it has answered.
    pub fn requests_of(&self, server: usize, count: usize) -> Vec<String> {
        let port = format!("{} ", self.port(server));
        let begin = Instant::now();
        loop {
            let lines: Vec<_> = self.requests().into_iter().filter(|line| line.starts_with(&port)).collect();
            if lines.len() >= count || begin.elapsed() > Duration::from_secs(60) {
                return lines;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the log lines of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        fs::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn comes_up(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(60) {
            if self.child.try_wait().expect("a child").is_some() {
                return false;
            }
            if self.ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok()) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        // The master process ends its workers.
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback has ports")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("bound").port()).collect()
}
