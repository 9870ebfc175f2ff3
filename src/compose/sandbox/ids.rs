//! The ids of a sandbox: a user namespace whose ids 0 to 65535 are none of this machine's users.
//!
//! The kernel lets user 0 write many files of `/proc` and `/sys` without any capability. Mapped to itself, user 0 of a
//! namespace could still do so; mapped to [`FIRST_ID`] it cannot.
//!
//! *Used by* `stages`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::PROGRAM_NAME;

/// The first of the ids that stand for those of a sandbox, at the end of the range that is meant for containers
/// (<https://systemd.io/UIDS-GIDS>). Nothing on any disk has them.
pub(super) const FIRST_ID: u32 = 0x6fff_0000;

/// The number of ids in a sandbox.
pub(super) const ID_COUNT: u32 = 65_536;

/// Returns whether the ids of this process are those of the machine, and user 0 therefore the machine's.
pub(super) fn are_machine_ids() -> io::Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    let numbers: Vec<u64> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    Ok(matches!(numbers[..], [0, 0, count] if count >= u64::from(FIRST_ID) + u64::from(ID_COUNT)))
}

/// Makes a user namespace with the ids of a sandbox. This process must be root of the machine.
pub(super) fn make_namespace() -> io::Result<OwnedFd> {
    let mut holder = Command::new("/proc/self/exe");
    holder.arg0(PROGRAM_NAME).arg("hold").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn()?;
    let ready = holder.stdout.take().map(|mut pipe| pipe.read_exact(&mut [0]));
    let made = match ready {
        Some(Ok(())) => map_ids(holder.id()),
        _ => Err(io::Error::other("it allows no user namespaces (sysctl user.max_user_namespaces)")),
    };
    // It ends when its input does.
    drop(holder.stdin.take());
    holder.wait()?;
    made
}

fn map_ids(pid: u32) -> io::Result<OwnedFd> {
    let directory = format!("/proc/{pid}");
    for file in ["uid_map", "gid_map"] {
        let mut file = OpenOptions::new().write(true).open(format!("{directory}/{file}"))?;
        // The kernel takes the whole map in one call.
        file.write_all(format!("0 {FIRST_ID} {ID_COUNT}\n").as_bytes())?;
    }
    Ok(File::open(format!("{directory}/ns/user"))?.into())
}

/// Runs as the process that holds a new user namespace until its descriptor is open elsewhere.
pub(super) fn hold_namespace() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    io::stdout().write_all(b"x")?;
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Moves this process into the user namespace, as its user 0. It has only this thread.
pub(super) fn enter_namespace(namespace: &OwnedFd) -> io::Result<()> {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWUSER)?;
    setgroups(&[])?;
    let (gid, uid) = (Gid::from_raw(0), Uid::from_raw(0));
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// Returns whether the arguments start the process that [`hold_namespace`] is for.
pub(super) fn is_holder(arguments: &[OsString]) -> bool {
    arguments.get(1).is_some_and(|word| word == "hold")
}
