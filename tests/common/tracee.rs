//! System calls made inside another process, as one who has taken it over makes them: by ptrace(2), so that its filter of system
//! calls and its other restrictions decide.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// Bytes below the stack pointer at which arguments are written: below what the interrupted function uses, and within what the
/// stack had used before.
const SCRATCH_DISTANCE: u64 = 16 << 10;

/// Room for one argument.
const SLOT: u64 = 2048;

/// A process that is stopped, and makes the system calls that it is told. It goes on where it was when this is dropped.
pub struct Tracee {
    pid: Pid,
    saved: libc::user_regs_struct,
    /// The address of a `syscall` instruction in it.
    instruction: u64,
    memory: File,
}

impl Tracee {
    /// Stops the process.
    pub fn attach(pid: i32) -> Self {
        let process = Pid::from_raw(pid);
        ptrace::attach(process).expect("root may trace it");
        waitpid(process, None).expect("it stops");
        let saved = ptrace::getregs(process).expect("it is stopped");
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).expect("it is traced");
        let instruction = find_instruction(pid, &memory);
        Self { pid: process, saved, instruction, memory }
    }

    /// Returns the address of a copy of `bytes` and a zero in the process. There are four places for them.
    pub fn place(&self, slot: u64, bytes: &[u8]) -> u64 {
        assert!(bytes.len() < SLOT as usize && slot < 4);
        let address = ((self.saved.rsp - SCRATCH_DISTANCE) & !0xff) + slot * SLOT;
        self.memory.write_all_at(&[bytes, &[0]].concat(), address).expect("its stack is writable");
        address
    }

    /// Makes a system call; returns its result, or the error as a negative number.
    pub fn call(&self, number: i64, arguments: &[u64]) -> i64 {
        let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
        let mut registers = self.saved;
        (registers.rax, registers.orig_rax, registers.rip) = (number as u64, u64::MAX, self.instruction);
        (registers.rdi, registers.rsi, registers.rdx) = (argument(0), argument(1), argument(2));
        (registers.r10, registers.r8, registers.r9) = (argument(3), argument(4), argument(5));
        ptrace::setregs(self.pid, registers).expect("it is stopped");
        ptrace::step(self.pid, None).expect("it is stopped");
        waitpid(self.pid, None).expect("it stops after one instruction");
        ptrace::getregs(self.pid).expect("it is stopped").rax as i64
    }

    /// Opens a file; returns the error, if there is one.
    pub fn open(&self, path: &str, flags: i32) -> Option<i32> {
        let path = self.place(0, path.as_bytes());
        let result = self.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, path, flags as u64, 0o600]);
        if result < 0 {
            return Some(-result as i32);
        }
        self.call(libc::SYS_close, &[result as u64]);
        None
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = ptrace::setregs(self.pid, self.saved);
        let _ = ptrace::detach(self.pid, None);
    }
}

/// Finds the instruction in the pages that the kernel gives to every process.
fn find_instruction(pid: i32, memory: &File) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    for line in maps.lines().filter(|line| line.contains("r-xp") && !line.contains("[vsyscall]")) {
        let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("as proc(5) says");
        let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16).expect("as proc(5) says"));
        let mut bytes = vec![0; (end - start) as usize];
        if memory.read_exact_at(&mut bytes, start).is_ok()
            && let Some(at) = bytes.windows(2).position(|pair| pair == [0x0f, 0x05])
        {
            return start + at as u64;
        }
    }
    panic!("process {pid} has no system call");
}
