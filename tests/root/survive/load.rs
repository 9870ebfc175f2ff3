//! Programs that use a mount while its workers are killed. Each user repeats until told to stop and records everything that is
//! wrong. They drop the kernel's caches, or no message would reach a worker.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use crate::common::random::Random;
use crate::common::sandbox::{finish, run};

/// The result of the users of a mount.
#[derive(Debug, Default)]
pub struct LoadResult {
    /// Number of completed passes.
    pub passes: u64,
    /// Everything that was wrong.
    pub wrong: Vec<String>,
}

/// Users of a mount, each in a thread.
pub struct Load {
    stop: Arc<AtomicBool>,
    users: Vec<(&'static str, JoinHandle<LoadResult>)>,
    longest: Arc<AtomicU64>,
}

impl Load {
    pub fn new() -> Self {
        Self { stop: Arc::default(), users: Vec::new(), longest: Arc::default() }
    }

    /// Adds a user that repeats `pass`.
    pub fn user(
        mut self,
        name: &'static str,
        mut pass: impl FnMut(&AtomicBool) -> Result<(), String> + Send + 'static,
    ) -> Self {
        let stop = Arc::clone(&self.stop);
        let thread = std::thread::spawn(move || {
            let mut came = LoadResult::default();
            while !stop.load(Ordering::Relaxed) {
                match pass(&stop) {
                    Ok(()) => came.passes += 1,
                    Err(wrong) => came.wrong.push(wrong),
                }
            }
            came
        });
        self.users.push((name, thread));
        self
    }

    /// Adds a user that sends requests that no cache answers, and measures the longest answer time.
    pub fn prober(self, mounted: &Path) -> Self {
        let (mounted, longest) = (mounted.to_owned(), Arc::clone(&self.longest));
        self.user("statfs", move |_| {
            let begin = Instant::now();
            let answer = nix::sys::statvfs::statvfs(&mounted);
            longest.fetch_max(begin.elapsed().as_micros() as u64, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
            answer.map(drop).map_err(|errno| format!("statfs: {errno}"))
        })
    }

    /// Ends all users; fails the test if anything was wrong. Returns the longest answer time, and a line of figures.
    #[track_caller]
    pub fn end(self) -> (Duration, String) {
        self.stop.store(true, Ordering::Relaxed);
        let mut line = Vec::new();
        let mut wrong = Vec::new();
        for (name, thread) in self.users {
            let came = thread.join().expect("users of a mount do not panic");
            line.push(format!("{name} {}", came.passes));
            wrong.extend(came.wrong.into_iter().map(|wrong| format!("{name}: {wrong}")));
        }
        assert!(wrong.is_empty(), "{} errors: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
        (Duration::from_micros(self.longest.load(Ordering::Relaxed)), line.join(", "))
    }
}

/// Returns the regular files below a directory, relative to it.
pub fn files(tree: &Path) -> Vec<PathBuf> {
    let text = run("find", [tree.as_os_str(), "-type".as_ref(), "f".as_ref(), "-printf".as_ref(), "%P\\0".as_ref()]);
    text.success().split('\0').filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

/// Compares `md5sum` of everything with that of the original. Files that were read are dropped from the cache.
pub fn md5sums(tree: &Path, mounted: &Path, scratch: &Path) -> impl FnMut(&AtomicBool) -> Result<(), String> + use<> {
    let sums = scratch.join("md5sums");
    let script =
        format!("cd {} && find . -type f -print0 | sort -z | xargs -0 md5sum > {}", tree.display(), sums.display());
    run("sh", ["-c", &script]).success();
    let (mounted, files) = (mounted.to_owned(), files(tree));
    move |stop| {
        let mut command = Command::new("md5sum");
        command.args(["--quiet", "--check"]).arg(&sums).current_dir(&mounted).stdout(Stdio::null());
        let checked = finish(command);
        for file in files.iter().take_while(|_| !stop.load(Ordering::Relaxed)) {
            let file = File::open(mounted.join(file)).map_err(|error| format!("{}: {error}", file.display()))?;
            fadvise(&file, 0, None, Advice::DontNeed).map_err(|errno| errno.to_string())?;
        }
        if checked.status.success() { Ok(()) } else { Err(format!("{}{}", checked.text(), checked.stderr)) }
    }
}

/// Compiles a program with the compiler proper and the headers of the mount.
pub fn compile(mounted: &Path, scratch: &Path) -> impl FnMut(&AtomicBool) -> Result<(), String> + use<> {
    let source = scratch.join("program.cc");
    fs::write(
        &source,
        "#include <iostream>\n#include <map>\n#include <regex>\n\
         int main() { std::map<int, std::string> m; std::regex r(\"a+\"); std::cout << m.size(); }\n",
    )
    .expect("writable");
    let (mounted, scratch) = (mounted.to_owned(), scratch.to_owned());
    let build = move |output: &Path| {
        let mut command = Command::new("g++");
        command.arg(format!("-B{}/", mounted.join("gcc").display())).arg("-nostdinc++");
        for include in ["include/c++/12", "include/x86_64-linux-gnu/c++/12"] {
            command.arg("-isystem").arg(mounted.join(include));
        }
        finish({
            command.arg("-c").arg(&source).arg("-o").arg(output);
            command
        })
    };
    let mut expected = None;
    move |_| {
        let output = scratch.join("program.o");
        let built = build(&output);
        if !built.status.success() {
            return Err(built.stderr);
        }
        let object = fs::read(output).expect("was written");
        if *expected.get_or_insert_with(|| object.clone()) == object { Ok(()) } else { Err("another program".into()) }
    }
}

/// Compares random pages of a mapped file with those of the original, by Python; the pages are dropped from the cache after
/// each pass.
pub fn mmap_reader(original: &Path, mounted: &Path) -> impl FnMut(&AtomicBool) -> Result<(), String> + use<> {
    const SCRIPT: &str = "import mmap,os,random,sys\n\
        files=[open(p,'rb') for p in sys.argv[1:3]]\n\
        good,ours=[mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ) for f in files]\n\
        for turn in range(4):\n\
        \tours.madvise(mmap.MADV_DONTNEED); os.posix_fadvise(files[1].fileno(),0,0,os.POSIX_FADV_DONTNEED)\n\
        \tfor _ in range(300):\n\
        \t\tat=random.randrange(0,len(good)-4096); assert good[at:at+4096]==ours[at:at+4096], at\n";
    let (original, mounted) = (original.to_owned(), mounted.to_owned());
    move |_| {
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT]).arg(&original).arg(&mounted);
        let read = finish(command);
        if read.status.success() { Ok(()) } else { Err(format!("{}: {}", read.status, read.stderr)) }
    }
}

/// Reads at random by direct I/O, by fio.
pub fn fio(mounted: &Path) -> impl FnMut(&AtomicBool) -> Result<(), String> + use<> {
    let filename = format!("--filename={}", mounted.display());
    move |_| {
        let arguments = ["--name=r", "--readonly", "--rw=randread", "--bs=4k-128k", "--direct=1", "--ioengine=psync"];
        let more = ["--numjobs=2", "--thread", "--time_based", "--runtime=2", "--group_reporting", "--minimal"];
        let read = run("fio", arguments.iter().chain(&more).copied().chain([filename.as_str()]));
        if read.status.success() && read.stderr.trim().is_empty() { Ok(()) } else { Err(read.stderr + &read.command) }
    }
}

/// Holds files open and mapped, reads them again and again, and opens them a second time: in passthrough mode the kernel
/// refuses that if the answer differs from the first one.
pub fn holder(original: &Path, mounted: &Path, most: usize) -> impl FnMut(&AtomicBool) -> Result<(), String> + use<> {
    let held: Vec<(PathBuf, File, Vec<u8>)> = files(original)
        .into_iter()
        .take(most)
        .map(|path| {
            let bytes = fs::read(original.join(&path)).expect("readable");
            (mounted.join(&path), File::open(mounted.join(&path)).expect("opens"), bytes)
        })
        .collect();
    assert!(held.len() > most / 2, "only {} files to hold open", held.len());
    let mut random = Random::new(7);
    move |stop| {
        for (path, file, bytes) in held.iter().take_while(|_| !stop.load(Ordering::Relaxed)) {
            let again = File::open(path).map_err(|error| format!("open {} again: {error}", path.display()))?;
            let at = random.below(bytes.len().max(1) as u64);
            for file in [file, &again] {
                let mut buffer = [0; 4096];
                let read = file.read_at(&mut buffer, at).map_err(|error| format!("{}: {error}", path.display()))?;
                if buffer[..read] != bytes[at as usize..][..read] {
                    return Err(format!("{} at {at}: other bytes", path.display()));
                }
            }
        }
        Ok(())
    }
}
