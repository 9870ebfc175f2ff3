//! Restricts the system calls of a worker by seccomp. All others fail with ENOSYS, as on a kernel without them, so libraries
//! that try newer calls fall back to older ones.
//!
//! Calls without conditions cost nothing: the kernel caches that they are allowed (Linux 5.11).
//!
//! *Used by* the other files of this folder.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::{BackingFiles, NetworkAccess, WriteAccess};

/// Calls of each worker: read files, wait, start threads, use open sockets.
const BASE_CALLS: &[i64] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_fadvise64,
    libc::SYS_flock,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    // Removing the mount from the list of mounts.
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads and time.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    // Identity and system information.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
    // Open sockets.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
];

/// Older forms of [`BASE_CALLS`], which the C library uses where they exist.
#[cfg(target_arch = "x86_64")]
const BASE_CALLS_OLD: &[i64] = &[
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_dup2,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_getdents,
];
#[cfg(not(target_arch = "x86_64"))]
const BASE_CALLS_OLD: &[i64] = &[];

/// Further calls of a worker that fetches.
const FETCH_CALLS: &[i64] = &[
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    // The C library loads libraries for name resolution when it needs them.
    libc::SYS_mmap,
    libc::SYS_mprotect,
];

/// Socket families of a worker that fetches: the internet, and netlink for this machine's addresses. Not local sockets, because
/// services behind them grant permissions by the user of a process.
const SOCKET_FAMILIES: [i32; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The bits of a socket's type; the others are flags.
const SOCKET_TYPE_MASK: u64 = 0xf;

/// The types of pairs of sockets that a worker makes.
const PAIR_TYPES: [u64; 2] = [libc::SOCK_SEQPACKET as u64, libc::SOCK_STREAM as u64];

/// Further calls of a process that writes files.
const WRITE_CALLS: &[i64] = &[
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_memfd_create,
];

/// Further calls of a process that writes to a repository. Landlock does not limit which files get another mode or time, so a
/// worker may change neither.
const REPOSITORY_CALLS: &[i64] = &[
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_mkdirat,
    libc::SYS_linkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
];

/// Older forms of [`REPOSITORY_CALLS`].
#[cfg(target_arch = "x86_64")]
const REPOSITORY_CALLS_OLD: &[i64] = &[libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_link, libc::SYS_chmod];
#[cfg(not(target_arch = "x86_64"))]
const REPOSITORY_CALLS_OLD: &[i64] = &[];

/// The commands of `fcntl` by which a process has signals sent to others, or is told of what they do.
const SIGNAL_COMMANDS: [i32; 5] = [libc::F_SETOWN, F_SETSIG, F_SETOWN_EX, libc::F_SETLEASE, libc::F_NOTIFY];

/// `F_SETSIG` and `F_SETOWN_EX` of `fcntl(2)`.
const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;

/// `FUSE_DEV_IOC_BACKING_OPEN` and `_CLOSE`.
const BACKING_IOCTLS: [u64; 2] = [1 << 30 | 16 << 16 | 229 << 8 | 1, 1 << 30 | 4 << 16 | 229 << 8 | 2];

/// Test for a terminal, number of readable bytes, non-blocking mode, close-on-exec.
const BASE_IOCTLS: [u64; 4] = [libc::TCGETS, libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX];

/// `FICLONE`, which makes a file share the contents of another.
const REPOSITORY_IOCTLS: [u64; 1] = [1 << 30 | 4 << 16 | 0x94 << 8 | 9];

/// An error of restricting system calls.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallsError {
    #[error(transparent)]
    Filter(#[from] seccompiler::BackendError),
    #[error(transparent)]
    Apply(#[from] seccompiler::Error),
}

/// Restricts this thread, and those it will start, to the system calls that are needed.
pub(super) fn restrict(network: NetworkAccess, writing: WriteAccess, backing: BackingFiles) -> Result<(), CallsError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let filter = SeccompFilter::new(rules(network, writing, backing)?, absent, SeccompAction::Allow, architecture)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

type CallRules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(
    network: NetworkAccess,
    writing: WriteAccess,
    backing: BackingFiles,
) -> Result<CallRules, seccompiler::BackendError> {
    let mut rules: CallRules =
        [BASE_CALLS, BASE_CALLS_OLD].concat().into_iter().map(|call| (call, Vec::new())).collect();
    let mut ioctls = BASE_IOCTLS.to_vec();
    let mut prctl_options = vec![libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];
    if backing == BackingFiles::Registered {
        ioctls.extend(BACKING_IOCTLS);
    }
    // A process may send signals only to itself.
    let own = u64::from(std::process::id());
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![rule(0, Op::Eq, own)?]);
    }
    // Threads, not processes. The flags of clone3 are not visible to a filter, so it is absent.
    let threads = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![rule(0, Op::MaskedEq(threads), threads)?]);
    // The C library queries limits when it starts a thread; setting them is not allowed.
    rules.insert(libc::SYS_prlimit64, vec![rule(2, Op::Eq, 0)?]);
    // Pairs for the INIT proxy and for the threads that fetch. Other than these, a pair of datagram sockets can be connected to
    // local services.
    let pairs = PAIR_TYPES.map(|kind| rule(1, Op::MaskedEq(SOCKET_TYPE_MASK), kind));
    rules.insert(libc::SYS_socketpair, pairs.into_iter().collect::<Result<_, _>>()?);
    // Memory that is not executable.
    let program = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(2, Op::MaskedEq(program), 0)?]);
    }
    if network == NetworkAccess::Needed {
        rules.extend(FETCH_CALLS.iter().map(|call| (*call, Vec::new())));
        let families = SOCKET_FAMILIES.map(|family| rule(0, Op::Eq, u64::from(family.cast_unsigned())));
        rules.insert(libc::SYS_socket, families.into_iter().collect::<Result<_, _>>()?);
        prctl_options.push(libc::PR_GET_DUMPABLE);
    }
    if writing != WriteAccess::None {
        rules.extend(WRITE_CALLS.iter().map(|call| (*call, Vec::new())));
    }
    if writing == WriteAccess::Repository {
        rules.extend([REPOSITORY_CALLS, REPOSITORY_CALLS_OLD].concat().into_iter().map(|call| (call, Vec::new())));
        ioctls.extend(REPOSITORY_IOCTLS);
    }
    let others = SIGNAL_COMMANDS.map(|command| condition(1, Op::Ne, u64::from(command.cast_unsigned())));
    let others = SeccompRule::new(others.into_iter().collect::<Result<_, _>>()?)?;
    rules.insert(libc::SYS_fcntl, vec![others]);
    let equal = |index, value: u64| rule(index, Op::Eq, value);
    rules.insert(libc::SYS_ioctl, ioctls.into_iter().map(|number| equal(1, number)).collect::<Result<_, _>>()?);
    let prctl_options = prctl_options.into_iter().map(|option| equal(0, u64::from(option.cast_unsigned())));
    rules.insert(libc::SYS_prctl, prctl_options.collect::<Result<_, _>>()?);
    Ok(rules)
}

fn rule(argument: u8, op: Op, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![condition(argument, op, value)?])
}

fn condition(argument: u8, op: Op, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, Length::Dword, op, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetching_worker_has_internet_sockets_only() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket, socketpair};
        let families = [AddressFamily::INET, AddressFamily::INET6, AddressFamily::UNIX, AddressFamily::PACKET];
        let confined = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).expect("every thread may give up privileges");
            restrict(NetworkAccess::Needed, WriteAccess::Own, BackingFiles::None).expect("this kernel has seccomp");
            let pair = |kind| socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).map(drop);
            let pairs = [SocketType::SEQPACKET, SocketType::STREAM, SocketType::DGRAM].map(pair);
            (families.map(|family| socket(family, SocketType::STREAM, None).err()), pairs)
        });
        let (answers, pairs) = confined.join().expect("no panic");
        assert_eq!(
            pairs,
            [Ok(()), Ok(()), Err(rustix::io::Errno::NOSYS)],
            "a pair of datagrams can be connected to a path"
        );
        assert!(!answers[..2].contains(&Some(rustix::io::Errno::NOSYS)), "{answers:?}");
        assert_eq!(answers[2..], [Some(rustix::io::Errno::NOSYS); 2]);
    }

    #[test]
    fn worker_cannot_start_programs_or_mount() {
        for (network, writing) in [
            (NetworkAccess::None, WriteAccess::None),
            (NetworkAccess::None, WriteAccess::Own),
            (NetworkAccess::None, WriteAccess::Repository),
            (NetworkAccess::Needed, WriteAccess::Own),
        ] {
            for backing in [BackingFiles::None, BackingFiles::Registered] {
                let rules = rules(network, writing, backing).expect("legal");
                for call in [
                    libc::SYS_execve,
                    libc::SYS_execveat,
                    libc::SYS_mount,
                    libc::SYS_umount2,
                    libc::SYS_ptrace,
                    libc::SYS_setns,
                    libc::SYS_unshare,
                    libc::SYS_open_by_handle_at,
                    libc::SYS_clone3,
                    libc::SYS_setuid,
                    libc::SYS_bpf,
                    libc::SYS_init_module,
                    libc::SYS_chroot,
                    libc::SYS_process_vm_writev,
                ] {
                    assert!(!rules.contains_key(&call), "{call}");
                }
                assert_eq!(rules.contains_key(&libc::SYS_socket), network == NetworkAccess::Needed);
                assert_eq!(rules.contains_key(&libc::SYS_pwrite64), writing != WriteAccess::None);
                for call in [libc::SYS_fchmodat, libc::SYS_utimensat, libc::SYS_linkat] {
                    assert_eq!(rules.contains_key(&call), writing == WriteAccess::Repository, "{call}");
                }
            }
        }
    }
}
