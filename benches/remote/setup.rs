//! The setup: the two roots, the publications, the server, the clients.

use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::Options;
use crate::cost::{self, Cost};
use crate::link::{Link, Shape};
use crate::machine;

/// Name of the ref, the branch and everything else.
pub const NAME: &str = "usr";

/// Directory on the server in which both versions are published.
pub const PLAIN: &str = "sapwood";

/// Directory on the server in which the newer version is published with a profile.
pub const PROFILED: &str = "sapwood-profiled";

/// Name of the signing key.
const KEY: &str = "bench";

/// Paths and the server.
pub struct Setup {
    /// The `/usr` of the older root and of the newer one.
    pub trees: [PathBuf; 2],
    /// Directory of everything that is made.
    pub work: PathBuf,
    /// The program under measurement.
    pub program: PathBuf,
    /// A root whose `/usr` is a mount point.
    pub chroot: PathBuf,
    server: Server,
}

impl Setup {
    /// Makes the directories and starts the server.
    pub fn new(options: &Options) -> anyhow::Result<Self> {
        let variable = |name: &str| {
            let value = std::env::var_os(name).map(PathBuf::from);
            value.with_context(|| format!("{name} is not set: use benches/remote-run"))
        };
        let newer = variable("SAPWOOD_DEBIAN_ROOT")?;
        let work = options.work.clone();
        fs::create_dir_all(work.join("www"))?;
        let setup = Self {
            trees: [variable("SAPWOOD_OLDER_ROOT")?.join(NAME), newer.join(NAME)],
            program: fs::canonicalize(variable("SAPWOOD_BENCH_PROGRAM")?)?,
            chroot: work.join("root"),
            server: Server::start(&work)?,
            work,
        };
        setup.make_chroot(&newer)?;
        Ok(setup)
    }

    fn make_chroot(&self, root: &Path) -> anyhow::Result<()> {
        machine::fresh_directory(self.chroot.clone())?;
        for part in ["bin", "sbin", "lib", "lib64", "etc"] {
            machine::run("cp", [OsStr::new("-a"), root.join(part).as_os_str(), self.chroot.as_os_str()])?;
        }
        for part in [NAME, "tmp", "proc", "dev"] {
            fs::create_dir_all(self.chroot.join(part))?;
        }
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some("/dev"), &self.chroot.join("dev"), None::<&str>, bind, None::<&str>)?;
        mount(Some("proc"), &self.chroot.join("proc"), Some("proc"), MsFlags::empty(), None::<&str>)?;
        let source = "#include <iostream>\n#include <map>\n#include <string>\nint main() {\n  std::map<std::string, int> m{{\"a\", 1}};\n  for (auto &[k, v] : m) std::cout << k << v << '\\n';\n}\n";
        Ok(fs::write(self.chroot.join("tmp/small.cc"), source)?)
    }

    /// Returns a directory that the server serves.
    pub fn www(&self, name: &str) -> PathBuf {
        self.work.join("www").join(name)
    }

    /// Returns whether an earlier run has published everything.
    pub fn is_published(&self) -> bool {
        self.work.join("published").exists()
    }

    /// Records that everything is published.
    pub fn set_published(&self) -> anyhow::Result<()> {
        Ok(fs::write(self.work.join("published"), "")?)
    }

    /// Starts a link to the server.
    pub fn link(&self, shape: Shape) -> Link {
        Link::to(self.server.address, shape)
    }

    /// Returns the URL of a directory on the server, directly or through a link.
    pub fn url(&self, link: Option<&Link>, name: &str) -> String {
        format!("http://{}/{name}", link.map_or(self.server.address, Link::address))
    }

    /// Returns a command of the program on a repository.
    pub fn sapwood<A: AsRef<OsStr>>(&self, repository: &Path, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.program);
        command.env("SAPWOOD_KEYS", self.work.join("keys")).arg("--repo").arg(repository).args(arguments);
        command
    }

    /// Makes an empty repository, or a copy of one.
    pub fn client(&self, name: &str, from: Option<&Path>) -> anyhow::Result<PathBuf> {
        let path = self.work.join(name);
        machine::remove(&path)?;
        match from {
            None => drop(machine::time(self.sapwood(&path, ["init"]))?),
            Some(from) => machine::run("cp", [OsStr::new("-a"), from.as_os_str(), path.as_os_str()])?,
        }
        Ok(path)
    }

    /// Makes the signing key.
    pub fn make_key(&self) -> anyhow::Result<()> {
        machine::remove(&self.work.join("keys"))?;
        machine::time(self.sapwood(&self.work, ["key", "generate", KEY])).map(drop)
    }

    /// Publishes to one of the server's directories, with these options.
    pub fn publish(&self, repository: &Path, to: &str, options: &[&str]) -> anyhow::Result<Cost> {
        let destination = format!("file://{}", self.www(to).display());
        let words = ["publish", "--sign", KEY].iter().chain(options).copied().chain([destination.as_str(), NAME]);
        cost::of_command(self.sapwood(repository, words))
    }

    /// Pulls the publication.
    pub fn pull(&self, repository: &Path, link: Option<&Link>, options: &[&str]) -> anyhow::Result<Cost> {
        let source = format!("{}#{NAME}", self.url(link, PLAIN));
        let words = ["pull", "--key", KEY].iter().chain(options).copied().chain([source.as_str()]);
        cost::of_command(self.sapwood(repository, words))
    }

    /// Makes an ostree repository with the server as its remote.
    pub fn ostree_client(&self, name: &str, link: &Link, from: Option<&Path>) -> anyhow::Result<PathBuf> {
        let path = self.work.join(name);
        machine::remove(&path)?;
        let repository = format!("--repo={}", path.display());
        match from {
            None => machine::run("ostree", ["init", &repository, "--mode=bare"])?,
            Some(from) => machine::run("cp", [OsStr::new("-a"), from.as_os_str(), path.as_os_str()])?,
        }
        let url = self.url(Some(link), "ostree");
        machine::run("ostree", ["remote", &repository, "add", "--no-gpg-verify", "--if-not-exists", "link", &url])?;
        machine::run("ostree", ["config", &repository, "set", "remote \"link\".url", &url])?;
        Ok(path)
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        for part in ["usr", "dev", "proc"] {
            // An error does not matter: the mount namespace ends with this process.
            let _ = umount2(&self.chroot.join(part), MntFlags::MNT_DETACH);
        }
    }
}

/// nginx on a port of loopback.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(work: &Path) -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let work = work.to_str().context("paths of the benchmark are UTF-8")?;
        let configuration = format!(
            "daemon off; user root; worker_processes 1; pid {work}/nginx.pid; error_log {work}/nginx.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; sendfile on; keepalive_requests 1000000; client_body_temp_path {work}/nginx;\n\
             proxy_temp_path {work}/nginx; fastcgi_temp_path {work}/nginx; uwsgi_temp_path {work}/nginx;\n\
             scgi_temp_path {work}/nginx; server {{ listen {address}; root {work}/www; }} }}\n"
        );
        let path = format!("{work}/nginx.conf");
        fs::write(&path, configuration)?;
        let child = Command::new("nginx")
            .args(["-c", &path])
            .stdin(Stdio::null())
            .spawn()
            .context("start nginx (tests/install --benches installs it)")?;
        let server = Self { child, address };
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            ensure!(begin.elapsed() < Duration::from_secs(30), "nginx does not answer: see {work}/nginx.log");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its workers end with it when it is asked to end, and not when it is killed.
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
