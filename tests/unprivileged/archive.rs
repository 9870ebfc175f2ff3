//! Round trips of trees through tar archives and directories: the same files give the same image by every way, GNU tar reads
//! exported archives, and archives of GNU tar in every format are read.
//!
//! Needs GNU tar, rsync, setfacl and setfattr. As root, the trees have devices, owners and capabilities, too.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use sapwood::compose::source::{
    Exclusions, ImportOptions, ImportProgress, TarError, TarOptions, read_directory, read_tar,
};
use sapwood::disk::Wait;
use sapwood::export::{
    ExportOptions, ExportProgress, ExportReport, Fidelity, TargetContents, export_directory, export_tar,
};
use sapwood::image::{Image, Ino, NodeId, Tree, encode};
use sapwood::model::{Content, DeviceNumber, EntryName, Extent, Metadata, Node, NodeKind, Timestamp, Xattrs};
use sapwood::store::{Config, StatCache, Store, StoreWriter};
use sapwood::sys::Mapping;

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A repository and a temporary directory, both removed when dropped.
pub(super) struct Fixture {
    directory: tempfile::TempDir,
    writer: StoreWriter,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::init(&directory.path().join("repo"), &Config::default()).expect("an empty repository");
        let writer = store.writer(Wait::No).expect("no other writer");
        Self { directory, writer }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn import(&self, path: &Path) -> Tree {
        let options = ImportOptions {
            owner: None,
            one_filesystem: false,
            threads: 2,
            now: 0,
            exclusions: Exclusions::default(),
            mounted: None,
        };
        let progress = ImportProgress::default();
        read_directory(path, &self.writer, &StatCache::default(), &options, &progress).expect("readable").tree
    }

    pub(super) fn untar(&self, archive: &[u8]) -> Result<Tree, TarError> {
        read_tar(archive, &self.writer, TarOptions::default(), &ImportProgress::default())
    }

    /// Returns the image of a tree whose contents are in the repository.
    fn image(&self, tree: &Tree) -> Image {
        self.writer.flush().expect("room on disk");
        let encoded = encode(tree).expect("a legal tree");
        Image::open(Mapping::of_bytes(encoded.bytes)).expect("just made")
    }

    fn export_tar(&self, tree: &Tree) -> (Vec<u8>, ExportReport) {
        let image = self.image(tree);
        let mut bytes = Vec::new();
        let report = export_tar(&image, Ino::ROOT, self.writer.store(), &mut bytes, &ExportProgress::default());
        (bytes, report.expect("memory takes all"))
    }

    fn export(&self, tree: &Tree, name: &str) -> PathBuf {
        let target = self.path(name);
        let options = ExportOptions { fidelity: Fidelity::Required, ..ExportOptions::default() };
        let image = self.image(tree);
        let report =
            export_directory(&image, Ino::ROOT, self.writer.store(), &target, options, &ExportProgress::default())
                .unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(report.entries, u64::from(image.entries()));
        target
    }
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    output.stdout
}

fn shell(directory: &Path, script: &str) {
    run(Command::new("bash").arg("-euc").arg(script).current_dir(directory));
}

/// Returns one line for each name, so that differences can be read.
pub(super) fn lines(tree: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![(String::new(), tree.root())];
    while let Some((path, id)) = pending.pop() {
        let node = tree.node(id);
        lines.push(format!("{path}/ {id:?} {:?} {:?}", node.kind, node.metadata));
        for (name, child) in tree.children(id) {
            pending.push((format!("{path}/{name}"), child));
        }
    }
    // Handles depend on the order of entries; only the names that share one matter: print the first of them.
    lines.sort();
    let mut first_names = std::collections::HashMap::new();
    for line in &mut lines {
        let (path, rest) = line.split_once(" NodeId(").expect("printed above");
        let (id, rest) = rest.split_once(')').expect("printed above");
        let first = first_names.entry(id.to_owned()).or_insert_with(|| path.to_owned());
        *line = format!("{path} ={first}{rest}");
    }
    lines
}

#[track_caller]
fn assert_same(found: &Tree, expected: &Tree) {
    if encode(found).expect("legal").id == encode(expected).expect("legal").id {
        return;
    }
    let (found_lines, expected_lines) = (lines(found), lines(expected));
    let only = |these: &[String], those: &[String]| {
        let missing: Vec<String> = these.iter().filter(|line| !those.contains(line)).cloned().collect();
        missing.join("\n")
    };
    panic!("found:\n{}\nexpected:\n{}", only(&found_lines, &expected_lines), only(&expected_lines, &found_lines));
}

/// Makes every kind of file that has ever caused a fault.
fn make_nasty(top: &Path) {
    fs::create_dir(top).expect("free name");
    shell(
        top,
        r#"
        mkdir -p dir/sub empty links sparse 'a b'; echo hello > dir/file; echo x > dir/sub/deep; : > nothing
        printf '#!/bin/sh\n' > run; chmod 4755 run; chmod 1777 empty; chmod 2750 'a b'
        ln dir/file links/one; ln dir/file links/two; ln -s ../dir/file links/soft; ln links/soft links/soft-again
        ln -s "$(printf 'x%.0s' $(seq 200))" long-target; ln -s / root-link
        touch "$(printf 'n%.0s' $(seq 255))"; touch $'new\nline' $'tab\t' -- '-dash' $'\xff\xfe-not-utf8' '*' '%41=' 'ümlaut'
        touch "$(printf 'q%.0s' $(seq 180))"$'\xe4'
        long="$(printf 'p%.0s' $(seq 90))/$(printf 'p%.0s' $(seq 90))"; mkdir -p "$long"; touch "$long/file"
        mkfifo pipe; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("sock")'
        touch -d '1969-12-31 23:59:58.25 UTC' before; touch -d '2040-02-03 04:05:06.123456789 UTC' after
        touch -d '1901-12-14 00:00:00 UTC' long-ago; touch -d @1 one-second
        dd if=/dev/urandom of=large bs=1M count=3 status=none
        truncate -s 1M sparse/hole; truncate -s 3M sparse/middle
        dd if=/dev/urandom of=sparse/middle bs=4k seek=100 count=3 conv=notrunc status=none
        python3 -c 'import os; f = os.open("sparse/many", 65); [os.pwrite(f, b"x", i * 8192) for i in range(300)]'
        truncate -s 2500000 sparse/many; printf y | dd of=sparse/start bs=1 conv=notrunc status=none; truncate -s 70001 sparse/start
        printf z | dd of=sparse/end bs=1 seek=70000 conv=notrunc status=none
        setfattr -n user.text -v value dir/file; setfattr -n user.binary -v 0x000a3d0aff dir/file
        setfattr -n user.empty -v '' dir; setfattr -n 'user.a=b%c' -v 1 dir; setfattr -n user.long -v "$(printf 'v%.0s' $(seq 3000))" nothing
        setfacl -m u:12345:rwx,g:54321:r run; setfacl -d -m u:12345:rx,g::r dir/sub; setfacl -m u:0:r empty
        "#,
    );
    if is_root() {
        shell(
            top,
            r#"
            mknod null c 1 3; mknod disk b 259 1048575; chown 70000:4294967294 dir/file; chown 3000000:1 empty
            chown -h 5:6 links/soft; chown 7:8 run; chmod 6755 run
            setfattr -n trusted.secret -v 1 dir; setfattr -h -n trusted.link -v 1 root-link; setfattr -n trusted.node -v 1 pipe
            setcap cap_net_raw+ep large; setfattr -n security.selinux -v 'system_u:object_r:bin_t:s0' dir/sub/deep
            "#,
        );
    }
    shell(top, "touch -d '2021-05-06 07:08:09.5 UTC' . dir links 'a b'");
}

/// Adds directories deeper than any path: 300 with names of 100 bytes.
fn make_deep(top: &Path) {
    shell(
        top,
        r#"python3 - <<'END'
import os
for i in range(300):
    os.mkdir("d" * 100); os.chdir("d" * 100)
os.close(os.open("bottom", os.O_CREAT))
os.link("bottom", "bottom-again")
END"#,
    );
}

fn without_sockets(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    let name = EntryName::new(&b"sock"[..]).expect("legal");
    tree.remove(tree.root(), &name);
    tree
}

/// Returns what rsync, which compares everything but devices' contents, would have to change.
fn differences(from: &Path, to: &Path) -> String {
    let mut from = from.as_os_str().to_owned();
    from.push("/");
    let arguments = ["-nc", "-aHAX", "--delete", "--itemize-changes"];
    String::from_utf8_lossy(&run(Command::new("rsync").args(arguments).arg(from).arg(to))).into_owned()
}

fn tar(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("tar");
    run(command.arg("-C").arg(directory).args(arguments).args(["--warning=no-file-ignored", "-cf", "-", "."]))
}

#[test]
fn gnu_tar_archives_import_equal_to_the_directory() {
    let fixture = Fixture::new();
    let source = fixture.path("source");
    make_nasty(&source);
    make_deep(&source);
    let expected = without_sockets(&fixture.import(&source));
    for arguments in [
        &["--format=pax", "--xattrs", "--acls", "--sparse"][..],
        &["--format=pax", "--xattrs", "--acls", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--xattrs", "--acls", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--xattrs", "--acls", "--sparse", "--numeric-owner", "--sort=name", "--zstd"],
        &["--format=pax", "--xattrs", "--sparse", "--gzip"],
        &["--format=pax", "--xattrs", "--sparse", "--xz", "--no-acls"],
    ] {
        let tree =
            fixture.untar(&tar(&source, arguments)).unwrap_or_else(|error| panic!("{arguments:?}: {}", chain(&error)));
        assert_same(&tree, &expected);
    }
}

#[test]
fn gnu_and_ustar_formats_keep_what_they_can() {
    let fixture = Fixture::new();
    let source = fixture.path("source");
    make_nasty(&source);
    // These formats hold whole seconds and no attributes; ustar has no long names, large ids or sparse files.
    let remove_long =
        "rm -rf d* n* q* p* long-target; rm -rf sparse; chown -R 1:1 . 2>&- || true; touch -d @5 before long-ago after";
    shell(&source, r#"find . -exec touch -h -d @1600000000 {} +; touch -d '1950-01-01' before"#);
    for (arguments, prepare) in [
        (&["--format=gnu", "--sparse"][..], ""),
        (&["--format=ustar"], remove_long),
        (&["--format=v7"], "rm -f null disk pipe"),
    ] {
        shell(&source, prepare);
        shell(&source, "find . -exec touch -h -d @1600000000 {} +");
        let mut expected = without_sockets(&fixture.import(&source));
        clear_xattrs(&mut expected);
        let tree =
            fixture.untar(&tar(&source, arguments)).unwrap_or_else(|error| panic!("{arguments:?}: {}", chain(&error)));
        assert_same(&tree, &expected);
    }
}

fn clear_xattrs(tree: &mut Tree) {
    for id in all_nodes(tree) {
        tree.node_mut(id).metadata.xattrs = Xattrs::default();
    }
}

fn all_nodes(tree: &Tree) -> Vec<NodeId> {
    let mut nodes = vec![tree.root()];
    let mut done = 0;
    while done < nodes.len() {
        nodes.extend(tree.children(nodes[done]).map(|(_, id)| id).collect::<Vec<_>>());
        done += 1;
    }
    nodes
}

/// Adds entries that the file system of the test may not support.
fn add_edge_cases(tree: &mut Tree) {
    let mut add = |name: &[u8], metadata: Metadata, kind: NodeKind| {
        let name = EntryName::new(name).expect("legal");
        tree.insert(tree.root(), name, Node { metadata, kind }).expect("free name")
    };
    let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
    let metadata =
        Metadata { permissions: 0o7777, uid: u32::MAX - 1, gid: 1 << 31, mtime: time(-1, 1), ..Metadata::default() };
    let pipe = add(b"zz-pipe", metadata.clone(), NodeKind::Fifo);
    let long = vec![b't'; 4095];
    // Linux has one mode for all symbolic links.
    let link = add(b"zz-link", Metadata { permissions: 0o777, ..metadata.clone() }, NodeKind::Symlink(long.into()));
    let value: Vec<u8> = (0..=u8::MAX).cycle().take(65_536).collect();
    let pairs = (0..40).map(|index| (format!("user.{index}=%").into_bytes().into(), value.clone().into())).collect();
    let xattrs = Xattrs::new(pairs).expect("legal");
    add(b"zz-directory", Metadata { xattrs, mtime: time(1 << 40, 999_999_999), ..metadata }, NodeKind::Directory);
    for (name, target) in [(b"zz-a", pipe), (b"zz-b", link)] {
        tree.link(tree.root(), EntryName::new(&name[..]).expect("legal"), target).expect("free name");
    }
}

#[test]
fn exported_archives_import_equal_and_are_reproducible() {
    let fixture = Fixture::new();
    let source = fixture.path("source");
    make_nasty(&source);
    let mut tree = fixture.import(&source);
    add_edge_cases(&mut tree);
    let (bytes, report) = fixture.export_tar(&tree);
    assert_eq!((report.sockets_lost, report.is_complete()), (1, false));
    assert!(report.examples[0].contains("'./sock'"), "{report:?}");
    let tree = without_sockets(&tree);
    assert_same(&fixture.untar(&bytes).unwrap_or_else(|error| panic!("{}", chain(&error))), &tree);
    let (again, report) = fixture.export_tar(&tree);
    assert!(report.is_complete());
    assert!(again == bytes);
}

#[test]
fn gnu_tar_unpacks_exported_archives_exactly() {
    let fixture = Fixture::new();
    let source = fixture.path("source");
    make_nasty(&source);
    let (bytes, _) = fixture.export_tar(&fixture.import(&source));
    let (archive, target) = (fixture.path("archive.tar"), fixture.path("target"));
    fs::write(&archive, bytes).expect("room on disk");
    fs::create_dir(&target).expect("free name");
    let output = Command::new("tar")
        .args([
            "-x",
            "--warning=no-timestamp",
            "--xattrs",
            "--xattrs-include=*",
            "--acls",
            "--numeric-owner",
            "-p",
            "-C",
        ])
        .args([&target, Path::new("-f"), &archive])
        .output()
        .expect("tar runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(source.join("sock")).expect("made above");
    shell(&source, "touch -d '2021-05-06 07:08:09.5 UTC' .");
    assert_eq!(differences(&source, &target), "");
    assert_same(&fixture.import(&target), &fixture.import(&source));
}

#[test]
fn exported_directory_equals_the_imported_one() {
    let fixture = Fixture::new();
    let source = fixture.path("source");
    make_nasty(&source);
    if is_root() {
        shell(&source, "ln null links/null");
    }
    let tree = fixture.import(&source);
    let target = fixture.export(&tree, "target");
    assert_eq!(differences(&source, &target), "");
    assert_same(&fixture.import(&target), &tree);
}

#[test]
fn a_target_with_files_is_refused_or_merged() {
    let fixture = Fixture::new();
    let (source, target) = (fixture.path("source"), fixture.path("target"));
    fs::create_dir(&source).expect("free name");
    shell(
        &source,
        "mkdir -p dir kind; echo new > dir/file; echo 1 > soft; mkfifo pipe; ln -s x link; ln soft hard; chmod 555 dir",
    );
    let tree = fixture.import(&source);
    fs::create_dir(&target).expect("free name");
    let outside = fixture.path("outside");
    shell(
        fixture.directory.path(),
        "mkdir outside; echo safe > outside/file; cd target; mkdir dir; echo old > dir/file; echo kept > dir/other; setfacl -d -m u:5:rwx . dir; \
         ln -s ../outside/file soft; ln -s ../outside kind; echo > pipe; echo > link; echo > hard",
    );
    let image = fixture.image(&tree);
    let export = |contents| {
        let options = ExportOptions { contents, ..ExportOptions::default() };
        export_directory(&image, Ino::ROOT, fixture.writer.store(), &target, options, &ExportProgress::default())
    };
    assert!(export(TargetContents::Empty).is_err());
    assert_eq!(fs::read(target.join("dir/file")).expect("still there"), b"old\n");
    export(TargetContents::Any).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(fs::read(target.join("dir/other")).expect("kept"), b"kept\n");
    assert_eq!(fs::read(outside.join("file")).expect("untouched"), b"safe\n");
    fs::set_permissions(target.join("dir"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("owned by the test");
    fs::remove_file(target.join("dir/other")).expect("it exists");
    shell(&target, "chmod 555 dir; touch -r ../source/dir dir");
    assert_eq!(differences(&source, &target), "");
}

/// Returns metadata that any user may set.
fn own_metadata() -> Metadata {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Metadata { permissions: 0o755, uid, gid, ..Metadata::default() }
}

/// Makes a thousand nested directories, each with a file that has a second name one level down.
fn deep_tree(fixture: &Fixture, name_length: usize) -> Tree {
    let metadata = own_metadata();
    let mut tree = Tree::new(metadata.clone());
    let mut parent = tree.root();
    for depth in 0..1000_u64 {
        let mtime = Timestamp { seconds: depth.cast_signed(), nanoseconds: 7 };
        let node = Node { metadata: Metadata { mtime, ..metadata.clone() }, kind: NodeKind::Directory };
        let name = EntryName::new(vec![b'a' + (depth % 26) as u8; name_length]).expect("legal");
        let next = tree.insert(parent, name, node).expect("free name");
        let content = fixture.writer.put(8, &mut &depth.to_le_bytes()[..]).expect("room on disk");
        let node = Node { metadata: metadata.clone(), kind: NodeKind::Regular(content) };
        let file = tree.insert(parent, EntryName::new(&b"zz"[..]).expect("legal"), node).expect("free name");
        tree.link(next, EntryName::new(&b"again"[..]).expect("legal"), file).expect("free name");
        parent = next;
    }
    tree
}

#[test]
fn directories_a_thousand_levels_deep_round_trip() {
    let fixture = Fixture::new();
    let tree = deep_tree(&fixture, 60);
    let (bytes, _) = fixture.export_tar(&tree);
    assert_same(&fixture.untar(&bytes).unwrap_or_else(|error| panic!("{}", chain(&error))), &tree);
    // Far longer paths than PATH_MAX.
    let tree = deep_tree(&fixture, 255);
    let target = fixture.export(&tree, "target");
    assert_same(&fixture.import(&target), &tree);
    // `remove_dir_all` may fail at such a depth.
    shell(fixture.directory.path(), "rm -rf target");
}

#[test]
fn large_sparse_files_keep_their_holes() {
    let fixture = Fixture::new();
    let source = fixture.path("source");
    fs::create_dir(&source).expect("free name");
    let file = File::create(source.join("large")).expect("free name");
    // Over 4 GiB, little of it data.
    file.set_len(5 << 30).expect("sparse");
    for offset in [0, 1 << 20, (4 << 30) + 4096] {
        file.write_all_at(&[7; 5000], offset).expect("room on disk");
    }
    let tree = fixture.import(&source);
    let (bytes, _) = fixture.export_tar(&tree);
    assert!(bytes.len() < 100_000, "{}", bytes.len());
    assert_same(&fixture.untar(&bytes).expect("owned by the test"), &tree);
    let target = fixture.export(&tree, "target");
    assert_same(&fixture.import(&target), &tree);
}

#[test]
fn truncated_archives_fail_and_damaged_ones_do_not_panic() {
    let fixture = Fixture::new();
    let source = fixture.path("source");
    fs::create_dir(&source).expect("free name");
    shell(
        &source,
        r#"mkdir dir; echo hello > dir/file; ln dir/file link; truncate -s 100k hole; printf x | dd of=hole bs=1 seek=50000 conv=notrunc status=none
        ln -s "$(printf 'x%.0s' $(seq 200))" soft; setfattr -n user.x -v 1 dir/file; setfacl -m u:5:r dir/file; printf '%s' {1..300} > some"#,
    );
    for arguments in [&["--format=pax", "--xattrs", "--acls", "--sparse"][..], &["--format=gnu", "--sparse"]] {
        let whole = tar(&source, arguments);
        let end = whole.iter().rposition(|byte| *byte != 0).expect("not empty") + 1;
        let end = end.next_multiple_of(512);
        assert!(fixture.untar(&whole[..end + 512]).is_ok());
        let mut without_mark = 0;
        for length in (0..end).step_by(97).chain((512..end).step_by(512)) {
            let is_taken = fixture.untar(&whole[..length]).is_ok();
            if is_taken {
                // After a whole member, where the end mark is missing.
                assert!(gnu_tar_lists(&whole[..length]), "{length} of {end}");
                without_mark += 1;
            }
        }
        assert!(without_mark >= 6, "{without_mark}");
        for index in (0..end).step_by(7) {
            // A size with holes of some GiB is legal, but slow.
            if (483..495).contains(&(index % 512)) {
                continue;
            }
            let mut damaged = whole[..end + 1024].to_vec();
            damaged[index] ^= 1 << (index % 8);
            fix_checksums(&mut damaged, index);
            drop(fixture.untar(&damaged));
        }
    }
}

/// Returns whether GNU tar takes an archive for a whole one.
fn gnu_tar_lists(archive: &[u8]) -> bool {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(archive).expect("room");
    Command::new("tar").arg("-tf").arg(file.path()).output().expect("GNU tar").status.success()
}

/// Corrects the checksum of the block, so that the damage is not found by it.
fn fix_checksums(archive: &mut [u8], index: usize) {
    let block = &mut archive[index / 512 * 512..][..512];
    if &block[257..262] == b"ustar" && !(148..156).contains(&(index % 512)) {
        checksum(block);
    }
}

pub(super) fn checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Returns one archive member, made from its parts.
fn member(kind: u8, path: &[u8], link: &[u8], size: u64, data: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..path.len()].copy_from_slice(path);
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    checksum(&mut block);
    block.extend_from_slice(data);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

pub(super) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|length| length.to_string().len() + rest == *length).expect("some length fits");
        data.extend_from_slice(format!("{length} {key}=").as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    member(b'x', b"pax", b"", data.len() as u64, &data)
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = members.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

#[test]
fn hostile_archives_are_refused_with_the_entry_named() {
    let fixture = Fixture::new();
    let file = |path: &[u8]| member(b'0', path, b"", 1, b"x");
    let sparse = |map: &[u8], data: &[u8]| {
        let records: [(&str, &[u8]); 5] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"bad"),
            ("GNU.sparse.realsize", b"1000"),
            ("path", b"GNUSparseFile.0/bad"),
        ];
        let mut content = map.to_vec();
        content.resize(content.len().next_multiple_of(512), 0);
        content.extend_from_slice(data);
        [pax(&records), member(b'0', b"bad", b"", content.len() as u64, &content)].concat()
    };
    let long = vec![b'x'; 2 << 20];
    for (what, archive_bytes, words) in [
        ("climbing", archive(&[file(b"a/../../bad")]), "'a/../../bad'"),
        ("only dots", archive(&[file(b"..")]), "'..'"),
        ("missing target", archive(&[member(b'1', b"bad", b"nowhere", 0, b"")]), "'/nowhere'"),
        ("climbing target", archive(&[member(b'1', b"bad", b"../etc/passwd", 0, b"")]), "'bad'"),
        (
            "link to a directory",
            archive(&[member(b'5', b"d", b"", 0, b""), member(b'1', b"bad", b"d", 0, b"")]),
            "'bad'",
        ),
        ("link to the top", archive(&[member(b'1', b"bad", b"./", 0, b"")]), "'bad'"),
        ("file as parent", archive(&[file(b"a"), file(b"a/bad")]), "'/a' is not a directory"),
        (
            "symbolic link as parent",
            archive(&[member(b'2', b"a", b"/etc", 0, b""), file(b"a/bad")]),
            "'/a' is not a directory",
        ),
        ("file over a directory", archive(&[file(b"a/b"), file(b"a")]), "'a'"),
        ("file as top", archive(&[file(b"./")[..].to_vec(), member(b'2', b".", b"x", 0, b"")]), "'.'"),
        ("empty symbolic link", archive(&[member(b'2', b"bad", b"", 0, b"")]), "'bad'"),
        ("long name", archive(&[file(&[b'x'; 100]), pax(&[("path", &[b'y'; 300])]), file(b"y")]), "longer than 255"),
        ("huge record", archive(&[pax(&[("path", &long)]), file(b"bad")]), "1 MiB"),
        ("huge name", archive(&[member(b'L', b"x", b"", 2 << 20, &long), file(b"bad")]), "1 MiB"),
        ("huge attribute", archive(&[pax(&[("SCHILY.xattr.user.x", &long)]), file(b"bad")]), "attributes"),
        ("bad attribute", archive(&[pax(&[("SCHILY.xattr.", b"1")]), file(b"bad")]), "'bad'"),
        ("bad ACL", archive(&[pax(&[("SCHILY.acl.access", b"user::rwx")]), file(b"bad")]), "ACL"),
        ("run beyond the size", archive(&[sparse(b"1\n900\n101\n", &[1; 101])]), "'bad'"),
        ("runs that overlap", archive(&[sparse(b"2\n0\n10\n5\n10\n", &[1; 20])]), "overlap"),
        ("too little data", archive(&[sparse(b"1\n0\n512\n", &[1; 100])]), "map says"),
        ("too many runs", archive(&[sparse(b"99999999999\n", b"")]), "runs"),
        ("endless map", archive(&[sparse(b"4000000\n", b"")]), "malformed"),
        (
            "exabytes of zeros",
            archive(&[
                pax(&[
                    ("GNU.sparse.size", b"9223372036854775807"),
                    ("GNU.sparse.numblocks", b"0"),
                    ("GNU.sparse.map", b""),
                ]),
                member(b'0', b"bad", b"", 0, b""),
            ]),
            "'bad'",
        ),
        ("size beyond the end", archive(&[member(b'0', b"bad", b"", 1 << 32, b"")]), "cut short"),
        ("negative size", archive(&[pax(&[("size", b"-1")]), file(b"bad")]), "size"),
        ("overflowing size", archive(&[pax(&[("size", b"18446744073709551615")]), file(b"bad")]), "too large"),
        ("owner out of range", archive(&[pax(&[("uid", b"4294967296")]), file(b"bad")]), "uid"),
        ("unknown type", archive(&[member(b'M', b"bad", b"", 0, b"")]), "type 'M'"),
        ("nothing after a header", archive(&[pax(&[("path", b"x")])]), "no entry"),
        ("not an archive", vec![b'#'; 4096], "not a tar header"),
        ("nothing", Vec::new(), "cut short"),
        ("bzip2", b"BZh91AY&SY".to_vec(), "bzip2 -dc"),
        ("compress", b"\x1f\x9d\x90ab".to_vec(), "gzip -dc"),
        ("lzma", b"\x5d\0\0\x80\0\xff\xff".to_vec(), "xz --format=lzma -dc"),
        ("an image", archive(&[file(b"oci-layout"), file(b"index.json"), file(b"blobs/sha256/00")]), "container image"),
        ("an image", archive(&[file(b"manifest.json"), file(b"00/layer.tar")]), "container image"),
    ] {
        let error = fixture.untar(&archive_bytes).map(|tree| lines(&tree)).expect_err(what);
        let text = chain(&error);
        assert!(text.contains(words), "{what}: {text}");
        assert!(text.len() < 1000, "{what}: {} bytes of message", text.len());
    }
}

#[test]
fn names_in_acls_are_found_or_left_out() {
    let fixture = Fixture::new();
    let file = |path: &[u8]| member(b'0', path, b"", 1, b"x");
    let acl = |entry: &[u8]| {
        let text = [b"user::rw-,", entry, b",group::r--,mask::r--,other::r--"].concat();
        archive(&[pax(&[("SCHILY.acl.access", &text)]), file(b"acl")])
    };
    let attribute = |entry: &[u8]| {
        let tree = fixture.untar(&acl(entry)).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let id = tree.child(tree.root(), b"acl").expect("it is there");
        tree.node(id).metadata.xattrs.get(b"system.posix_acl_access").map(<[u8]>::to_vec)
    };
    for (name, number) in
        [("user:root", "user:0"), ("group:root", "group:0"), ("user:daemon", "user:1"), ("group:adm", "group:4")]
    {
        let [named, numbered] = [name, number].map(|entry| attribute(format!("{entry}:r--").as_bytes()));
        assert!(named.is_some() && named == numbered, "{name}");
    }
    assert_eq!(attribute(b"user:no-such-user:r--"), attribute(b""));
}

#[test]
fn attributes_of_other_filesystems_are_left_out() {
    let fixture = Fixture::new();
    let records: Vec<(&str, &[u8])> = vec![
        ("SCHILY.xattr.com.apple.provenance", b"1"),
        ("SCHILY.xattr.btrfs.compression", b"zstd"),
        ("SCHILY.xattr.system.nfs4_acl", b"1"),
        ("LIBARCHIVE.xattr.com.apple.x", b"MQ"),
        ("SCHILY.xattr.user.a", b"1"),
        ("SCHILY.xattr.trusted.b", b"1"),
        ("SCHILY.xattr.security.c", b"1"),
    ];
    let tree = fixture.untar(&archive(&[pax(&records), member(b'0', b"f", b"", 0, b"")])).expect("legal");
    let id = tree.child(tree.root(), b"f").expect("it is there");
    let names: Vec<&[u8]> = tree.node(id).metadata.xattrs.iter().map(|(name, _)| name).collect();
    assert_eq!(names, [&b"security.c"[..], b"trusted.b", b"user.a"]);
}

#[test]
fn ambiguous_archives_are_read_as_documented() {
    let fixture = Fixture::new();
    let file = |path: &[u8], data: &[u8]| member(b'0', path, b"", data.len() as u64, data);
    let tree = fixture
        .untar(&archive(&[
            file(b"/made/up/file", b"1"),
            member(b'5', b"./made/", b"", 0, b""),
            file(b"twice", b"old"),
            member(b'1', b"other", b"/twice", 0, b""),
            file(b"./twice", b"new"),
            member(b'1', b"twice", b"twice", 0, b""),
            member(b'5', b"gone", b"", 0, b""),
            file(b"gone", b"file"),
            file(b"v7-directory/", b""),
            pax(&[("SCHILY.acl.access", b"user::rw-,user:who:r--,group::r--,mask::r--,other::---")]),
            file(b"acl", b""),
            pax(&[
                ("RHT.security.selinux", b"label"),
                ("LIBARCHIVE.xattr.user.a", b"MQ"),
                ("SCHILY.xattr.user.b", b"2"),
            ]),
            file(b"attributes", b""),
            file(b"etc/passwd", b"root:x:0:0::/:\nwho:x:4321:1::/:\n"),
        ]))
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    let node = |path: &str| {
        let path = sapwood::model::ImagePath::parse(path.as_bytes()).expect("legal");
        tree.node(tree.resolve(&path).unwrap_or_else(|| panic!("{path}")))
    };
    let size = |path: &str| match &node(path).kind {
        NodeKind::Regular(Content { size, .. }) => *size,
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!((node("/").metadata.permissions, node("/made").metadata.permissions), (0o755, 0o644));
    assert_eq!((node("/made/up").metadata.permissions, size("/made/up/file")), (0o755, 1));
    assert_eq!((size("/twice"), size("/other"), size("/gone")), (3, 3, 4));
    assert_ne!(node("/twice").kind, node("/other").kind);
    assert_eq!(node("/v7-directory").kind, NodeKind::Directory);
    let acl = node("/acl").metadata.xattrs.get(b"system.posix_acl_access").expect("an ACL");
    assert_eq!(acl[16..20], 4321_u32.to_le_bytes());
    let attributes = &node("/attributes").metadata.xattrs;
    assert_eq!(attributes.get(b"security.selinux"), Some(&b"label\0"[..]));
    assert_eq!((attributes.get(b"user.a"), attributes.get(b"user.b")), (Some(&b"1"[..]), Some(&b"2"[..])));
    let options = TarOptions { owner: Some((7, 8)), ..TarOptions::default() };
    let bytes = archive(&[file(b"a/b", b"")]);
    let tree = read_tar(&bytes[..], &fixture.writer, options, &ImportProgress::default()).expect("legal");
    for id in all_nodes(&tree) {
        assert_eq!((tree.node(id).metadata.uid, tree.node(id).metadata.gid), (7, 8));
    }
}

#[test]
fn unaligned_holes_survive() {
    let fixture = Fixture::new();
    let mut bytes = vec![0; 3000];
    bytes[1000..1010].fill(1);
    let content = fixture.writer.put(3000, &mut &bytes[..]).expect("room on disk");
    let extents = Some(vec![Extent { offset: 1000, length: 10 }]);
    let mut tree = Tree::new(own_metadata());
    let kind = NodeKind::Regular(Content { extents, ..content });
    let name = EntryName::new(&b"file"[..]).expect("legal");
    tree.insert(tree.root(), name, Node { metadata: own_metadata(), kind }).expect("free name");
    let (archive, _) = fixture.export_tar(&tree);
    let mut child = Command::new("tar")
        .args(["-xOf", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("tar runs");
    child.stdin.take().expect("piped").write_all(&archive).expect("tar reads");
    assert_eq!(child.wait_with_output().expect("tar ends").stdout, bytes);
    let target = fixture.export(&tree, "target");
    assert_eq!(fs::read(target.join("file")).expect("made"), bytes);
}

#[test]
fn failures_of_the_output_are_reported() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let fixture = Fixture::new();
    let source = fixture.path("source");
    fs::create_dir(&source).expect("free name");
    fs::write(source.join("file"), vec![1; 1 << 20]).expect("room on disk");
    let image = fixture.image(&fixture.import(&source));
    for room in [0, 600, 1 << 19] {
        let result = export_tar(&image, Ino::ROOT, fixture.writer.store(), &mut Full(room), &ExportProgress::default());
        assert!(result.is_err(), "{room}");
    }
    // The objects are missing.
    let nothing = sapwood::store::MemoryObjects::default();
    let target = fixture.path("target");
    let result =
        export_directory(&image, Ino::ROOT, &nothing, &target, ExportOptions::default(), &ExportProgress::default());
    let text = chain(&result.expect_err("no object"));
    assert!(text.contains("incomplete") && text.contains("'/file'"), "{text}");
}

/// A user without privileges gets what is possible, and a count of the rest.
#[test]
fn export_without_privileges_counts_losses_or_fails() {
    let fixture = Fixture::new();
    let content = fixture.writer.put(1, &mut &b"x"[..]).expect("room on disk");
    let mut tree = Tree::new(own_metadata());
    let device = NodeKind::BlockDevice(DeviceNumber { major: 8, minor: 1 });
    let metadata = Metadata { permissions: 0o4755, uid: 12, gid: 34, ..Metadata::default() };
    for (name, kind) in [("file", NodeKind::Regular(content)), ("device", device), ("fifo", NodeKind::Fifo)] {
        let name = EntryName::new(name.as_bytes()).expect("legal");
        let node = tree.insert(tree.root(), name.clone(), Node { metadata: metadata.clone(), kind }).expect("free");
        let again = EntryName::new([name.as_bytes(), b"-again"].concat()).expect("legal");
        tree.link(tree.root(), again, node).expect("free name");
    }
    let image = fixture.image(&tree);
    let target = fixture.path("target");
    fs::set_permissions(fixture.directory.path(), fs::Permissions::from_mode(0o777)).expect("owned by the test");
    // The pack is opened when its first object is read.
    let readable = Command::new("chmod").args(["-R", "a+rX"]).arg(fixture.path("repo")).status();
    assert!(readable.expect("every machine has chmod").success());
    let export = |fidelity, target: &Path| {
        let options = ExportOptions { fidelity, ..ExportOptions::default() };
        export_directory(&image, Ino::ROOT, fixture.writer.store(), target, options, &ExportProgress::default())
    };
    let (report, refused) = std::thread::scope(|scope| {
        let somebody = scope.spawn(|| {
            // Changes this thread and those that it starts, and removes their privileges over files.
            nix::unistd::setfsgid(65_534.into());
            nix::unistd::setfsuid(65_534.into());
            (export(Fidelity::BestEffort, &target), export(Fidelity::Required, &fixture.path("strict")))
        });
        somebody.join().expect("no panic")
    });
    let report = report.unwrap_or_else(|error| panic!("{}", chain(&error)));
    // The owner of the top directory counts, too, if this is root, whose directory it is.
    let owners = 2 + u64::from(is_root());
    let expected = ExportReport {
        owners_lost: owners,
        devices_lost: 1,
        special_bits_lost: 1,
        entries: 5,
        ..ExportReport::default()
    };
    assert_eq!(ExportReport { examples: Vec::new(), content_bytes: 0, ..report.clone() }, expected, "{report:?}");
    assert!(report.examples.iter().any(|example| example.contains("'/device'")), "{report:?}");
    assert_eq!(fs::metadata(target.join("file")).expect("made").permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(target.join("file-again")).expect("made").nlink(), 2);
    let text = chain(&refused.expect_err("nothing may be lost"));
    assert!(text.contains("not permitted"), "{text}");
}
