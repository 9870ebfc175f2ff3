//! What earlier versions wrote is read for ever: publications and repositories of theirs, made by `tests/golden/make`, are pulled,
//! mounted lazily and mounted, and compared with what is written down here.
//!
//! To add what this version writes: `tests/golden/make target/release/sapwood tests/golden/NAME`, and NAME below.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::common::sandbox::{Repository, Sandbox, run};
use crate::common::web::Web;
use sapwood::model::ObjectId;

/// Which versions wrote what is in `tests/golden`.
const VERSIONS: [&str; 2] = ["7118906", "2026-12"];

/// The tree behind the ref `small`: mode, owner, links, time of the last change, and contents or target.
const SMALL: &str = "\
/ 40755 0:0 1 1600000000.000000000 directory
/bin 40755 0:0 1 1600000000.000000000 directory
/bin/setuid 104711 0:0 1 1500000001.000000000 14 43dc96148b4a3b13
/bin/tool 100755 0:0 1 1500000000.000000000 17 306c6ca740756034
/deep 40755 0:0 1 1600000000.000000000 directory
/deep/er 40755 0:0 1 1600000000.000000000 directory
/deep/er/text 100644 0:0 1 1600000000.000000000 28890 378417bfa37dd99f
/deep/fifo 10600 0:0 1 1600000000.000000000 fifo
/deep/link 120777 0:0 1 1600000000.000000000 -> ../hello
/deep/same 100644 0:0 2 1600000000.000000000 6 5891b5b522d5df08
/empty 100644 0:0 1 1600000000.000000000 0 e3b0c44298fc1c14
/files 40755 0:0 1 1600000000.000000000 directory
/files/00 100644 0:0 1 1600000000.000000000 200 0b3abf79703e34ab
/files/01 100644 0:0 1 1600000001.000000000 210 da92c49d152f2b00
/files/02 100644 0:0 1 1600000002.000000000 220 f036fbfd3ff10de0
/files/03 100644 0:0 1 1600000003.000000000 230 3db566dc9933a1d0
/files/04 100644 0:0 1 1600000004.000000000 240 e404486bed5e374b
/files/05 100644 0:0 1 1600000005.000000000 250 53fe5313691fb1e8
/files/06 100644 0:0 1 1600000006.000000000 260 ff41fefde1041981
/files/07 100644 0:0 1 1600000007.000000000 12 d9a4c6676a62cb3b
/files/08 100644 0:0 1 1600000008.000000000 280 20f9de654729d49b
/files/09 100644 0:0 1 1600000009.000000000 290 491a9dfd844cb83e
/files/10 100644 0:0 1 1600000010.000000000 300 6184be3ad02f2ac3
/files/11 100644 0:0 1 1600000011.000000000 310 2a7550488640d799
/files/12 100644 0:0 1 1600000012.000000000 320 01bc0aba9674a142
/files/13 100644 0:0 1 1600000013.000000000 330 133366d8e47af464
/files/14 100644 0:0 1 1600000014.000000000 340 76b111d8a6f99386
/files/15 100644 0:0 1 1600000015.000000000 350 6a89844a759dbcaa
/files/16 100644 0:0 1 1600000016.000000000 360 ce92955bb2a439c4
/files/17 100644 0:0 1 1600000017.000000000 370 48797464100d7414
/files/18 100644 0:0 1 1600000018.000000000 380 5b5cc6f4f6fd3e8b
/files/19 100644 0:0 1 1600000019.000000000 390 da707893d6ce3d67
/files/20 100644 0:0 1 1600000020.000000000 400 81eb428858c42b59
/files/21 100644 0:0 1 1600000021.000000000 410 375503b9ac33542b
/files/22 100644 0:0 1 1600000022.000000000 420 3815084c75ce586f
/files/23 100644 0:0 1 1600000023.000000000 430 af9c886ecb476c40
/files/24 100644 0:0 1 1600000024.000000000 440 9ef48f06d5bbd873
/files/25 100644 0:0 1 1600000025.000000000 450 ec0a46385c254817
/files/26 100644 0:0 1 1600000026.000000000 460 e9d43c2a7be6ecd2
/files/27 100644 0:0 1 1600000027.000000000 470 02ed11cc2ad06dfd
/files/28 100644 0:0 1 1600000028.000000000 480 ce20bdb72d3b2807
/files/29 100644 0:0 1 1600000029.000000000 490 34c3c87b64d48e25
/files/30 100644 0:0 1 1600000030.000000000 500 a59bb01ed31aa600
/files/31 100644 0:0 1 1600000031.000000000 510 76573ddff6e0f35a
/files/32 100644 0:0 1 1600000032.000000000 520 63bfc8c8661e8415
/files/33 100644 0:0 1 1600000033.000000000 530 e69fb1252e4c412b
/files/34 100644 0:0 1 1600000034.000000000 540 44189f5ab8c3c45d
/files/35 100644 0:0 1 1600000035.000000000 550 e331f4fff703f07c
/files/36 100644 0:0 1 1600000036.000000000 560 b7687ee1afc12aa1
/files/37 100644 0:0 1 1600000037.000000000 570 07dd85feee451de0
/files/38 100644 0:0 1 1600000038.000000000 580 604a0209e4d9e957
/files/39 100644 0:0 1 1600000039.000000000 590 ee191449de4755af
/hello 100644 0:0 2 1600000000.000000000 6 5891b5b522d5df08
/large 100644 0:0 1 1600000000.000000000 1280000 24db4c2436239e05
";

/// The tree behind the ref `wide`, which has a head frame that its version wrote wrongly.
const WIDE: &str = "2501 entries, 33ce10906bfd9dbc8571d9455c8daf5502f3eb1e9db18d3573342fe2b3816e44";

/// The tree of the repository.
const LOCAL: &str = "\
/ 40755 0:0 1 1600000000.000000000 directory
/a 100644 0:0 1 1600000000.000000000 2 87428fc522803d31
/b 40755 0:0 1 1600000000.000000000 directory
/b/c 100644 0:0 1 1600000000.000000000 5000 11a363b87dbe477b
/to-a 120777 0:0 1 1600000000.000000000 -> a
";

fn golden(version: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version).join(name)
}

/// One line for each entry below a directory, by name.
fn listing(top: &Path) -> String {
    let (mut pending, mut lines) = (vec![top.to_owned()], Vec::new());
    while let Some(path) = pending.pop() {
        let facts = fs::symlink_metadata(&path).expect("there");
        let kind = facts.file_type();
        let what = if kind.is_dir() {
            pending.extend(fs::read_dir(&path).expect("listable").map(|entry| entry.expect("listed").path()));
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).expect("a link").display())
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            let bytes = fs::read(&path).expect("readable");
            format!("{} {}", bytes.len(), &ObjectId::of(&bytes).to_string()[..16])
        };
        let links = if kind.is_dir() { 1 } else { facts.nlink() };
        let (name, mode) = (path.strip_prefix(top).expect("below it").display(), facts.mode());
        let time = format!("{}.{:09}", facts.mtime(), facts.mtime_nsec());
        lines.push(format!("/{name} {mode:o} {}:{} {links} {time} {what}\n", facts.uid(), facts.gid()));
    }
    lines.sort();
    lines.concat()
}

/// The same, too long to be written down.
fn digest(top: &Path) -> String {
    let listing = listing(top);
    format!("{} entries, {}", listing.lines().count(), ObjectId::of(listing.as_bytes()))
}

fn unpack(sandbox: &Sandbox, version: &str, name: &str) -> PathBuf {
    let archive = golden(version, &format!("{name}.tar"));
    run("tar", ["-xf", archive.to_str().expect("UTF-8"), "-C", sandbox.path().to_str().expect("UTF-8")]).success();
    sandbox.join(name)
}

#[test]
fn publications_of_all_versions_are_pulled_and_mounted() {
    for version in VERSIONS {
        let sandbox = Sandbox::new("golden-publication");
        let web = Web::serve(&unpack(&sandbox, version, "publication"));
        let key = golden(version, "golden.pub");
        let client = |name: &str| {
            let client = sandbox.repository(name);
            client.run(["remote", "add", "os", &web.url(), "--key", key.to_str().expect("UTF-8")]).success();
            client
        };
        let (pulled, lazy) = (client("pulled"), client("lazy"));
        pulled.run(["pull", "--depth", "1", "os:small", "os:wide"]).success();
        for client in [&pulled, &lazy] {
            for (reference, expected) in [("small", SMALL), ("wide", WIDE)] {
                let mounted = client.mount(&format!("os:{reference}"), &sandbox.join("mounted"), &["suid", "dev"]);
                let found = if reference == "small" { listing(mounted.path()) } else { digest(mounted.path()) };
                assert_eq!(found, expected, "{reference} of {version}");
                mounted.unmount();
            }
            client.assert_clean();
        }
        // An update over the delta that is published.
        let updated = client("updated");
        updated.run(["pull", "--depth", "1", "os:small"]).success();
    }
}

#[test]
fn repositories_of_all_versions_are_read_and_written() {
    for version in VERSIONS {
        let sandbox = Sandbox::new("golden-repository");
        let repository = Repository::at(unpack(&sandbox, version, "repository"));
        repository.assert_clean();
        let mounted = repository.mount("local", &sandbox.join("mounted"), &["suid", "dev"]);
        assert_eq!(listing(mounted.path()), LOCAL, "{version}");
        repository.commit("another", mounted.path());
        mounted.unmount();
        repository.assert_clean();
    }
}
