//! Virtual machines: QEMU with software emulation, its serial console in a file, its power under the test's control.
//!
//! Software emulation works on every host, and the timeouts here are made for it. A machine is a child process of the test,
//! which ends when the value is dropped. A unit of the test starts a shell on its second serial port.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything that a machine does, also on a busy host.
const MACHINE_TIMEOUT: Duration = Duration::from_secs(400);

/// All features of the emulator but two. With `svm` the guest loads a hypervisor of its own. With `la57`, page tables of five
/// levels, the guest uses addresses of 57 bits, and QEMU 7.2 reports 48 to it: the kernel of Debian 12 then takes its own
/// addresses for invalid and shows `xxx` for the name of each directory in a path.
const PROCESSOR: &str = "max,-svm,-la57";

/// Text that the unit of the shell prints on the console when it starts.
const SHELL_READY: &str = "the shell of the test is ready";

/// The unit that starts the shell.
pub const SHELL_UNIT: &str = "\
[Unit]
Description=A shell for the test
ConditionPathExists=/dev/ttyS1
[Service]
KillSignal=SIGKILL
ExecStart=/bin/sh -c 'stty -F /dev/ttyS1 raw -echo; echo the shell of the test is ready > /dev/ttyS0; exec /bin/sh < /dev/ttyS1 > /dev/ttyS1 2>&1'
[Install]
WantedBy=multi-user.target
";

/// The parts of a machine.
#[derive(Clone, Debug, Default)]
pub struct Hardware {
    /// Disks, of which the first is `vda`. The machine writes to them.
    pub disks: Vec<PathBuf>,
    /// A kernel, an initramfs and arguments that are booted instead of the firmware's choice.
    pub kernel: Option<(PathBuf, PathBuf, String)>,
    /// File with the variables of UEFI; without one, the machine has a BIOS.
    pub firmware: Option<PathBuf>,
    /// Whether there is a network card; the host's loopback is 10.0.2.2.
    pub network: bool,
    /// Whether a reboot ends the process.
    pub no_reboot: bool,
}

/// A running machine.
pub struct Machine {
    child: Child,
    console: PathBuf,
    monitor: PathBuf,
    control: PathBuf,
    seen: usize,
}

impl Machine {
    /// Starts a machine whose console, sockets and log are in `place`.
    pub fn start(hardware: &Hardware, place: &Path) -> Self {
        fs::create_dir_all(place).expect("the sandbox is writable");
        let (console, monitor, control) = (place.join("console.log"), place.join("monitor"), place.join("control"));
        for socket in [&monitor, &control] {
            let _ = fs::remove_file(socket);
        }
        File::create(&console).expect("the sandbox is writable");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg,thread=multi,tb-size=512", "-cpu", PROCESSOR, "-smp", "2", "-m", "1024"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-M", "q35"]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.arg("-serial").arg(format!("unix:{},server=on,wait=off", control.display()));
        command.arg("-monitor").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        for disk in &hardware.disks {
            let format = if disk.extension().is_some_and(|kind| kind == "qcow2") { "qcow2" } else { "raw" };
            command.arg("-drive").arg(format!("file={},if=virtio,format={format},cache=unsafe", disk.display()));
        }
        if let Some((kernel, initramfs, arguments)) = &hardware.kernel {
            command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs).arg("-append").arg(arguments);
        }
        if let Some(variables) = &hardware.firmware {
            let code = "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
            command.args(["-drive", code]).arg("-drive");
            command.arg(format!("if=pflash,format=raw,unit=1,file={}", variables.display()));
        }
        if hardware.network {
            command.args(["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="]);
        }
        if hardware.no_reboot {
            command.arg("-no-reboot");
        }
        let log = File::create(place.join("qemu.log")).expect("the sandbox is writable");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        let child = command.spawn().expect("tests/boot/tools installs QEMU");
        Self { child, console, monitor, control, seen: 0 }
    }

    /// Returns what the console has shown so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Waits until the console shows `text` after the text of the last wait. Returns the line.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        self.wait_for_any(&[text]).1
    }

    /// Waits for the first of several texts. Returns its index and its line.
    #[track_caller]
    pub fn wait_for_any(&mut self, texts: &[&str]) -> (usize, String) {
        let begin = Instant::now();
        loop {
            let console = self.console();
            let rest = console.get(self.seen..).unwrap_or_default();
            // Whole lines only: the text may be a part of what is still being written.
            let end = rest.rfind('\n').map_or(0, |end| end + 1);
            let found =
                texts.iter().enumerate().filter_map(|(which, text)| Some((rest[..end].find(text)?, which))).min();
            if let Some((at, which)) = found {
                let line_end = rest[at..].find('\n').map_or(rest.len(), |end| at + end);
                let line_start = rest[..at].rfind('\n').map_or(0, |start| start + 1);
                let line = rest[line_start..line_end].trim_end().to_owned();
                self.seen += line_end;
                return (which, line);
            }
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "the machine ended before it said any of {texts:?}:\n{}", self.tail());
            assert!(begin.elapsed() < MACHINE_TIMEOUT, "the machine said none of {texts:?}:\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the machine is off, or has rebooted if a reboot ends it.
    #[track_caller]
    pub fn wait_until_off(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(begin.elapsed() < MACHINE_TIMEOUT, "the machine is still on:\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Kills the process, as a power cut.
    pub fn cut_power(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Returns whether the console has shown `text` after the text of the last wait.
    pub fn has_said(&mut self, text: &str) -> bool {
        let ended = self.child.try_wait().expect("a child can be waited for");
        assert!(ended.is_none(), "the machine ended before it said '{text}':\n{}", self.tail());
        self.console().get(self.seen..).is_some_and(|rest| rest.contains(text))
    }

    /// Calls `act` while the machine is paused; everything that it wrote is then on its disks.
    pub fn while_paused<T>(&self, act: impl FnOnce() -> T) -> T {
        // The monitor answers the last command only after it has carried out those before it.
        self.ask("stop\ninfo status", "paused");
        let done = act();
        self.ask("cont\ninfo status", "running");
        done
    }

    fn ask(&self, commands: &str, answer: &str) {
        let mut monitor = UnixStream::connect(&self.monitor).expect("the machine has a monitor");
        writeln!(monitor, "{commands}").expect("the monitor listens");
        monitor.set_read_timeout(Some(MACHINE_TIMEOUT)).expect("a time");
        let mut heard = Vec::new();
        while !String::from_utf8_lossy(&heard).contains(&format!("VM status: {answer}")) {
            let mut piece = [0; 512];
            let length = std::io::Read::read(&mut monitor, &mut piece).expect("the monitor answers");
            assert!(length > 0, "the monitor hung up: {}", String::from_utf8_lossy(&heard));
            heard.extend(&piece[..length]);
        }
    }

    /// Waits until the test's shell runs, and connects to it.
    #[track_caller]
    pub fn shell(&mut self) -> Shell {
        self.wait_for(SHELL_READY);
        let mut shell = Shell::connect(&self.control);
        let mounts = shell.ok("cat /proc/self/mountinfo");
        assert!(
            has_real_paths(&mounts),
            "the guest's kernel lists its mounts under wrong paths, and no mount can work: is there a fault in this version \
             of QEMU with the processor '{PROCESSOR}'?\n{mounts}"
        );
        shell
    }

    fn tail(&self) -> String {
        let console = self.console();
        let lines: Vec<&str> = console.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// Returns whether the text of `mountinfo` has the mounts that every guest has.
fn has_real_paths(mounts: &str) -> bool {
    let paths: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    ["/", "/proc", "/sys", "/dev"].iter().all(|path| paths.contains(path))
}

#[test]
fn wrong_paths_in_mountinfo_are_detected() {
    let list = |names: [&str; 4]| {
        let line = |name: &str| format!("22 1 0:20 / {name} rw,relatime shared:5 - tmpfs none rw\n");
        names.map(line).concat()
    };
    assert!(has_real_paths(&list(["/", "/dev", "/sys", "/proc"])));
    assert!(!has_real_paths(&list(["/", "xxx", "xxx", "xxxx"])));
    assert!(!has_real_paths(&list(["/", "/xxx", "/xxx", "/xxxx"])));
    assert!(!has_real_paths(""));
}

/// A shell in a machine.
pub struct Shell {
    stream: BufReader<UnixStream>,
    commands: usize,
}

impl Shell {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("the machine has a second serial port");
        let mut shell = Self { stream: BufReader::new(stream), commands: 0 };
        let begin = Instant::now();
        // The unit prints its text before the shell reads, and the port behaves as a terminal. The first command switches
        // prompts off.
        while !shell.is_listening() {
            assert!(begin.elapsed() < MACHINE_TIMEOUT, "the shell does not answer");
        }
        shell.stream.get_ref().set_read_timeout(Some(MACHINE_TIMEOUT)).expect("a time");
        shell
    }

    /// Returns whether the shell answers.
    fn is_listening(&mut self) -> bool {
        self.commands += 1;
        let word = format!("<listening {}>", self.commands);
        self.stream.get_ref().set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
        // If the beginning of the line was lost, the number is missing from the answer.
        self.send(&format!("\n NUMBER={} PS1= PS2=; echo; echo \"<listening $NUMBER>\"\n", self.commands));
        let mut line = Vec::new();
        while self.stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if String::from_utf8_lossy(&line).contains(&word) {
                return true;
            }
            line.clear();
        }
        false
    }

    /// Runs a command. Returns its exit status and both of its outputs.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> (i32, String) {
        self.commands += 1;
        let mark = format!("<end of {}:", self.commands);
        self.send(&format!("{{ {command}\n}} < /dev/null 2>&1; STATUS=$?; echo; echo \"{mark}$STATUS>\"\n"));
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            let read = self.stream.read_until(b'\n', &mut line);
            assert!(read.as_ref().is_ok_and(|read| *read > 0), "no answer to '{command}', only: {text} ({read:?})");
            let line = String::from_utf8_lossy(&line).replace('\r', "");
            if let Some((_, status)) = line.trim_end().split_once(&mark) {
                let status = status.trim_end_matches('>').parse().expect("a status");
                return (status, text.trim_end().to_owned());
            }
            text.push_str(&line);
        }
    }

    /// Runs a command that has to succeed. Returns its output.
    #[track_caller]
    pub fn ok(&mut self, command: &str) -> String {
        let (status, text) = self.run(command);
        assert_eq!(status, 0, "'{command}' failed:\n{text}");
        text
    }

    /// Makes the machine reboot or power off, and ends the shell.
    #[track_caller]
    pub fn end(mut self, verb: &str) {
        self.send(&format!("echo left; systemctl {verb}; exit\n"));
        // The port takes a few letters at a time; closing it early would cut the command.
        let mut line = String::new();
        while !line.contains("left") {
            line.clear();
            assert!(self.stream.read_line(&mut line).is_ok_and(|read| read > 0), "no answer to '{verb}'");
        }
    }

    /// Sends text to which no answer is expected.
    pub fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).expect("the machine listens");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_power();
    }
}
