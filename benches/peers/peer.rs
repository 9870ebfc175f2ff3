//! The peers: how each packs the tree and how each is mounted.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::machine::{self, Memory, run, time};
use crate::options::Options;

/// A way to have the tree at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kind {
    /// The plain directory, bind-mounted read-only: the others are compared with it.
    Native,
    /// `sapwood mount` without options.
    Sapwood,
    /// `sapwood mount -o passthrough`.
    Passthrough,
    /// The kernel's squashfs on a loop device, zstd level 3.
    Squashfs,
    /// `squashfuse_ll` on the same image.
    Squashfuse,
    /// The kernel's erofs on a plain image, mounted from the file where the kernel can.
    Erofs,
    /// `ostree checkout -H` of a bare repository.
    Ostree,
    /// A FUSE mount that does no work.
    Floor,
}

impl Kind {
    /// All peers.
    pub const ALL: [Self; 8] = [
        Self::Native,
        Self::Sapwood,
        Self::Passthrough,
        Self::Squashfs,
        Self::Squashfuse,
        Self::Erofs,
        Self::Ostree,
        Self::Floor,
    ];

    /// Returns its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "directory",
            Self::Sapwood => "sapwood",
            Self::Passthrough => "sapwood passthrough",
            Self::Squashfs => "squashfs",
            Self::Squashfuse => "squashfuse",
            Self::Erofs => "erofs",
            Self::Ostree => "ostree",
            Self::Floor => "floor (FUSE, no work)",
        }
    }

    /// Returns whether programs can run from it: the floor's files read as zeros.
    pub fn runs_programs(self) -> bool {
        self != Self::Floor
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().expect("no kind is hidden").get_name())
    }
}

/// Paths of the comparison.
pub struct Setup {
    /// The tree that all peers hold: the Debian root's `/usr`.
    pub source: PathBuf,
    /// Directory of images and repositories.
    pub work: PathBuf,
    /// Mount point of the sections that need no chroot.
    pub target: PathBuf,
    /// A root whose `/usr` is a mount point.
    pub chroot: PathBuf,
    /// The program under measurement.
    pub program: PathBuf,
    /// A text that changes when the tree does, so that images are packed again.
    inputs: String,
}

impl Setup {
    /// Makes the working directories and the root to chroot into.
    pub fn new(options: &Options) -> anyhow::Result<Self> {
        let variable =
            |name: &str| std::env::var_os(name).with_context(|| format!("{name} is not set: use benches/run"));
        let root = PathBuf::from(variable("SAPWOOD_DEBIAN_ROOT")?);
        let work = options.work.clone();
        fs::create_dir_all(&work)?;
        let setup = Self {
            source: root.join("usr"),
            target: work.join("mounted"),
            chroot: work.join("root"),
            program: fs::canonicalize(variable("SAPWOOD_BENCH_PROGRAM")?)?,
            inputs: fs::read_to_string(root.with_extension("inputs")).unwrap_or_default(),
            work,
        };
        fs::create_dir_all(&setup.target)?;
        setup.make_chroot(&root)?;
        Ok(setup)
    }

    fn make_chroot(&self, root: &Path) -> anyhow::Result<()> {
        machine::fresh_directory(self.chroot.clone())?;
        for part in ["bin", "sbin", "lib", "lib64", "etc"] {
            run("cp", [OsStr::new("-a"), root.join(part).as_os_str(), self.chroot.as_os_str()])?;
        }
        for part in ["usr", "tmp", "proc", "dev"] {
            fs::create_dir_all(self.chroot.join(part))?;
        }
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some("/dev"), &self.chroot.join("dev"), None::<&str>, bind, None::<&str>)?;
        mount(Some("proc"), &self.chroot.join("proc"), Some("proc"), MsFlags::empty(), None::<&str>)?;
        let source = "#include <iostream>\n#include <map>\n#include <string>\nint main() {\n  std::map<std::string, int> m{{\"a\", 1}};\n  for (auto &[k, v] : m) std::cout << k << v << '\\n';\n}\n";
        Ok(fs::write(self.chroot.join("tmp/small.cc"), source)?)
    }

    /// Returns a command of the program under measurement, on the benchmark's repository.
    pub fn sapwood<A: AsRef<OsStr>>(&self, repository: &Path, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--repo").arg(repository).args(arguments);
        command
    }
}

/// A peer whose image or repository is ready.
pub struct Peer {
    /// The kind of peer.
    pub kind: Kind,
    data: PathBuf,
}

impl Peer {
    /// Packs the tree for `kind`, or uses what an earlier run packed from the same tree.
    pub fn prepare(kind: Kind, setup: &Setup) -> anyhow::Result<Self> {
        let (name, make): (&str, fn(&Setup, &Path) -> anyhow::Result<()>) = match kind {
            Kind::Native | Kind::Floor => return Ok(Self { kind, data: setup.source.clone() }),
            Kind::Sapwood | Kind::Passthrough => ("repository", make_sapwood),
            Kind::Squashfs | Kind::Squashfuse => ("image.squashfs", make_squashfs),
            Kind::Erofs => ("image.erofs", make_erofs),
            Kind::Ostree => ("ostree", make_ostree),
        };
        let (data, stamp) = (setup.work.join(name), setup.work.join(format!("{name}.stamp")));
        // The program itself is an input of what it wrote.
        let inputs = match kind {
            Kind::Sapwood | Kind::Passthrough => {
                format!("{}{:?}", setup.inputs, fs::metadata(&setup.program)?.modified()?)
            }
            _ => setup.inputs.clone(),
        };
        if fs::read_to_string(&stamp).ok().as_ref() != Some(&inputs) {
            machine::remove(&data)?;
            make(setup, &data)?;
            fs::write(stamp, inputs)?;
        }
        Ok(Self { kind, data })
    }

    /// Mounts at `target`; the measured time ends when a stat of its root is answered.
    pub fn mount<'a>(&self, setup: &'a Setup, target: &'a Path) -> anyhow::Result<Mounted<'a>> {
        let begin = Instant::now();
        let mut child = None;
        match self.kind {
            Kind::Native => bind_read_only(&self.data, target)?,
            Kind::Ostree => bind_read_only(&self.data.join("checkout"), target)?,
            Kind::Sapwood => drop(time(self.sapwood_mount(setup, target, "suid,dev,allow_other"))?),
            Kind::Passthrough => drop(time(self.sapwood_mount(setup, target, "suid,dev,allow_other,passthrough"))?),
            Kind::Squashfs => run(
                "mount",
                ["-t", "squashfs", "-o", "ro,loop"]
                    .map(OsStr::new)
                    .into_iter()
                    .chain([self.data.as_os_str(), target.as_os_str()]),
            )?,
            Kind::Squashfuse => run(
                "squashfuse_ll",
                ["-o", "allow_other,suid,dev"]
                    .map(OsStr::new)
                    .into_iter()
                    .chain([self.data.as_os_str(), target.as_os_str()]),
            )?,
            Kind::Erofs => mount_erofs(&self.data, target)?,
            Kind::Floor => child = Some(start_floor(&self.data, target)?),
        }
        fs::metadata(target).with_context(|| format!("stat {}", target.display()))?;
        Ok(Mounted {
            kind: self.kind,
            setup,
            repository: self.data.clone(),
            target,
            took: begin.elapsed(),
            child,
            done: false,
        })
    }

    fn sapwood_mount(&self, setup: &Setup, target: &Path, options: &str) -> Command {
        let words = ["mount", "-o", options, "usr"].map(OsStr::new);
        setup.sapwood(&self.data, words.into_iter().chain([target.as_os_str()]))
    }
}

fn make_sapwood(setup: &Setup, data: &Path) -> anyhow::Result<()> {
    time(setup.sapwood(data, ["init"]))?;
    let words = ["commit", "--ref", "usr"].map(OsStr::new);
    time(setup.sapwood(data, words.into_iter().chain([setup.source.as_os_str()]))).map(drop)
}

fn make_squashfs(setup: &Setup, data: &Path) -> anyhow::Result<()> {
    time(mksquashfs(&setup.source, data)).map(drop)
}

/// Returns the command with zstd at level 3 and blocks of 128 KiB, as distributions use it.
pub fn mksquashfs(source: &Path, image: &Path) -> Command {
    let mut command = Command::new("mksquashfs");
    command.arg(source).arg(image).args([
        "-comp",
        "zstd",
        "-Xcompression-level",
        "3",
        "-noappend",
        "-no-progress",
        "-quiet",
    ]);
    command
}

fn make_erofs(setup: &Setup, data: &Path) -> anyhow::Result<()> {
    run("mkfs.erofs", [data.as_os_str(), setup.source.as_os_str()])
}

fn make_ostree(setup: &Setup, data: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(data)?;
    let repository = format!("--repo={}", data.join("repo").display());
    run("ostree", ["init", &repository, "--mode=bare"])?;
    time(ostree_commit(&setup.source, &data.join("repo")))?;
    run(
        "ostree",
        [
            OsStr::new("checkout"),
            OsStr::new(&repository),
            OsStr::new("-H"),
            OsStr::new("usr"),
            data.join("checkout").as_os_str(),
        ],
    )
}

/// Returns `ostree commit` of a directory into an initialised repository.
pub fn ostree_commit(source: &Path, repository: &Path) -> Command {
    let mut command = Command::new("ostree");
    command.args(["commit", "--branch=usr", "--subject=benchmark"]);
    command.arg(format!("--repo={}", repository.display())).arg(format!("--tree=dir={}", source.display()));
    command
}

fn bind_read_only(from: &Path, target: &Path) -> anyhow::Result<()> {
    mount(Some(from), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    Ok(mount(None::<&str>, target, None::<&str>, again, None::<&str>)?)
}

/// Mounts by mount(2): mount(8) would put a loop device under an image that the kernel can mount as a file since 6.12.
fn mount_erofs(image: &Path, target: &Path) -> anyhow::Result<()> {
    match mount(Some(image), target, Some("erofs"), MsFlags::MS_RDONLY, None::<&str>) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::ENOTBLK) => run(
            "mount",
            ["-t", "erofs", "-o", "ro,loop"].map(OsStr::new).into_iter().chain([image.as_os_str(), target.as_os_str()]),
        ),
        Err(error) => Err(error).context("mount erofs"),
    }
}

fn start_floor(source: &Path, target: &Path) -> anyhow::Result<Child> {
    let mut child = Command::new(std::env::current_exe()?);
    let mut child = child.arg("floor").args([source, target]).stdin(Stdio::null()).spawn()?;
    let begin = Instant::now();
    while !is_mounted(target)? {
        if let Some(status) = child.try_wait()? {
            bail!("the floor ended with {status}");
        }
        ensure!(begin.elapsed() < Duration::from_secs(60), "the floor does not mount");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child)
}

fn is_mounted(path: &Path) -> anyhow::Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter_map(|line| line.split(' ').nth(4)).any(|target| Path::new(target) == path))
}

/// A mounted peer; unmounted when dropped.
pub struct Mounted<'a> {
    kind: Kind,
    setup: &'a Setup,
    repository: PathBuf,
    target: &'a Path,
    /// Time that the mount took.
    pub took: Duration,
    child: Option<Child>,
    done: bool,
}

impl Mounted<'_> {
    /// Returns the daemon's memory, if there is a daemon.
    pub fn memory(&self) -> anyhow::Result<Option<Memory>> {
        match self.kind {
            Kind::Sapwood | Kind::Passthrough => machine::memory_of(&self.setup.program),
            Kind::Squashfuse => machine::memory_of(Path::new("/usr/bin/squashfuse_ll")),
            _ => Ok(None),
        }
    }

    /// Unmounts as a user of the peer would.
    pub fn unmount(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.done = true;
        match self.kind {
            Kind::Sapwood | Kind::Passthrough => {
                let words = [OsStr::new("umount"), self.target.as_os_str()];
                time(self.setup.sapwood(&self.repository, words)).map(drop)?;
            }
            _ => run("umount", [self.target])?,
        }
        if let Some(child) = &mut self.child {
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if !self.done && self.end().is_err() {
            // The measurement has failed already; the next one must not find this mount.
            let _ = umount2(self.target, MntFlags::MNT_DETACH);
        }
    }
}
