//! Oracles: everything that the distribution's tools report about a tree, as values that can be compared.
//!
//! A fact is what one tool reports about one path. Two trees are the same when every tool reports the same about every path;
//! the first differences are printed with the tool's name. `rsync` compares two trees directly and is run last, since its
//! messages say the least.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Whence, lseek};
use sha2::{Digest as _, Sha256};

use super::sandbox::{finish, run};

/// Number of differences that are printed; the others are only counted.
const DIFFERENCES_SHOWN: usize = 20;

/// What is left out where a format cannot hold it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// Without sockets, which tar cannot hold.
    NoSockets,
}

type ByPath = BTreeMap<Vec<u8>, String>;

/// The facts about a tree.
pub struct Facts {
    tools: Vec<(&'static str, ByPath)>,
}

impl Facts {
    /// Runs every tool on `tree`, which must not change meanwhile.
    pub fn of(tree: &Path, scope_of_tree: Scope) -> Self {
        type Ask = fn(&Path, Scope) -> ByPath;
        let questions: [(&'static str, Ask); 7] = [
            ("find", inodes),
            ("stat (devices)", devices),
            ("find (hard links)", hard_links),
            ("getfattr", attributes),
            ("lseek (holes)", holes),
            ("b2sum", sums),
            ("tar", archive),
        ];
        // All at once: they are separate processes, and a mount has to serve several readers anyway.
        let tools = std::thread::scope(|scope| {
            let threads = questions.map(|(name, ask)| (name, scope.spawn(move || ask(tree, scope_of_tree))));
            let join = |(name, thread): (_, std::thread::ScopedJoinHandle<'_, ByPath>)| match thread.join() {
                Ok(found) => (name, found),
                Err(panic) => std::panic::resume_unwind(panic),
            };
            threads.into_iter().map(join).collect()
        });
        Self { tools }
    }

    /// Returns the number of entries of the tree, its root included.
    pub fn entries(&self) -> usize {
        self.tools[0].1.len()
    }

    /// Removes the facts of some tools.
    pub fn except(mut self, tools: &[&str]) -> Self {
        self.tools.retain(|(tool, _)| !tools.contains(tool));
        self
    }

    /// Fails with the first differences, tool by tool.
    #[track_caller]
    pub fn assert_same(&self, other: &Self, what: &str) {
        let report = self.report(other);
        assert!(report.is_empty(), "{what}:\n{report}");
    }

    /// Returns the first differences, tool by tool; an empty text if there are none.
    pub fn report(&self, other: &Self) -> String {
        let mut report = String::new();
        for ((tool, mine), (_, theirs)) in self.tools.iter().zip(&other.tools) {
            let differences = differences(mine, theirs);
            if !differences.is_empty() {
                let _ = writeln!(report, "{tool}: {} differences", differences.len());
                for line in differences.iter().take(DIFFERENCES_SHOWN) {
                    let _ = writeln!(report, "  {line}");
                }
            }
        }
        report
    }
}

/// Fails unless every tool reports the same about both trees.
#[track_caller]
pub fn assert_same_tree(expected: &Path, actual: &Path) {
    assert_same_tree_within(expected, actual, Scope::All);
}

/// Like [`assert_same_tree`], for a part of what a tree can hold.
#[track_caller]
pub fn assert_same_tree_within(expected: &Path, actual: &Path, scope: Scope) {
    let what = format!("{} and {} differ", expected.display(), actual.display());
    Facts::of(expected, scope).assert_same(&Facts::of(actual, scope), &what);
    assert_rsync_sees_no_difference(expected, actual, scope);
}

/// Fails if `rsync -nc -aHAX --delete` would copy or delete anything to make `actual` equal to `expected`.
#[track_caller]
pub fn assert_rsync_sees_no_difference(expected: &Path, actual: &Path, scope: Scope) {
    let mut command = Command::new("rsync");
    command.args(["-n", "-c", "-aHAX", "--delete", "--itemize-changes"]);
    if scope == Scope::NoSockets {
        command.args(["--no-specials"]);
    }
    command.arg(expected.join("")).arg(actual.join(""));
    let said = finish(command).success();
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("skipping non-regular")).collect();
    let shown = &lines[..lines.len().min(DIFFERENCES_SHOWN)];
    assert!(lines.is_empty(), "rsync would change {} things:\n{}", lines.len(), shown.join("\n"));
}

fn differences(mine: &ByPath, theirs: &ByPath) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, expected) in mine {
        let path_text = show(path);
        match theirs.get(path) {
            None => lines.push(format!("{path_text}: missing, expected {}", cut(expected))),
            Some(actual) if actual != expected => {
                lines.push(format!("{path_text}:\n      expected {}\n      found    {}", cut(expected), cut(actual)));
            }
            Some(_) => {}
        }
    }
    for (path, actual) in theirs.iter().filter(|(path, _)| !mine.contains_key(*path)) {
        lines.push(format!("{}: not expected at all, found {}", show(path), cut(actual)));
    }
    lines
}

fn show(path: &[u8]) -> String {
    cut(&path.escape_ascii().to_string())
}

fn cut(text: &str) -> String {
    if text.chars().count() <= 300 {
        return text.to_owned();
    }
    let count = text.chars().count();
    let (head, tail) = (text.chars().take(200), text.chars().skip(count - 80));
    format!("{}…{} ({count} characters)", head.collect::<String>(), tail.collect::<String>())
}

// -------------------------------------------------------------------------------------------------------- the tools

/// Runs a shell line in the tree, which prints pairs of path and fact, each ended by a NUL.
fn pairs(tree: &Path, line: &str) -> ByPath {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("set -euo pipefail; {line}")]).current_dir(tree);
    let run = finish(command);
    assert!(run.status.success(), "{line} in {}:\n{}", tree.display(), run.stderr);
    let fields: Vec<&[u8]> = run.stdout.split(|&b| b == 0).collect();
    let (pairs, rest) = fields.as_chunks::<2>();
    assert_eq!(rest, [b""], "{line} gave an odd number of fields");
    pairs.iter().map(|[path, fact]| (path.to_vec(), fact.escape_ascii().to_string())).collect()
}

/// Returns type, mode, owner, group, size, time in ns, links, target. Of directories neither size nor links, which each file
/// system counts in its own way.
fn inodes(tree: &Path, scope: Scope) -> ByPath {
    let without = if scope == Scope::NoSockets { "! -type s" } else { "" };
    let line = format!(
        r"find . {without} \( -type d -printf '%P\0%y %m %U %G %T@\0' -o -printf '%P\0%y %m %U %G %T@ size %s links %n -> %l\0' \)"
    );
    pairs(tree, &line)
}

fn devices(tree: &Path, _: Scope) -> ByPath {
    pairs(tree, r"find . \( -type b -o -type c \) -exec stat --printf '%n\0%t:%T\0' {} +")
}

/// Returns for each path with more than one name the first of its names: equal when the same names are the same file.
fn hard_links(tree: &Path, _: Scope) -> ByPath {
    let numbers = pairs(tree, r"find . ! -type d -links +1 -printf '%P\0%i\0'");
    let mut first = BTreeMap::<&String, &Vec<u8>>::new();
    for (path, number) in &numbers {
        first.entry(number).or_insert(path);
    }
    numbers.iter().map(|(path, number)| (path.clone(), first[number].escape_ascii().to_string())).collect()
}

/// Returns all extended attributes in all namespaces, of all kinds of inodes. They are sorted, since their order depends on the
/// file system.
fn attributes(tree: &Path, _: Scope) -> ByPath {
    let mut command = Command::new("getfattr");
    command.args(["-d", "-m", "-", "-R", "-P", "-h", "-e", "hex", "--absolute-names", "."]).current_dir(tree);
    let run = finish(command);
    // getfattr writes to stderr and exits 1 when it could not read some attribute.
    assert!(run.status.success() && run.stderr.is_empty(), "getfattr in {}:\n{}", tree.display(), run.stderr);
    let mut found = ByPath::new();
    for block in run.text().split("\n\n").filter(|block| !block.is_empty()) {
        let (name, values) = block.split_once('\n').unwrap_or((block, ""));
        let mut values: Vec<&str> = values.lines().collect();
        values.sort_unstable();
        found.insert(name.as_bytes().to_vec(), values.join(" "));
    }
    found
}

fn sums(tree: &Path, _: Scope) -> ByPath {
    // Three times as fast as sha256sum, and as good here. `b2sum -z` writes "digest, two blanks, path, NUL".
    let mut command = Command::new("bash");
    command.args(["-c", "set -o pipefail; find . -type f -print0 | xargs -0 -r -n 2000 b2sum -z --"]).current_dir(tree);
    let run = finish(command);
    assert!(run.status.success(), "b2sum in {}:\n{}", tree.display(), run.stderr);
    let lines = run.stdout.split(|&b| b == 0).filter(|line| !line.is_empty());
    lines.map(|line| (line[130..].to_vec(), String::from_utf8_lossy(&line[..128]).into_owned())).collect()
}

/// Returns where data is in each file with holes: `SEEK_DATA` and `SEEK_HOLE` from end to end.
fn holes(tree: &Path, _: Scope) -> ByPath {
    let mut found = ByPath::new();
    for path in pairs(tree, r"find . -type f -size +0 -printf '%p\0\0'").into_keys() {
        use std::os::unix::ffi::OsStrExt as _;
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(tree.join(std::ffi::OsStr::from_bytes(&path)))
            .unwrap_or_else(|error| panic!("{}: {error}", show(&path)));
        let size = file.metadata().expect("open files have metadata").size().cast_signed();
        let mut segments = Vec::new();
        let mut offset = 0;
        // ENXIO: no data behind this offset.
        while let Ok(data) = lseek(&file, offset, Whence::SeekData) {
            offset = lseek(&file, data, Whence::SeekHole).expect("a hole, if only the end, follows all data");
            segments.push(format!("{data}..{offset}"));
            if offset >= size {
                break;
            }
        }
        let dense = format!("0..{size}");
        if segments != [dense] {
            found.insert(path, format!("data at {}", segments.join(" ")));
        }
    }
    found
}

// ------------------------------------------------------------------------------------------------------- tar streams

const BLOCK: usize = 512;

/// Returns the stream that GNU tar makes of the tree, entry by entry: the fields of the header, the sorted records of the
/// extended header, and a digest of the content.
fn archive(tree: &Path, _: Scope) -> ByPath {
    let mut command = Command::new("tar");
    command.args([
        "--create",
        "--sparse",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--sort=name",
        "--format=posix",
        "--numeric-owner",
    ]);
    // atime and ctime depend on the file system, and so does the name that tar gives to the extended header.
    command.args(["--pax-option=delete=atime,delete=ctime,exthdr.name=%d/x/%f", "--warning=no-file-ignored", "."]);
    let mut child =
        command.current_dir(tree).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tar exists");
    let stream = BufReader::with_capacity(1 << 20, child.stdout.take().expect("piped"));
    // Its few lines of warnings fit the pipe, so it cannot block on them.
    let entries = read_archive(stream);
    let output = child.wait_with_output().expect("a child can be waited for");
    assert!(output.status.success(), "tar of {}:\n{}", tree.display(), String::from_utf8_lossy(&output.stderr));
    entries
}

fn read_archive(mut stream: impl Read) -> ByPath {
    let mut entries = ByPath::new();
    let mut records: Vec<Vec<u8>> = Vec::new();
    let mut header = [0u8; BLOCK];
    loop {
        stream.read_exact(&mut header).expect("tar ends with blocks of zeros");
        if header == [0; BLOCK] {
            // The rest must be read, or tar dies of SIGPIPE.
            std::io::copy(&mut stream, &mut std::io::sink()).expect("a pipe can be read");
            return entries;
        }
        let size = number(&header[124..136]);
        if header[156] == b'x' {
            records = pax_records(&content(&mut stream, size));
            continue;
        }
        // Sizes of 8 GiB or more do not fit the header's field: no test tree has such a *dense* file.
        let digest = digest(&mut stream, size);
        records.sort();
        let name = name(&header, &records);
        let mut fact = String::new();
        // mode, uid, gid, size, mtime | kind, link name | device numbers
        for range in [100..148, 156..257, 329..345] {
            let _ = write!(fact, "{} ", header[range].escape_ascii());
        }
        for record in records.drain(..) {
            let _ = write!(fact, "{} ", record.escape_ascii());
        }
        let _ = write!(fact, "{digest}");
        entries.insert(name, fact);
    }
}

/// Returns the entry's name: from the extended header if it is too long for this one. The header of a sparse file only has a
/// made-up name with tar's process number.
fn name(header: &[u8; BLOCK], records: &[Vec<u8>]) -> Vec<u8> {
    let named = |key: &[u8]| records.iter().find_map(|record| record.strip_prefix(key)).map(<[u8]>::to_vec);
    let until_nul = |field: &[u8]| field.split(|&b| b == 0).next().unwrap_or_default().to_vec();
    let short = || [until_nul(&header[345..500]), until_nul(&header[..100])].join(&b'/');
    named(b"GNU.sparse.name=").or_else(|| named(b"path=")).unwrap_or_else(short)
}

fn number(field: &[u8]) -> u64 {
    let text = field.iter().take_while(|b| b.is_ascii_digit()).map(|&b| char::from(b)).collect::<String>();
    u64::from_str_radix(&text, 8).expect("tar writes octal numbers")
}

fn content(stream: &mut impl Read, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size.next_multiple_of(BLOCK as u64)).expect("headers are small")];
    stream.read_exact(&mut bytes).expect("tar's stream is whole");
    bytes.truncate(usize::try_from(size).expect("headers are small"));
    bytes
}

fn digest(stream: &mut impl Read, size: u64) -> String {
    let mut hasher = Sha256::new();
    let mut left = size.next_multiple_of(BLOCK as u64);
    let mut buffer = vec![0; 1 << 18];
    while left > 0 {
        let part = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        stream.read_exact(&mut buffer[..part]).expect("tar's stream is whole");
        hasher.update(&buffer[..part]);
        left -= part as u64;
    }
    hasher.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}

/// Splits `LENGTH KEY=VALUE\n` records; values may contain newlines, so only the lengths separate them.
fn pax_records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let blank = bytes.iter().position(|&b| b == b' ').expect("a record starts with its length");
        let length: usize = std::str::from_utf8(&bytes[..blank]).expect("digits").parse().expect("digits");
        records.push(bytes[blank + 1..length].to_vec());
        bytes = &bytes[length..];
    }
    records
}

/// Fails unless the tools of this file are installed, by running each.
pub fn assert_tools() {
    for tool in ["find", "stat", "getfattr", "setfacl", "b2sum", "tar", "rsync"] {
        run(tool, ["--version"]).success();
    }
}
