//! The program `sapwood-prepare-root`, which an initramfs runs after mounting the physical root and before leaving for it.
//!
//! It is all of Sapwood that an initramfs needs: it prepares `/`, and the processes behind the mounts that it made run the same
//! program, long after the initramfs is gone. Its result is one line on the console and in the kernel's log; the calling script
//! decides what to do after a failure.
//!
//! *Not here*: planning and checking, see `crate::boot`; mounting the commit, see `cli::mount`.
//!
//! *Invariants*: the program has to stay small. Nothing here may use the parser of arguments (clap), regular expressions or
//! buckets of clouds, so that the linker leaves them out.
//!
//! *Used by* the program in `mount-helpers/prepare_root.rs` and by `cli::run_by_program_name`.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Mode, OFlags};

use super::{error, mount, output};
use crate::boot::command_line::{CommandLine, ContentsAvailability, SignatureCheck};
use crate::boot::policy::BootPolicy;
use crate::boot::tree::{self, NewRoot};
use crate::boot::verify::{TrustedFiles, VerifyError, verify_commit, verify_skeleton};
use crate::cli::context::{Context, Run as _};
use crate::deploy::layout::DeploymentLayout;
use crate::deploy::sysroot::{BootTarget, boot_target};
use crate::mount::Subcommand;
use crate::store::Store;

/// The directory on which an initramfs usually mounts the physical root.
const DEFAULT_PHYSICAL_ROOT: &str = "/sysroot";

/// The file with the kernel's command line.
const KERNEL_COMMAND_LINE: &str = "/proc/cmdline";

/// The directory in the initramfs with the public keys for `sapwood.verify=require`.
const KEY_DIRECTORY: &str = "/etc/sapwood/keys";

/// The file in the initramfs with the public key of the machine itself.
const MACHINE_KEY: &str = "/etc/sapwood/machine.pub";

/// The file in the initramfs that says what may be booted.
const POLICY: &str = "/etc/sapwood/policy.toml";

const HELP: &str = "\
Put the / of a deployment together; run by an initramfs

Usage: sapwood-prepare-root [DIR]

Arguments:
  [DIR]  Where the physical root is mounted, and / will be [default: /sysroot]

Options:
  -h, --help     Print help
  -V, --version  Print version

Run in an initramfs, after the physical root was mounted on DIR and before it is
left for DIR:
  sapwood-prepare-root /sysroot && exec switch_root /sysroot /sbin/init

Kernel arguments:
  sapwood=STATEROOT/COMMIT.N   the deployment; boot menus have it
  sapwood.verify=require       boot only what a key in the initramfs's
                               /etc/sapwood/keys signed, and compare all that
                               is read of /usr with it
  sapwood.lazy=1               contents may be missing: they are fetched as they
                               are read, the rest by sapwood-fill.service; the
                               initramfs brings a network up (ip=dhcp). From
                               http, https and file; a remote in a bucket takes
                               the program 'sapwood' under this name in the
                               initramfs
  sapwood.timeout=SECONDS      how long a reader waits for what is fetched (30)
  sapwood.mode=passthrough     the kernel reads large files by itself (Linux 6.9)
  sapwood.record=FILE          write down what is read of /usr, for sapwood
                               publish --profile

Of the initramfs, /etc/sapwood/policy.toml may require the same and say which
refs and sequences boot; the command line cannot switch that off.

Exit status: 0 done, 1 failed: the physical root is still on DIR unless the
message is about moving it.
";

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
enum Invocation {
    /// Prepare the root; the physical root is mounted on this directory.
    Prepare(PathBuf),
    /// Only print this text.
    Print(String),
}

impl Invocation {
    /// Parses the arguments after the program's name. It does so without clap, which would add a tenth to the program's size.
    fn parse(arguments: &[OsString]) -> Result<Self, String> {
        match arguments {
            [] => Ok(Self::Prepare(DEFAULT_PHYSICAL_ROOT.into())),
            [word] if word == "-h" || word == "--help" => Ok(Self::Print(HELP.to_owned())),
            [word] if word == "-V" || word == "--version" => {
                Ok(Self::Print(format!("sapwood-prepare-root {}\n", env!("CARGO_PKG_VERSION"))))
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

/// Runs the program, or one of the processes behind a mount.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    super::prepare_process();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some((process, number)) = Subcommand::parse(&arguments) {
        return process.run(number).unwrap_or_else(|error| error::report(&error.into()));
    }
    let physical = match Invocation::parse(arguments.get(1..).unwrap_or_default()) {
        Ok(Invocation::Prepare(physical)) => physical,
        Ok(Invocation::Print(text)) => {
            // If the output is closed, the text is lost.
            let _ = output::bytes(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            output::note(format_args!("sapwood-prepare-root: {problem}; see --help"));
            return ExitCode::from(error::USAGE_EXIT_STATUS);
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
            log_to_kernel(3, &format!("cannot boot: {}", error::to_one_line(&error)));
            error::report(&error.context("cannot boot"))
        }
    }
}

fn prepare(physical: &Path) -> Result<BootTarget> {
    let text =
        std::fs::read_to_string(KERNEL_COMMAND_LINE).with_context(|| format!("cannot read {KERNEL_COMMAND_LINE}"))?;
    let mut command_line = CommandLine::parse(&text)?;
    let policy = BootPolicy::read(Path::new(POLICY))?;
    command_line.signature = policy.signature(command_line.signature);
    let mut target = boot_target(physical, &text)?;
    let commit = target.origin.commit;
    tree::make_writable(physical)?;
    let store = Store::open(&target.repository)?;
    let mounts = verify(&store, &target, &command_line, &policy).with_context(|| {
        format!("{} is refused; choose another entry of the boot menu, and deploy this one again", target.id)
    })?;
    target.origin.mounts = mounts;
    if store.is_lazy(commit) && command_line.contents == ContentsAvailability::Complete {
        output::note("sapwood: contents are missing and there is no sapwood.lazy=1, so no network was asked for");
    }
    drop(store);
    let tree = NewRoot::new(&target, physical);
    tree.assembly_steps().iter().try_for_each(tree::MountStep::apply)?;
    let inside = EnteredRoot::enter(tree.path())?;
    mount_commit(&target, &command_line)?;
    inside.leave()?;
    tree.final_step().apply()?;
    Ok(target)
}

/// Verifies the deployment. Returns the directories that are mounted from its image beside `/usr`.
fn verify(
    store: &Store,
    target: &BootTarget,
    command_line: &CommandLine,
    policy: &BootPolicy,
) -> Result<Vec<String>, VerifyError> {
    let trusted = TrustedFiles { keys: Path::new(KEY_DIRECTORY), machine_key: Path::new(MACHINE_KEY) };
    let commit = verify_commit(store, target.origin.commit, command_line.signature, policy, trusted)?;
    match command_line.signature {
        SignatureCheck::NotRequired => Ok(target.origin.mounts.clone()),
        SignatureCheck::Required => {
            verify_skeleton(store, &commit, &DeploymentLayout::new(target.directory.clone()).skeleton())
        }
    }
}

/// Mounts `/usr` and the other top directories of the commit that are not empty.
fn mount_commit(target: &BootTarget, command_line: &CommandLine) -> Result<()> {
    let commit = target.origin.commit;
    let repository = Path::new("/").join(tree::PHYSICAL_ROOT).join("sapwood/repo");
    let context = Context { repo: Some(repository) };
    for name in ["usr"].into_iter().chain(target.origin.mounts.iter().map(String::as_str)) {
        let mountpoint = Path::new("/").join(name);
        let source = format!("{commit}:/{name}");
        let args = mount::Args::for_system(source, mountpoint.clone(), command_line.mount_options(name));
        let status = args.run(&context).with_context(|| format!("cannot mount {}", mountpoint.display()))?;
        if status != ExitCode::SUCCESS {
            bail!("cannot mount {}", mountpoint.display());
        }
    }
    Ok(())
}

/// The state of this process while its root directory is the new root: it keeps the initramfs's root open to return to it.
struct EnteredRoot {
    initramfs_root: OwnedFd,
}

impl EnteredRoot {
    fn enter(root: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let outside = rustix::fs::open("/", flags, Mode::empty()).context("cannot open /")?;
        let entered = rustix::process::chroot(root).and_then(|()| rustix::process::chdir("/"));
        entered.with_context(|| format!("cannot enter {}", root.display()))?;
        Ok(Self { initramfs_root: outside })
    }

    fn leave(self) -> Result<()> {
        let left = rustix::process::fchdir(&self.initramfs_root).and_then(|()| rustix::process::chroot("."));
        left.context("cannot return to the initramfs")
    }
}

/// Writes a line to the kernel's log, if there is one: the console may show nothing else.
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
    fn arguments_are_one_directory_or_help_or_version() {
        let parse = |words: &[&str]| Invocation::parse(&words.iter().map(OsString::from).collect::<Vec<_>>());
        for (words, place) in [(&[][..], "/sysroot"), (&["/root"], "/root"), (&["--", "-h"], "-h")] {
            assert_eq!(parse(words), Ok(Invocation::Prepare(place.into())), "{words:?}");
        }
        for (word, begin) in [("-h", "Put the /"), ("--help", "Put the /"), ("-V", "sapwood-prepare-root 0")] {
            assert!(matches!(parse(&[word]), Ok(Invocation::Print(text)) if text.starts_with(begin)), "{word}");
        }
        for words in [&["--verify"][..], &["a", "b"], &["-h", "a"], &["--"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
