//! Which system calls there are, by seccomp. All others answer ENOSYS, as on a kernel without them: libraries that look for
//! newer ones go on with older ones, and nothing is gained by calling the rest.
//!
//! Calls without conditions cost nothing: the kernel remembers that they are allowed (Linux 5.11).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::{Backing, Network, Writing};

/// What every worker does: read files, wait, start threads, answer on sockets that are open.
const ALWAYS: &[i64] = &[
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
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    // Taking the mount off the list of mounts.
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
    // Who we are.
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
    // Sockets that are open, and one pair for the first words with the kernel.
    libc::SYS_socketpair,
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

/// The same by their old names, which the C library uses where there are any.
#[cfg(target_arch = "x86_64")]
const ALWAYS_OLD: &[i64] = &[
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
const ALWAYS_OLD: &[i64] = &[];

/// What fetching takes.
const FETCHING: &[i64] = &[
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_memfd_create,
    // Libraries for looking names up are loaded when they are needed.
    libc::SYS_mmap,
    libc::SYS_mprotect,
];

/// Families of sockets that fetching takes: the internet, and the kernel's answer to which addresses this machine has. Not local
/// ones: behind those are services that take the user of a process for its permission.
const FAMILIES: [i32; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// What keeping it takes, and making room for more.
const WRITING: &[i64] = &[
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_mkdirat,
    libc::SYS_linkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
];

#[cfg(target_arch = "x86_64")]
const WRITING_OLD: &[i64] = &[libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_link, libc::SYS_chmod];
#[cfg(not(target_arch = "x86_64"))]
const WRITING_OLD: &[i64] = &[];

/// `FUSE_DEV_IOC_BACKING_OPEN` and `_CLOSE`.
const BACKING_IOCTLS: [u64; 2] = [1 << 30 | 16 << 16 | 229 << 8 | 1, 1 << 30 | 4 << 16 | 229 << 8 | 2];

/// Is it a terminal, how much is there to read, do not wait, close when another program is started.
const IOCTLS: [u64; 4] = [libc::TCGETS, libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX];

/// `FICLONE`, for a file that is to be a copy of another.
const WRITING_IOCTLS: [u64; 1] = [1 << 30 | 4 << 16 | 0x94 << 8 | 9];

/// Why system calls are not restricted.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallsError {
    #[error(transparent)]
    Filter(#[from] seccompiler::BackendError),
    #[error(transparent)]
    Apply(#[from] seccompiler::Error),
}

/// Leaves this thread, and those it will start, only the calls that are needed.
pub(super) fn restrict(network: Network, writing: Writing, backing: Backing) -> Result<(), CallsError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let filter = SeccompFilter::new(rules(network, writing, backing)?, absent, SeccompAction::Allow, architecture)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(network: Network, writing: Writing, backing: Backing) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = [ALWAYS, ALWAYS_OLD].concat().into_iter().map(|call| (call, Vec::new())).collect();
    let mut ioctls = IOCTLS.to_vec();
    let mut names = vec![libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];
    if backing == Backing::Registered {
        ioctls.extend(BACKING_IOCTLS);
    }
    // A process may send itself signals, and nobody else.
    let own = u64::from(std::process::id());
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![when(0, Op::Eq, own)?]);
    }
    // Threads, not processes. Their other form hides its flags from us, so it is absent.
    let threads = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![when(0, Op::MaskedEq(threads), threads)?]);
    // Limits are asked for, by the starter of threads, and not set.
    rules.insert(libc::SYS_prlimit64, vec![when(2, Op::Eq, 0)?]);
    // Memory that is not a program.
    let program = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![when(2, Op::MaskedEq(program), 0)?]);
    }
    if network == Network::Needed {
        rules.extend(FETCHING.iter().map(|call| (*call, Vec::new())));
        let families = FAMILIES.map(|family| when(0, Op::Eq, u64::from(family.cast_unsigned())));
        rules.insert(libc::SYS_socket, families.into_iter().collect::<Result<_, _>>()?);
        names.push(libc::PR_GET_DUMPABLE);
    }
    if writing == Writing::Needed {
        rules.extend([WRITING, WRITING_OLD].concat().into_iter().map(|call| (call, Vec::new())));
        ioctls.extend(WRITING_IOCTLS);
    }
    let equal = |index, value: u64| when(index, Op::Eq, value);
    rules.insert(libc::SYS_ioctl, ioctls.into_iter().map(|number| equal(1, number)).collect::<Result<_, _>>()?);
    let names = names.into_iter().map(|name| equal(0, u64::from(name.cast_unsigned())));
    rules.insert(libc::SYS_prctl, names.collect::<Result<_, _>>()?);
    Ok(rules)
}

fn when(argument: u8, op: Op, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, Length::Dword, op, value)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_fetches_reaches_the_internet_and_no_local_service() {
        use rustix::net::{AddressFamily, SocketType, socket};
        let families = [AddressFamily::INET, AddressFamily::INET6, AddressFamily::UNIX, AddressFamily::PACKET];
        let confined = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).expect("every thread may give up privileges");
            restrict(Network::Needed, Writing::Needed, Backing::None).expect("this kernel has seccomp");
            families.map(|family| socket(family, SocketType::STREAM, None).err())
        });
        let answers = confined.join().expect("no panic");
        assert!(!answers[..2].contains(&Some(rustix::io::Errno::NOSYS)), "{answers:?}");
        assert_eq!(answers[2..], [Some(rustix::io::Errno::NOSYS); 2]);
    }

    #[test]
    fn no_worker_starts_programs_or_mounts() {
        for (network, writing) in
            [(Network::None, Writing::None), (Network::None, Writing::Needed), (Network::Needed, Writing::Needed)]
        {
            for backing in [Backing::None, Backing::Registered] {
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
                assert_eq!(rules.contains_key(&libc::SYS_socket), network == Network::Needed);
                assert_eq!(rules.contains_key(&libc::SYS_pwrite64), writing == Writing::Needed);
            }
        }
    }
}
