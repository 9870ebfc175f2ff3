//! Trees to commit: one with every edge case, one wide, one deep, one with a huge file, and a real Debian root.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat, utimensat,
};

use super::sandbox::run;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Sizes at which some layer behaves differently: pages, packs, blocks, large objects.
const SIZES: &[usize] = &[
    0,
    1,
    4 * KIB - 1,
    4 * KIB,
    4 * KIB + 1,
    64 * KIB - 1,
    64 * KIB,
    64 * KIB + 1,
    256 * KIB - 1,
    256 * KIB,
    256 * KIB + 1,
    MIB - 1,
    MIB,
    MIB + 1,
    MIB + 256 * KIB,
    3 * MIB + 17,
];

/// Returns incompressible bytes that differ for each seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Makes a tree at `root` with at least one of everything that a Unix filesystem can hold and a program can get wrong. Needs
/// root, and a file system with extended attributes and ACLs.
pub fn nasty(root: &Path) {
    fs::create_dir_all(root).expect("the sandbox is writable");
    sizes(&dir(root, "sizes"));
    kinds(&dir(root, "kinds"));
    names(&dir(root, "names"));
    owners_and_modes(&dir(root, "modes"));
    links(&dir(root, "links"));
    sparse(&dir(root, "sparse"));
    attributes(&dir(root, "attributes"));
    symlinks(&dir(root, "symlinks"));
    depth(&dir(root, "depth"), 1000);
    dir(root, "empty directory");
    times(root);
}

fn dir(parent: &Path, name: impl AsRef<Path>) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

fn file(parent: &Path, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
    let path = parent.join(name);
    fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

fn sizes(at: &Path) {
    for (seed, &size) in SIZES.iter().enumerate() {
        file(at, format!("noise-{size}"), noise(seed as u64, size));
        file(at, format!("zeros-{size}"), vec![0; size]);
    }
    file(at, "copy-of-noise-1048577", fs::read(at.join("noise-1048577")).expect("just written"));
}

fn kinds(at: &Path) {
    node(&at.join("fifo"), FileType::Fifo, 0);
    node(&at.join("null"), FileType::CharacterDevice, makedev(1, 3));
    node(&at.join("loop7"), FileType::BlockDevice, makedev(7, 7));
    // Numbers that do not fit the former 8 + 8 bits: majors have 12 bits, minors 20.
    node(&at.join("large numbers"), FileType::CharacterDevice, makedev(4095, 1_048_575));
    node(&at.join("zero numbers"), FileType::CharacterDevice, makedev(0, 0));
    drop(UnixListener::bind(at.join("socket")).expect("the sandbox's path is short enough for a socket"));
    file(at, "file", "content");
    dir(at, "directory");
}

fn node(path: &Path, kind: FileType, device: u64) {
    let made = mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device);
    made.unwrap_or_else(|error| panic!("{}: {error}: making nodes needs CAP_MKNOD", path.display()));
}

fn names(at: &Path) {
    let long = "n".repeat(255);
    let multi = format!("{}a", "ж".repeat(127));
    let names: Vec<&[u8]> = vec![
        long.as_bytes(),
        multi.as_bytes(),
        b"not \xFF\xFE UTF-8 \x80",
        b"new\nline",
        b"carriage\rreturn",
        b"tab\tbell\x07escape\x1b[31m",
        b"-n",
        b"--repo",
        b" leading and trailing ",
        b"'quotes' \"double\" `back`",
        b"back\\slash",
        b"$(echo no) ; * ? [a-z] ~ # % & |",
        b"...",
        b"..two dots first",
        b".hidden",
        b"A",
        b"\xC3\x85",
        b"A\xCC\x8A",
        b"\x01",
        b"\xFF",
        // Sorted by bytes, `a.b` and `a-b` are between `a` and what is below `a`.
        b"a-b",
        b"a.b",
        b"a0",
        b".wh.whiteout",
        b"user.name=value",
        b"com1",
        b"lost+found",
    ];
    for name in names {
        file(at, OsStr::from_bytes(name), name);
    }
    file(&dir(at, "a"), "b", "below a");
    file(&dir(at, OsStr::from_bytes(&[b'd'; 255])), OsStr::from_bytes(&[0xE9; 255]), "long below long");
}

fn owners_and_modes(at: &Path) {
    for mode in [0o000, 0o001, 0o111, 0o200, 0o400, 0o600, 0o644, 0o755, 0o777, 0o1644, 0o2755, 0o4755, 0o6711, 0o7777]
    {
        set_mode(&file(at, format!("file-{mode:04o}"), "x"), mode);
        let directory = dir(at, format!("directory-{mode:04o}"));
        file(&directory, "inside", "y");
        set_mode(&directory, mode);
    }
    for (uid, gid) in [(1, 2), (65_534, 65_535), (65_536, 65_537), (2_097_152, 3), (4_294_967_294, 4_294_967_294)] {
        let owned = [file(at, format!("file-{uid}-{gid}"), "x"), dir(at, format!("directory-{uid}-{gid}"))];
        let link = at.join(format!("link-{uid}-{gid}"));
        symlink("x", &link).expect("the sandbox is writable");
        for path in owned.iter().chain([&link]) {
            lchown(path, Some(uid), Some(gid)).expect("root may give away");
        }
    }
    // chown clears set-uid, so the mode is set after it.
    let given = file(at, "set-uid of another", "x");
    lchown(&given, Some(1234), Some(5678)).expect("root may give away");
    set_mode(&given, 0o6755);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may change modes");
}

fn links(at: &Path) {
    let (here, there) = (dir(at, "here"), dir(at, "there"));
    let hard = |from: &Path, to: PathBuf| fs::hard_link(from, to).expect("links within one file system");
    let one = file(&here, "one", noise(900, 5000));
    hard(&one, here.join("two"));
    hard(&one, there.join("three"));
    // Another inode with the same content: a difference that only the link count shows.
    file(&here, "one's double", noise(900, 5000));
    let large = file(&there, "large", noise(901, 2 * MIB));
    hard(&large, here.join("0 sorts before large"));
    let empty = file(&here, "empty", "");
    hard(&empty, there.join("empty too"));
    let link = here.join("symlink");
    symlink("one", &link).expect("the sandbox is writable");
    hard(&link, there.join("the same symlink"));
    node(&here.join("fifo"), FileType::Fifo, 0);
    hard(&here.join("fifo"), there.join("fifo"));
    node(&here.join("device"), FileType::CharacterDevice, makedev(1, 5));
    hard(&here.join("device"), there.join("device"));
    let many = file(&here, "many", "names");
    for number in 0..300 {
        hard(&many, there.join(format!("many-{number:03}")));
    }
}

fn sparse(at: &Path) {
    let pattern = |name: &str, length: u64, data: &[(u64, usize)]| {
        let file = File::create(at.join(name)).expect("the sandbox is writable");
        file.set_len(length).expect("sparse files cost nothing");
        for &(offset, size) in data {
            file.write_all_at(&noise(offset + 1, size), offset).expect("the sandbox has room");
        }
    };
    let mib = MIB as u64;
    pattern("all hole", 10 * mib, &[]);
    pattern("all hole, odd", 10 * mib + 123, &[]);
    pattern("one page of hole", 4096, &[]);
    pattern("leading", 8 * mib, &[(7 * mib, MIB)]);
    pattern("trailing", 8 * mib, &[(0, MIB)]);
    pattern("middle", 8 * mib, &[(0, 4096), (8 * mib - 4096, 4096)]);
    pattern("comb", 4 * mib, &(0..64).map(|tooth| (tooth * 65_536, 4096)).collect::<Vec<_>>());
    pattern("small", 100_000, &[(65_536, 10)]);
    // The same bytes with and without holes are one object but two files.
    pattern("zeros written", mib, &[]);
    fs::write(at.join("zeros written, dense"), vec![0; MIB]).expect("the sandbox has room");
    // Zeros that were written inside data are data.
    let mut mixed = noise(77, 3 * MIB);
    mixed[MIB..2 * MIB].fill(0);
    file(at, "zeros inside, dense", mixed);
}

/// Makes a file over 4 GiB with data at its start, across the 4 GiB line and near its end.
pub fn huge(root: &Path) {
    fs::create_dir_all(root).expect("the sandbox is writable");
    let file = File::create(root.join("huge")).expect("the sandbox is writable");
    file.set_len((4 << 30) + (1 << 20) + 12_345).expect("the file system holds files over 4 GiB");
    for offset in [0, (4 << 30) - 4096, (4 << 30) + (1 << 20) - 65_536] {
        file.write_all_at(&noise(offset + 3, 8192), offset).expect("the sandbox has room");
    }
}

fn attributes(at: &Path) {
    let set = |path: &Path, name: &str, value: &[u8]| {
        let done = lsetxattr(path, name, value, XattrFlags::empty());
        done.unwrap_or_else(|error| panic!("{} on {}: {error}", name, path.display()));
    };
    let user = file(at, "user", "x");
    set(&user, "user.text", b"value");
    set(&user, "user.empty", b"");
    set(&user, "user.binary", b"\0\x01\xFF\n=\"\\\0");
    set(&user, &format!("user.{}", "n".repeat(250)), b"long name");
    for number in 0..20 {
        set(&file(at, format!("shared-{number}"), "x"), "user.shared", b"the same on twenty files");
    }
    long_attribute(&file(at, "long", "x"));

    let label = b"system_u:object_r:usr_t:s0\0";
    let every_kind =
        [file(at, "file", "x"), dir(at, "directory"), at.join("symlink"), at.join("fifo"), at.join("device")];
    symlink("nowhere", &every_kind[2]).expect("the sandbox is writable");
    node(&every_kind[3], FileType::Fifo, 0);
    node(&every_kind[4], FileType::CharacterDevice, makedev(1, 3));
    for path in &every_kind {
        set(path, "security.selinux", label);
        set(path, "trusted.sapwood", b"\x02trusted");
    }
    // CAP_NET_RAW, permitted and effective, revision 2: what `setcap cap_net_raw+ep` writes.
    set(&file(at, "capability", "x"), "security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0");

    let acl = |arguments: &[&str], path: &Path| {
        run("setfacl", arguments.iter().map(OsStr::new).chain([path.as_os_str()])).success();
    };
    acl(&["-m", "u:1000:rwx,g:70000:r,m::rx"], &file(at, "acl", "x"));
    let directory = dir(at, "default acl");
    acl(&["-m", "u:1001:rx,d:u:1002:rwx,d:g::r"], &directory);
    file(&directory, "inherits", "x");
}

/// Sets the longest value that this file system takes: 64 KiB is the kernel's limit, ext4 keeps all of a file's attributes in 4
/// KiB.
fn long_attribute(path: &Path) {
    let longest = (1..=64 * KIB)
        .rev()
        .step_by(64)
        .find(|&length| lsetxattr(path, "user.long", &noise(55, length), XattrFlags::empty()).is_ok());
    assert!(longest.is_some_and(|length| length > 1000), "no attribute of 1,000 bytes fits: {longest:?}");
}

fn symlinks(at: &Path) {
    let link = |name: &str, target: &[u8]| symlink(OsStr::from_bytes(target), at.join(name)).expect("symlinks");
    link("dangling", b"no/such/file");
    link("absolute", b"/etc/passwd");
    link("to itself", b"to itself");
    link("up", b"../../../../..");
    link("not UTF-8", b"\xFF\xFE\n");
    link("longest", &[b'l'; 4095]);
    link("60, the most that ext4 keeps in the inode, and one", &[b's'; 61]);
    for length in [59, 60, 100, 255, 256, 1023, 4094] {
        link(&format!("length {length}"), &vec![b't'; length]);
    }
}

/// Uses one-letter names, so that the last path fits `PATH_MAX` and tools reach it.
fn depth(at: &Path, levels: usize) {
    let deepest = at.join(vec!["d"; levels].join("/"));
    fs::create_dir_all(&deepest).expect("a path of 2,000 bytes is short enough");
    file(&deepest, "bottom", "here");
}

/// Gives every entry a time of its own, from the distant past to the distant future, with nanoseconds. Bottom up, and last of
/// all, since each change in a directory would set its time again.
fn times(root: &Path) {
    let listing = run("find", [root.as_os_str(), OsStr::new("-depth"), OsStr::new("-print0")]);
    assert!(listing.status.success(), "{}", listing.stderr);
    // Times that ext4 with 256-byte inodes can keep: 1901 to 2446.
    let special =
        [(-1, 999_999_999), (-2_000_000_000, 1), (0, 0), (0, 1), (4_294_967_296, 5), (15_000_000_000, 123_456_789)];
    for (number, path) in listing.stdout.split(|&b| b == 0).filter(|path| !path.is_empty()).enumerate() {
        let step = i64::try_from(number).expect("few entries");
        let (seconds, nanoseconds) =
            special.get(number % 50).copied().unwrap_or((1_600_000_000 + step, (step * 7_919_777) % 1_000_000_000));
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, OsStr::from_bytes(path), &times, AtFlags::SYMLINK_NOFOLLOW).expect("root may set times");
    }
}

/// Makes a directory with `entries` entries: most are empty files, some have content, some are directories.
pub fn wide(root: &Path, entries: usize) {
    fs::create_dir_all(root).expect("the sandbox is writable");
    for number in 0..entries {
        let path = root.join(format!("entry-{number:06}"));
        match number % 100 {
            0 => fs::create_dir(path),
            1 => symlink(format!("entry-{:06}", number / 2), path),
            2..10 => File::create(path).and_then(|mut file| write!(file, "content {number}")),
            _ => File::create(path).map(drop),
        }
        .expect("the sandbox is writable");
    }
}

/// Makes a tree that is quick to commit yet takes long enough to be interrupted: small files, some large ones.
pub fn medium(root: &Path, files: usize) {
    fs::create_dir_all(root).expect("the sandbox is writable");
    for number in 0..files {
        let directory = root.join(format!("{:02}", number % 40));
        fs::create_dir_all(&directory).expect("the sandbox is writable");
        let size = if number % 100 == 0 { 2 * MIB + number } else { 3000 + number };
        file(&directory, format!("file-{number}"), noise(number as u64 + 10_000, size));
    }
}

/// Returns the Debian root, and makes it first if it is missing (some minutes). All tests share it, so it must never be
/// changed.
pub fn debian_root() -> PathBuf {
    let maker = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/debian-root");
    let output = Command::new(&maker).stderr(std::process::Stdio::inherit()).output().expect("the maker can be run");
    assert!(output.status.success(), "{} failed", maker.display());
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
