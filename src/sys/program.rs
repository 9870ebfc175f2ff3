//! Starts programs by descriptor (`fork` and `execveat`), for a process that has no usable paths and must not allocate.
//!
//! *Used by* `mount`, whose supervisor starts workers, and by `fuse` and `cli`, which pass descriptors.

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid};

/// The arguments of a program, in the form that `execveat(2)` takes.
pub(crate) struct ProgramArguments {
    pointers: Vec<*const c_char>,
    _texts: Vec<CString>,
}

impl ProgramArguments {
    /// Prepares the arguments, of which the first is the program's name.
    pub(crate) fn new(texts: Vec<CString>) -> Self {
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, _texts: texts }
    }

    /// Starts `program` as a child, which gets all descriptors without `CLOEXEC`, an empty environment and no blocked signals.
    /// Allocates nothing. The process must have one thread. The child exits with status 127 if `program` cannot be executed.
    ///
    /// # Errors
    /// Those of `fork(2)`.
    #[expect(unsafe_code, reason = "fork")]
    pub(crate) fn start(&self, program: impl AsFd) -> io::Result<Pid> {
        // SAFETY: the child calls only functions that are safe after fork: sigprocmask, execveat, _exit.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => {
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
                let _ = self.replace_process(program.as_fd());
                // SAFETY: ends the child at once, so that no code of the parent runs in it.
                unsafe { libc::_exit(127) }
            }
        }
    }

    /// Replaces this process by `program`, with an empty environment. The process keeps its number, its children, and all
    /// descriptors without `CLOEXEC`. Allocates nothing; returns only when the replacement fails.
    pub(crate) fn replace_process(&self, program: BorrowedFd<'_>) -> io::Error {
        let environment: [*const c_char; 1] = [ptr::null()];
        // The program's file must not stay open in the new program, so its descriptor has CLOEXEC. This works for an ELF
        // program and not for a script.
        #[expect(unsafe_code, reason = "execveat")]
        // SAFETY: both lists end with a null pointer and live until the call returns.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                program.as_raw_fd(),
                c"".as_ptr(),
                self.pointers.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        io::Error::last_os_error()
    }
}

/// Returns the descriptor `number`, which this process was started with. To be called at most once for each number.
///
/// # Errors
/// `EBADF` when it is not open.
#[expect(unsafe_code, reason = "a number becomes an owned descriptor")]
pub(crate) fn inherited_descriptor(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: only queries the number.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the caller's contract is that nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `target` a duplicate of `source`; what `target` referred to before is closed.
///
/// # Errors
/// Those of `dup3(2)`.
#[expect(unsafe_code, reason = "a descriptor that the caller owns refers to another file afterwards")]
pub(crate) fn replace_descriptor(target: impl AsFd, source: impl AsFd) -> io::Result<()> {
    let (source, target) = (source.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    // SAFETY: both are open; the owner of `target` keeps owning an open descriptor.
    match unsafe { libc::dup3(source, target, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes `target` a duplicate of `source`, in this process and in all programs that it will start.
///
/// # Errors
/// Those of `dup3(2)` and `fcntl(2)`.
pub(crate) fn replace_inheritable_descriptor(target: impl AsFd, source: impl AsFd) -> io::Result<()> {
    replace_descriptor(&target, source)?;
    Ok(rustix::io::fcntl_setfd(&target, rustix::io::FdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;

    #[test]
    fn program_starts_by_its_descriptor() {
        let shell = File::open("/bin/sh").expect("exists");
        let arguments = ["name", "-c", "exit 7"].map(|text| CString::new(text).expect("no zero")).to_vec();
        let child = ProgramArguments::new(arguments.clone()).start(&shell).expect("forks");
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 7)));
        let directory = File::open("/").expect("exists");
        let child = ProgramArguments::new(arguments).start(&directory).expect("forks");
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 127)));
    }

    #[test]
    fn replace_descriptor_duplicates_the_source() {
        assert!(inherited_descriptor(99_999).is_err());
        let (one, two) = (tempfile::tempfile().expect("a file"), File::open("/proc/self/stat").expect("a file"));
        replace_descriptor(&one, &two).expect("both are open");
        assert_eq!(rustix::fs::fstat(&one).expect("open").st_dev, rustix::fs::fstat(&two).expect("open").st_dev);
    }
}
