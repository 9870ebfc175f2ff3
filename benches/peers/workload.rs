//! The workloads on a tree: walk, read, stat, open. They run in this program by plain system calls, so that neither the start
//! of an interpreter nor a library affects the figures.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};

/// Bytes of a reader's buffer, as in `cat`.
const BUFFER: usize = 128 << 10;

/// A workload that can be run alone.
#[derive(Clone, Copy, ValueEnum)]
pub enum Name {
    /// List every directory and stat every entry.
    Walk,
    /// Open, read and close every file.
    Read,
    /// Stat every path, from four threads.
    Stat,
    /// Open, read 4 KiB, close.
    Open,
}

/// Runs `name` over `directory` once and prints its time.
pub fn run_by_name(name: Name, directory: &Path) -> anyhow::Result<()> {
    let (_, files) = walk(directory)?;
    let begin = Instant::now();
    match name {
        Name::Walk => {
            let (entries, _) = walk(directory)?;
            println!("{entries} entries in {:?}", begin.elapsed());
        }
        Name::Read => {
            let bytes = read_all(directory)?;
            println!("{} files, {bytes} bytes in {:?}", files.len(), begin.elapsed());
        }
        Name::Stat => println!("{:.0} calls a second", stat_four_ways(&files)?),
        Name::Open => println!("{:?} for each", open_read_close(&files)?),
    }
    Ok(())
}

/// Lists every directory and stats every entry, in the order of the listing. Returns the number of entries and the paths of
/// regular files.
pub fn walk(root: &Path) -> anyhow::Result<(usize, Vec<PathBuf>)> {
    let mut files = Vec::new();
    let mut entries = 0;
    visit(root, &mut |_, path, kind| {
        entries += 1;
        if kind == FileType::RegularFile {
            files.push(path);
        }
        Ok(())
    })?;
    Ok((entries, files))
}

/// Returns the time of one walk.
pub fn time_walk(root: &Path) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let mut entries = 0;
    let mut pending = vec![open_directory(CWD, root)?];
    let mut children = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            if is_dot(entry.file_name()) {
                continue;
            }
            let stat = statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            entries += 1;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                children.push(open_directory(directory.as_fd(), entry.file_name())?);
            }
        }
        pending.append(&mut children);
    }
    anyhow::ensure!(entries > 0, "{} is empty", root.display());
    Ok(begin.elapsed())
}

/// Opens, reads to the end and closes every regular file, in the order of the listing. Returns the bytes.
pub fn read_all(root: &Path) -> anyhow::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut bytes = 0;
    visit(root, &mut |directory, path, kind| {
        if kind == FileType::RegularFile {
            let name = path.file_name().expect("entries have names");
            let file = openat(directory, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .with_context(|| format!("open {}", path.display()))?;
            loop {
                let read =
                    rustix::io::read(&file, &mut buffer[..]).with_context(|| format!("read {}", path.display()))?;
                bytes += read as u64;
                if read == 0 {
                    break;
                }
            }
        }
        Ok(())
    })?;
    Ok(bytes)
}

/// Returns the time of reading everything.
pub fn time_read_all(root: &Path) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    read_all(root)?;
    Ok(begin.elapsed())
}

/// Stats every path from the root, four threads each their whole list. Returns the calls a second of all.
pub fn stat_four_ways(files: &[PathBuf]) -> anyhow::Result<f64> {
    const THREADS: usize = 4;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                scope.spawn(move || {
                    let start = files.len() / THREADS * number;
                    files[start..]
                        .iter()
                        .chain(&files[..start])
                        .try_for_each(|path| statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map(drop))
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("stat does not panic"))
    })?;
    Ok((files.len() * THREADS) as f64 / begin.elapsed().as_secs_f64())
}

/// Opens, reads 4 KiB of and closes a thousand files, twenty times. Returns the time for each.
pub fn open_read_close(files: &[PathBuf]) -> anyhow::Result<Duration> {
    const FILES: usize = 1000;
    const REPETITIONS: u32 = 20;
    let step = (files.len() / FILES).max(1);
    let chosen: Vec<&PathBuf> = files.iter().step_by(step).take(FILES).collect();
    let mut buffer = [0; 4096];
    let mut turn = || -> anyhow::Result<()> {
        for path in &chosen {
            let file = openat(CWD, path.as_path(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::read(&file, &mut buffer[..])?;
        }
        Ok(())
    };
    turn()?;
    let begin = Instant::now();
    for _ in 0..REPETITIONS {
        turn()?;
    }
    Ok(begin.elapsed() / (REPETITIONS * u32::try_from(chosen.len()).expect("a thousand")))
}

/// Returns the largest files, for `fio`.
pub fn largest(files: &[PathBuf], count: usize) -> anyhow::Result<Vec<PathBuf>> {
    let mut sized = Vec::with_capacity(files.len());
    for path in files {
        sized.push((std::fs::symlink_metadata(path)?.len(), path));
    }
    sized.sort_by(|a, b| b.cmp(a));
    Ok(sized.into_iter().take(count).map(|(_, path)| path.clone()).collect())
}

fn visit(
    root: &Path,
    each: &mut dyn FnMut(BorrowedFd<'_>, PathBuf, FileType) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let directory = open_directory(CWD, &path)?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            if is_dot(entry.file_name()) {
                continue;
            }
            let stat = statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            let child = path.join(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()));
            if kind == FileType::Directory {
                pending.push(child.clone());
            }
            each(directory.as_fd(), child, kind)?;
        }
    }
    Ok(())
}

fn open_directory(at: BorrowedFd<'_>, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
