//! Generated archives are read as GNU tar, bsdtar and Python read them: where these agree, the result is the same.
//!
//! Needs GNU tar, bsdtar and Python. As root, owners, devices and special bits are compared, too.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use sapwood::image::Tree;

use super::archive::{Fixture, chain, checksum, is_root, lines, pax};

/// Reads the archives whose names come on standard input, and prints for each whether it is whole.
const PYTHON: &str = r"
import sys, tarfile
for line in sys.stdin:
    try:
        with tarfile.open(line.rstrip('\n'), 'r:', errorlevel=2) as archive:
            for member in archive:
                source = archive.extractfile(member) if member.isreg() else None
                while source and source.read(1 << 20):
                    pass
        print('whole', flush=True)
    except Exception as error:
        print('refused', flush=True)
";

/// A sequence of numbers that look random and are the same in every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end as u64).expect("below usize")
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Gnu,
    Pax,
}

/// Writes a number in octal digits, or in base 256 where it does not fit and the format has that.
fn number(field: &mut [u8], value: i64, format: Format) {
    let digits = field.len() - 1;
    if value >= 0 && value < 1_i64.checked_shl(3 * digits as u32).unwrap_or(i64::MAX) {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    } else if format == Format::Gnu {
        let bytes = i128::from(value).to_be_bytes();
        let length = field.len();
        field.copy_from_slice(&bytes[16 - length..]);
        field[0] |= 0x80;
    }
}

/// Returns a member with everything before it that its format needs.
#[expect(clippy::too_many_arguments, reason = "the fields of a header")]
fn member(
    format: Format,
    kind: u8,
    path: &[u8],
    link: &[u8],
    data: &[u8],
    mode: i64,
    owner: [i64; 2],
    mtime: i64,
    device: [i64; 2],
) -> Vec<u8> {
    let mut before = Vec::new();
    let mut records: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, long, key) in [(path, b'L', "path"), (link, b'K', "linkpath")] {
        if name.len() > 100 && format == Format::Gnu {
            before.extend(member(format, long, b"././@LongLink", b"", &[name, b"\0"].concat(), 0, [0; 2], 0, [0; 2]));
        } else if name.len() > 100 && format == Format::Pax {
            records.push((key, name.to_vec()));
        }
    }
    if format == Format::Pax {
        let fields = [("uid", owner[0], 1 << 21), ("gid", owner[1], 1 << 21), ("mtime", mtime, 1 << 33)];
        for (key, value, limit) in fields {
            if !(0..limit).contains(&value) {
                records.push((key, value.to_string().into_bytes()));
            }
        }
        if mtime % 3 == 1 {
            records.push(("mtime", format!("{mtime}.125").into_bytes()));
        }
        if !records.is_empty() {
            let borrowed: Vec<(&str, &[u8])> = records.iter().map(|(key, value)| (*key, &value[..])).collect();
            before.extend(pax(&borrowed));
        }
    }
    let mut block = vec![0; 512];
    let copy = |field: &mut [u8], bytes: &[u8]| {
        let length = bytes.len().min(field.len());
        field[..length].copy_from_slice(&bytes[..length]);
    };
    match path.iter().take(155).rposition(|byte| *byte == b'/') {
        Some(slash) if path.len() > 100 && format == Format::Ustar => {
            copy(&mut block[345..500], &path[..slash]);
            copy(&mut block[..100], &path[slash + 1..]);
        }
        _ => copy(&mut block[..100], path),
    }
    number(&mut block[100..108], mode, format);
    number(&mut block[108..116], owner[0], format);
    number(&mut block[116..124], owner[1], format);
    number(&mut block[124..136], data.len() as i64, format);
    number(&mut block[136..148], mtime, format);
    block[156] = kind;
    copy(&mut block[157..257], link);
    match format {
        Format::V7 => {}
        Format::Gnu => block[257..265].copy_from_slice(b"ustar  \0"),
        Format::Ustar | Format::Pax => block[257..265].copy_from_slice(b"ustar\x0000"),
    }
    if matches!(kind, b'3' | b'4') {
        number(&mut block[329..337], device[0], format);
        number(&mut block[337..345], device[1], format);
    }
    checksum(&mut block);
    before.extend_from_slice(&block);
    before.extend_from_slice(data);
    before.resize(before.len().next_multiple_of(512), 0);
    before
}

/// Returns an archive of a few members, with an end of some kind, and perhaps damaged.
fn generate(numbers: &mut Numbers) -> Vec<u8> {
    let format = numbers.pick(&[Format::V7, Format::Ustar, Format::Gnu, Format::Pax]);
    let long = format!("{}/{}", "d".repeat(60), "l".repeat(90));
    let names =
        ["a", "b", "c", "dir/x", "dir/y", "dir/sub/z", "./a", "dir/./w", "\u{e4}", "sp ace", "new\nline", &long];
    let mut bytes = Vec::new();
    let mut files: Vec<&str> = Vec::new();
    let directory =
        |path: &str, mode, mtime| member(format, b'5', path.as_bytes(), b"", b"", mode, [0, 0], mtime, [0; 2]);
    // Each program gives the root and directories that are not in the archive what it likes.
    for path in ["./", "dir/", "dir/sub/", &long[..61]] {
        let path = if format == Format::V7 && path.len() > 60 { "other/" } else { path };
        bytes.extend(match format {
            Format::V7 => member(format, 0, path.as_bytes(), b"", b"", 0o755, [0, 0], 7, [0; 2]),
            _ => directory(path, 0o755, 7),
        });
    }
    for _ in 0..=numbers.below(8) {
        let fits = |name: &&str| name.len() <= 100 || format != Format::V7;
        let name = *Some(&names[numbers.below(names.len())]).filter(|name| fits(name)).unwrap_or(&"a");
        let kinds: &[u8] = if format == Format::V7 { b"0\x0012" } else { b"0\x0012345670" };
        let kind = numbers.pick(kinds);
        let length = if matches!(kind, b'0' | 0 | b'7') { numbers.pick(&[0, 1, 511, 512, 513, 5000]) } else { 0 };
        let data = vec![b'a' + numbers.below(26) as u8; length];
        let link = match kind {
            b'1' if files.is_empty() => continue,
            b'1' => numbers.pick(&files),
            b'2' => numbers.pick(&["a", "../b", "/etc/none", "dir"]),
            _ => "",
        };
        let is_own = |link: &str| link.trim_start_matches("./") == name.trim_start_matches("./");
        if kind == b'1' && is_own(link) {
            continue;
        }
        let mode = numbers.pick(&[0o644, 0o755, 0o4755, 0o2750, 0o1777, 0o0, 0o100_644]);
        let large = if matches!(format, Format::Gnu | Format::Pax) { u32::MAX.into() } else { 0o7_777_777 };
        let owner = [numbers.pick(&[0, 1, 1000, 65_534, 0o7_777_777, large - 1]), numbers.pick(&[0, 5, 0o7_777_776])];
        let early = if matches!(format, Format::Gnu | Format::Pax) { -5 } else { 5 };
        let mtime = numbers.pick(&[0, 1, 1_000_000_000, early, (1 << 33) - 1, 4_294_967_296]);
        let device = [numbers.pick(&[0, 1, 8, 259]), numbers.pick(&[0, 1, 255, 4097])];
        bytes.extend(member(format, kind, name.as_bytes(), link.as_bytes(), &data, mode, owner, mtime, device));
        if matches!(kind, b'0' | 0 | b'7') {
            files.push(name);
        }
    }
    finish(bytes, numbers)
}

/// Ends an archive in one of the ways that occur, or cuts or damages it.
fn finish(mut bytes: Vec<u8>, numbers: &mut Numbers) -> Vec<u8> {
    let whole = bytes.len();
    match numbers.below(12) {
        0 => {}
        1 => bytes.resize(whole + 512, 0),
        2 => bytes.resize((whole + 1024).next_multiple_of(10_240), 0),
        3 => {
            bytes.resize(whole + 1024, 0);
            bytes.extend_from_slice(b"garbage after the end");
        }
        4 => bytes.truncate(numbers.below(whole)),
        5 => bytes.truncate(whole / 512 * 512 - 512 * numbers.below(3)),
        6 => {
            let at = numbers.below(whole);
            bytes[at] ^= 1 << numbers.below(8);
            bytes.resize(whole + 1024, 0);
        }
        _ => bytes.resize(whole + 1024, 0),
    }
    bytes
}

/// Unpacks an archive with another program; returns its tree if the program finds nothing wrong.
fn unpacked_by(fixture: &Fixture, program: &str, archive: &Path, target: &Path) -> Option<Vec<String>> {
    fs::create_dir(target).expect("a new name");
    let mut command = Command::new(program);
    command.arg("-xpf").arg(archive).arg("-C").arg(target).env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
    if program == "tar" {
        // Otherwise a number is looked up by its name, and times of directories are set too early.
        command.args(["--numeric-owner", "--delay-directory-restore", "--xattrs", "--acls"]);
    } else {
        command.arg("--numeric-owner");
    }
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    // GNU tar warns of times in the future and of lone zero blocks, and ends with 0.
    output.status.success().then(|| below_root(&fixture.import(target)))
}

/// Returns the lines of a tree without its root, which bsdtar leaves as it finds it.
fn below_root(tree: &Tree) -> Vec<String> {
    lines(tree).into_iter().filter(|line| !line.starts_with("/ =/ ")).collect()
}

fn compare(count: usize, seed: u64) {
    let fixture = Fixture::new();
    let mut numbers = Numbers(seed);
    let archives: Vec<_> = (0..count)
        .map(|index| {
            let (path, bytes) = (fixture.path(&format!("{index}.tar")), generate(&mut numbers));
            fs::write(&path, &bytes).expect("room");
            (path, bytes)
        })
        .collect();
    let mut python = Command::new("python3")
        .args(["-c", PYTHON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python");
    let list: String = archives.iter().map(|(path, _)| format!("{}\n", path.display())).collect();
    let mut input = python.stdin.take().expect("a pipe");
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut input, list.as_bytes()));
    let verdicts = python.wait_with_output().expect("it ends").stdout;
    writing.join().expect("no panic").expect("Python reads");
    let verdicts = String::from_utf8(verdicts).expect("text");
    let (mut taken, mut refused) = (0, 0);
    for (index, ((path, bytes), verdict)) in archives.iter().zip(verdicts.lines()).enumerate() {
        let gnu = unpacked_by(&fixture, "tar", path, &fixture.path(&format!("gnu{index}")));
        let bsd = unpacked_by(&fixture, "bsdtar", path, &fixture.path(&format!("bsd{index}")));
        let ours = fixture.untar(bytes);
        let kept = || {
            let copy = std::env::temp_dir().join(format!("sapwood-archive-{seed:x}-{index}.tar"));
            fs::write(&copy, bytes).expect("room");
            copy.display().to_string()
        };
        match (gnu, bsd, verdict, ours) {
            (Some(gnu), Some(bsd), "whole", ours) if gnu == bsd => {
                let tree = ours.unwrap_or_else(|error| panic!("{}: {}", kept(), chain(&error)));
                let found = below_root(&tree);
                let only = |these: &[String], those: &[String]| {
                    these.iter().filter(|line| !those.contains(line)).cloned().collect::<Vec<_>>().join("\n")
                };
                assert!(found == gnu, "{}:\nours:\n{}\ntheirs:\n{}", kept(), only(&found, &gnu), only(&gnu, &found));
                taken += 1;
            }
            (None, None, "refused", ours) => {
                assert!(ours.is_err(), "{}: taken, while all others refuse it", kept());
                refused += 1;
            }
            _ => {}
        }
    }
    println!("{count} archives: {taken} taken by all, {refused} refused by all");
    assert!(
        taken * 3 > count && refused > 0,
        "{taken} taken, {refused} refused of {count}: the archives compare too little"
    );
}

#[test]
fn generated_archives_are_read_as_by_three_other_programs() {
    if is_root() {
        compare(160, 0x5a9_4001);
    }
}

#[test]
#[ignore = "thousands of archives: tests/run --long archives"]
fn many_generated_archives_are_read_as_by_other_programs() {
    (1..=20).for_each(|seed| compare(500, seed * 0x9e37_79b9));
}
