//! Refuses the system calls that programs which install files do not need, and that reach the kernel far beyond files: new
//! namespaces and mounts, keyrings, tracing, kernel modules, clocks, the asynchronous interface.
//!
//! What is refused by a call's number fails with EPERM, as without the privilege; what libraries probe for fails with ENOSYS,
//! as on a kernel without it.
//!
//! *Used by* `stages`.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Calls that are refused as without privileges.
const REFUSED_CALLS: &[i64] = &[
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Keys, other processes' memory, the kernel itself.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_syslog,
    // The machine's state.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Calls that libraries try before older ones. The flags of `clone3` are in memory, where a filter cannot read them; `clone`
/// has them as an argument.
const UNKNOWN_CALLS: [i64; 4] =
    [libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Flags of `clone` and `unshare` that make namespaces.
const NAMESPACE_FLAGS: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Families of sockets that programs may use: local ones, and the internet, of which only loopback is there. Netlink is for
/// the addresses of the machine alone ([`libc::NETLINK_ROUTE`]).
const SOCKET_FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The bit in the number of a call that marks its variant with 32-bit pointers.
#[cfg(target_arch = "x86_64")]
const X32_BIT: i64 = 0x4000_0000;

/// Restricts this process and all that it starts.
pub(super) fn restrict() -> io::Result<()> {
    for program in programs().map_err(io::Error::other)? {
        seccompiler::apply_filter(&program).map_err(io::Error::other)?;
    }
    Ok(())
}

fn programs() -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED_CALLS.iter().map(|call| (*call, Vec::new())).collect();
    for call in [libc::SYS_clone, libc::SYS_unshare] {
        refused.insert(call, namespace_rules()?);
    }
    let unknown = UNKNOWN_CALLS.iter().map(|call| (*call, Vec::new())).collect();
    let families = SOCKET_FAMILIES.map(|family| condition(0, Op::Ne, family)).into_iter().collect::<Result<_, _>>()?;
    let netlink = vec![condition(0, Op::Eq, libc::AF_NETLINK)?, condition(2, Op::Ne, libc::NETLINK_ROUTE)?];
    let sockets = |conditions| {
        Ok::<_, seccompiler::BackendError>(BTreeMap::from([(libc::SYS_socket, vec![SeccompRule::new(conditions)?])]))
    };
    Ok(vec![
        program(refused, libc::EPERM)?,
        program(unknown, libc::ENOSYS)?,
        program(sockets(families)?, libc::EAFNOSUPPORT)?,
        program(sockets(netlink)?, libc::EPROTONOSUPPORT)?,
    ])
}

/// Returns a rule for each flag that makes a namespace.
fn namespace_rules() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |flag: i32| {
        let flag = u64::from(flag.cast_unsigned());
        SeccompRule::new(vec![SeccompCondition::new(0, Length::Qword, Op::MaskedEq(flag), flag)?])
    };
    NAMESPACE_FLAGS.into_iter().map(rule).collect()
}

fn condition(argument: u8, operator: Op, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, Length::Dword, operator, u64::from(value.cast_unsigned()))
}

/// Returns a program that lets all calls pass except those that match.
fn program(calls: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, seccompiler::BackendError> {
    #[cfg(target_arch = "x86_64")]
    let calls = {
        let variants: Vec<_> = calls.iter().map(|(call, rules)| (call | X32_BIT, rules.clone())).collect();
        let mut calls = calls;
        calls.extend(variants);
        calls
    };
    let refusal = SeccompAction::Errno(errno.cast_unsigned());
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, refusal, std::env::consts::ARCH.try_into()?)?;
    filter.try_into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn filters_compile() {
        assert_eq!(super::programs().expect("they are constant").len(), 4);
    }
}
