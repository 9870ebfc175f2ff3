//! Starting programs by descriptor, for a process that has no paths left and wants no memory: `fork` and `execveat`.

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid};

/// The arguments of a program, ready to be passed on.
pub struct Arguments {
    pointers: Vec<*const c_char>,
    _texts: Vec<CString>,
}

impl Arguments {
    /// The arguments, the program's name first.
    #[must_use]
    pub fn new(texts: Vec<CString>) -> Self {
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, _texts: texts }
    }

    /// Starts `program` as a child, which gets all descriptors without `CLOEXEC`, an empty environment and no blocked signals. Allocates nothing.
    /// For a process with one thread. The child ends with 127 if it is no program.
    ///
    /// # Errors
    /// Those of `fork(2)`.
    #[expect(unsafe_code, reason = "fork")]
    pub fn start(&self, program: impl AsFd) -> io::Result<Pid> {
        // SAFETY: the child calls only functions that are safe after fork: sigprocmask, execveat, _exit.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => {
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
                let _ = self.become_it(program.as_fd());
                // SAFETY: ends the process, which is what is wanted: nothing of the parent's may run here.
                unsafe { libc::_exit(127) }
            }
        }
    }

    /// Becomes `program`, with an empty environment; it keeps the process number, its children, and all descriptors without `CLOEXEC`. Allocates
    /// nothing; returns only when that fails.
    #[must_use]
    pub fn become_it(&self, program: BorrowedFd<'_>) -> io::Error {
        let environment: [*const c_char; 1] = [ptr::null()];
        // The file itself must not stay open in the new program, so the descriptor has CLOEXEC, which is fine for an ELF
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

/// The descriptor `number`, which this process was started with. Once for each number.
///
/// # Errors
/// `EBADF` when there is none.
#[expect(unsafe_code, reason = "a number becomes an owned descriptor")]
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: only asks about the number.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the caller's contract is that nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `target` mean what `source` means. Whatever it meant before is closed.
///
/// # Errors
/// Those of `dup3(2)`.
#[expect(unsafe_code, reason = "a descriptor that others own gets another meaning")]
pub fn replace_descriptor(target: impl AsFd, source: impl AsFd) -> io::Result<()> {
    let (source, target) = (source.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    // SAFETY: both are open; the owner of `target` keeps owning an open descriptor.
    match unsafe { libc::dup3(source, target, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes `target` mean what `source` means, for this process and all that it will start.
///
/// # Errors
/// Those of `dup3(2)` and `fcntl(2)`.
pub fn renumber(target: impl AsFd, source: impl AsFd) -> io::Result<()> {
    replace_descriptor(&target, source)?;
    Ok(rustix::io::fcntl_setfd(&target, rustix::io::FdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;

    #[test]
    fn a_program_is_started_by_its_descriptor() {
        let shell = File::open("/bin/sh").expect("is there");
        let arguments = ["name", "-c", "exit 7"].map(|text| CString::new(text).expect("no zero")).to_vec();
        let child = Arguments::new(arguments.clone()).start(&shell).expect("forks");
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 7)));
        let directory = File::open("/").expect("is there");
        let child = Arguments::new(arguments).start(&directory).expect("forks");
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 127)));
    }

    #[test]
    fn descriptors_are_taken_over_and_replaced() {
        assert!(inherited(99_999).is_err());
        let (one, two) = (tempfile::tempfile().expect("a file"), File::open("/proc/self/stat").expect("a file"));
        replace_descriptor(&one, &two).expect("both are open");
        assert_eq!(rustix::fs::fstat(&one).expect("open").st_dev, rustix::fs::fstat(&two).expect("open").st_dev);
    }
}
