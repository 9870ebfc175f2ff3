//! `sapwood-prepare-root`: what an initramfs runs between mounting the physical root and leaving.
//!
//! A program of its own, since it is all of Sapwood that an initramfs needs: it prepares `/`, and it is also the program of
//! the processes behind the mounts that it made, long after the initramfs is gone. It has to stay small, so nothing here
//! may use the command line's parser (clap), regular expressions or the clouds' buckets; the linker then leaves them out. What it says comes on the console and in the kernel's log, in one line; its caller decides what
//! happens then.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Mode, OFlags};

use super::{Context, error, mount, output};
use crate::boot::command_line::{CommandLine, Contents};
use crate::boot::tree::{self, Tree};
use crate::boot::verify::verify;
use crate::deploy::sysroot::{BootTarget, boot_target};
use crate::store::Store;

/// Where initramfs mount the physical root.
const DEFAULT_PLACE: &str = "/sysroot";

/// What the kernel was started with.
const COMMAND_LINE: &str = "/proc/cmdline";

/// Whose signatures count for `sapwood.verify=require`, in the initramfs.
const KEYS: &str = "/etc/sapwood/keys";

const HELP: &str = "\
Put the / of a deployment together; run by an initramfs

Usage: sapwood-prepare-root [DIR]

Arguments:
  [DIR]  Where the physical root is mounted, and / will be [default: /sysroot]

Options:
  -h, --help     Print help
  -V, --version  Print version

Run in an initramfs, after the physical root was mounted on DIR and before it is left for DIR:
  sapwood-prepare-root /sysroot && exec switch_root /sysroot /sbin/init

Kernel arguments:
  sapwood=STATEROOT/COMMIT.N   the deployment; boot menus have it
  sapwood.verify=require       boot only what a key in the initramfs's /etc/sapwood/keys signed
  sapwood.lazy=1               contents may be missing: they are fetched as they are read, the rest by
                               sapwood-fill.service; the initramfs brings a network up (ip=dhcp). From
                               http, https and file; a remote in a bucket takes the program 'sapwood'
                               under this name in the initramfs
  sapwood.timeout=SECONDS      how long a reader waits for what is fetched (30)
  sapwood.mode=passthrough     the kernel reads large files by itself (Linux 6.9)
  sapwood.record=FILE          write down what is read of /usr, for sapwood publish --profile

Exit status: 0 done, 1 failed: the physical root is still on DIR unless the message is about moving it.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// The work, with the physical root at this place.
    Prepare(PathBuf),
    /// A text, and nothing else.
    Text(String),
}

impl Asked {
    /// Understands the arguments after the program's name. By hand: the parser of the other programs is a tenth of this one.
    fn parse(arguments: &[OsString]) -> Result<Self, String> {
        match arguments {
            [] => Ok(Self::Prepare(DEFAULT_PLACE.into())),
            [word] if word == "-h" || word == "--help" => Ok(Self::Text(HELP.to_owned())),
            [word] if word == "-V" || word == "--version" => {
                Ok(Self::Text(format!("sapwood-prepare-root {}\n", env!("CARGO_PKG_VERSION"))))
            }
            [dashes, place] if dashes == "--" => Ok(Self::Prepare(place.into())),
            [word, ..] if word.as_encoded_bytes().starts_with(b"-") => {
                Err(format!("there is no option '{}'", word.display()))
            }
            [place] => Ok(Self::Prepare(place.into())),
            [_, second, ..] => Err(format!("one directory is expected, and '{}' is a second one", second.display())),
        }
    }
}

/// Runs the program, or one of the processes behind the mounts that it made.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    super::prepare_process();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some((role, number)) = mount::Role::of(&arguments) {
        return role.play(number);
    }
    let physical = match Asked::parse(arguments.get(1..).unwrap_or_default()) {
        Ok(Asked::Prepare(physical)) => physical,
        Ok(Asked::Text(text)) => {
            // Nothing can be done about an output that is closed.
            let _ = output::bytes(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            output::note(format_args!("sapwood-prepare-root: {problem}; see --help"));
            return ExitCode::from(error::USAGE);
        }
    };
    output::start_log(0);
    let begin = Instant::now();
    match prepare(&physical) {
        Ok(target) => {
            let time = output::duration(begin.elapsed());
            log_to_kernel(6, &format!("{} ({}) is mounted, {time}", target.id, target.origin.title));
            ExitCode::SUCCESS
        }
        Err(error) => {
            log_to_kernel(3, &format!("cannot boot: {}", error::sentence(&error)));
            error::report(&error.context("cannot boot"))
        }
    }
}

fn prepare(physical: &Path) -> Result<BootTarget> {
    let text = std::fs::read_to_string(COMMAND_LINE).with_context(|| format!("cannot read {COMMAND_LINE}"))?;
    let command_line = CommandLine::parse(&text)?;
    let target = boot_target(physical, &text)?;
    let commit = target.origin.commit;
    tree::make_writable(physical)?;
    let store = Store::open(&target.repository)?;
    verify(&store, commit, command_line.signature, Path::new(KEYS)).with_context(|| format!("{}", target.id))?;
    if store.is_lazy(commit) && command_line.contents == Contents::Local {
        output::note("sapwood: not all of it is here, and there is no sapwood.lazy=1: no network was asked for");
    }
    drop(store);
    let tree = Tree::new(&target, physical);
    tree.assembly().iter().try_for_each(tree::Step::apply)?;
    let inside = Inside::enter(tree.place())?;
    mount_commit(&target, &command_line)?;
    inside.leave()?;
    tree.arrival().apply()?;
    Ok(target)
}

/// `/usr`, and what else at the top of the commit holds something.
fn mount_commit(target: &BootTarget, command_line: &CommandLine) -> Result<()> {
    let commit = target.origin.commit;
    let repository = Path::new("/").join(tree::PHYSICAL).join("sapwood/repo");
    let context = Context { repo: Some(repository) };
    for name in ["usr"].into_iter().chain(target.origin.mounts.iter().map(String::as_str)) {
        let mountpoint = Path::new("/").join(name);
        let source = format!("{commit}:/{name}");
        let args = mount::Args::of_the_system(source, mountpoint.clone(), command_line.mount_options(name));
        let status = mount::run(&args, &context).with_context(|| format!("cannot mount {}", mountpoint.display()))?;
        if status != ExitCode::SUCCESS {
            bail!("cannot mount {}", mountpoint.display());
        }
    }
    Ok(())
}

/// This process in the new root, with the way back.
struct Inside {
    outside: OwnedFd,
}

impl Inside {
    fn enter(root: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let outside = rustix::fs::open("/", flags, Mode::empty()).context("cannot open /")?;
        let entered = rustix::process::chroot(root).and_then(|()| rustix::process::chdir("/"));
        entered.with_context(|| format!("cannot enter {}", root.display()))?;
        Ok(Self { outside })
    }

    fn leave(self) -> Result<()> {
        let left = rustix::process::fchdir(&self.outside).and_then(|()| rustix::process::chroot("."));
        left.context("cannot return to the initramfs")
    }
}

/// One line in the kernel's log, where there is one: the console may show nothing else.
fn log_to_kernel(level: u8, text: &str) {
    let line = format!("<{level}>sapwood: {text}\n");
    let written = OpenOptions::new().write(true).open("/dev/kmsg").and_then(|mut log| log.write_all(line.as_bytes()));
    if let Err(error) = written {
        tracing::debug!("/dev/kmsg: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_one_directory_or_a_question() {
        let parse = |words: &[&str]| Asked::parse(&words.iter().map(OsString::from).collect::<Vec<_>>());
        for (words, place) in [(&[][..], "/sysroot"), (&["/root"], "/root"), (&["--", "-h"], "-h")] {
            assert_eq!(parse(words), Ok(Asked::Prepare(place.into())), "{words:?}");
        }
        for (word, begin) in [("-h", "Put the /"), ("--help", "Put the /"), ("-V", "sapwood-prepare-root 0")] {
            assert!(matches!(parse(&[word]), Ok(Asked::Text(text)) if text.starts_with(begin)), "{word}");
        }
        for words in [&["--verify"][..], &["a", "b"], &["-h", "a"], &["--"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
