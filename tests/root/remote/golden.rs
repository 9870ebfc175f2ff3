//! Files of earlier versions stay readable: their publications and repositories, made by `tests/golden/make`, are pulled,
//! mounted lazily and mounted, and compared with the listings in this file.
//!
//! To add the files of this version, run `tests/golden/make target/release/sapwood tests/golden/NAME` and add NAME below.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::common::machine::{Machine, Os};
use crate::common::sandbox::{Repository, Sandbox, finish, remove_tree, run, run_by};
use crate::common::web::Web;
use sapwood::model::ObjectId;

/// The versions that wrote the files in `tests/golden`.
const VERSIONS: [&str; 3] = ["7118906", "2026-12", "2026-12-objects"];

/// Those of them whose repositories have packs of the former form, as `store/former_packs.rs` describes it.
const FORMER_VERSIONS: [&str; 2] = ["7118906", "2026-12"];

/// The tree of the ref `small`: mode, owner, links, mtime, and contents or target.
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

/// The tree of the ref `wide`, which has a head frame that its version wrote wrongly.
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

/// Returns one line for each entry below a directory, sorted by name.
fn listing(top: &Path) -> String {
    let (mut pending, mut lines) = (vec![top.to_owned()], Vec::new());
    while let Some(path) = pending.pop() {
        let facts = fs::symlink_metadata(&path).expect("it exists");
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

/// Returns the number of entries and the digest of a listing that is too long for this file.
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
        // An update by the published delta.
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

/// Returns the packs of a repository by name, with their bytes.
fn packs(repository: &Repository) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(repository.path().join("packs")).expect("it exists").map(|entry| entry.expect("listed"));
    let packs = entries
        .map(|entry| (entry.file_name().into_string().expect("ASCII"), fs::read(entry.path()).expect("root may")));
    packs.collect()
}

/// Returns the names of the packs of the former form and of the current one. The bytes of each agree with its name.
fn forms(repository: &Repository) -> [Vec<String>; 2] {
    [(".pack", b"SAPWPCK\0"), (".objects", b"SAPWOBJ\0")].map(|(suffix, magic)| {
        let packs = packs(repository).into_iter().filter(|(name, _)| name.ends_with(suffix));
        packs.inspect(|(name, bytes)| assert!(bytes.starts_with(magic), "{name}")).map(|(name, _)| name).collect()
    })
}

#[test]
fn former_packs_are_rewritten_by_the_next_commit_or_gc() {
    for (version, verb) in FORMER_VERSIONS.into_iter().flat_map(|version| [(version, "commit"), (version, "gc")]) {
        let sandbox = Sandbox::new("golden-former");
        let repository = Repository::at(unpack(&sandbox, version, "repository"));
        assert!(!forms(&repository)[0].is_empty() && forms(&repository)[1].is_empty(), "{version}");
        if verb == "gc" {
            let plan = repository.run(["gc", "--dry-run", "--json"]).success();
            assert!(forms(&repository)[0].iter().all(|name| plan.contains(name)), "{plan}");
            repository.run(["gc"]).success();
        } else {
            let tree = sandbox.directory("tree");
            fs::write(tree.join("new"), "new").expect("the sandbox is writable");
            repository.commit("another", &tree);
        }
        let [former, current] = forms(&repository);
        assert!(former.is_empty() && !current.is_empty(), "{version}, {verb}: {former:?}");
        repository.run(["fsck", "--all"]).success();
        let mounted = repository.mount("local", &sandbox.join("mounted"), &["suid", "dev"]);
        assert_eq!(listing(mounted.path()), LOCAL, "{version}, {verb}");
    }
}

#[test]
fn former_packs_stay_while_a_deployment_or_a_mount_needs_them() {
    for version in FORMER_VERSIONS {
        let sandbox = Sandbox::new("golden-kept");
        let repository = Repository::at(unpack(&sandbox, version, "repository"));
        let before = packs(&repository);
        let stay = |what: &str| {
            let now = packs(&repository);
            assert!(before.iter().all(|(name, bytes)| now.get(name) == Some(bytes)), "{version}: {what}");
        };
        let web = Web::serve(&unpack(&sandbox, version, "publication"));
        let key = golden(version, "golden.pub");
        repository.run(["remote", "add", "os", &web.url(), "--key", key.to_str().expect("UTF-8")]).success();
        let tree = sandbox.directory("tree");
        let mounted = repository.mount("local", &sandbox.join("mounted"), &[]);
        fs::write(tree.join("new"), "one").expect("the sandbox is writable");
        repository.commit("another", &tree);
        repository.run(["gc", "--all"]).success();
        stay("while it is mounted");
        mounted.unmount();

        // As a deployment has it.
        let (refs, reference) = (repository.path().join("refs"), "deployments/main/0123456789ab.0");
        fs::create_dir_all(refs.join("deployments/main")).expect("root may");
        fs::copy(refs.join("local"), refs.join(reference)).expect("root may");
        repository.run(["pull", "os:small", "os:wide"]).success();
        stay("pull");
        fs::write(tree.join("new"), "two").expect("the sandbox is writable");
        repository.commit("another", &tree);
        stay("commit");
        repository.run(["gc"]).success();
        repository.run(["gc", "--all", "--depth", "0"]).success();
        stay("gc");
        let now = forms(&repository);
        assert!(now[0].iter().eq(before.keys()) && !now[1].is_empty(), "{now:?}");
        repository.assert_clean();

        repository.run(["refs", "--delete", reference]).success();
        repository.run(["gc"]).success();
        assert!(forms(&repository)[0].is_empty(), "{version}: no deployment needs them");
        repository.assert_clean();
        let mounted = repository.mount("local", &sandbox.join("mounted"), &["suid", "dev"]);
        assert_eq!(listing(mounted.path()), LOCAL, "{version}");
    }
}

#[test]
fn former_packs_of_a_machine_stay_through_upgrades() {
    let sandbox = Sandbox::new("golden-machine");
    let machine = Machine::new(&sandbox, "none");
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    // As if an earlier version had deployed it.
    let repository = machine.repository();
    for (name, mut bytes) in packs(&repository) {
        bytes[..8].copy_from_slice(b"SAPWPCK\0");
        let path = repository.path().join("packs").join(&name);
        fs::write(path.with_extension("pack"), bytes).expect("root may");
        fs::remove_file(path).expect("root may");
    }
    let before = packs(&repository);
    for version in ["2", "3"] {
        machine.publish(&Os::new(version).with("usr/share/new", version));
        machine.run(&["upgrade"]).success();
        repository.run(["gc"]).success();
        let tree = sandbox.directory("tree");
        fs::write(tree.join("own"), version).expect("the sandbox is writable");
        repository.commit("own", &tree);
        let now = packs(&repository);
        assert!(before.iter().all(|(name, bytes)| now.get(name) == Some(bytes)), "after the upgrade to {version}");
        assert!(!forms(&repository)[1].is_empty());
        repository.assert_clean();
    }
    // A clean-up removes the first deployment, and others still share its contents.
    machine.run(&["cleanup"]).success();
    assert!(forms(&repository)[0].iter().eq(before.keys()));
    repository.assert_clean();
}

/// Calls that change a repository. A kill at one comes before it is done.
const CHANGING_CALLS: [&str; 9] =
    ["write", "rename", "renameat", "renameat2", "unlink", "unlinkat", "fsync", "fdatasync", "syncfs"];

#[test]
fn rewriting_of_former_packs_killed_at_each_step_loses_nothing() {
    let sandbox = Sandbox::new("golden-kill");
    let base = unpack(&sandbox, "7118906", "repository");
    let tree = sandbox.directory("tree");
    fs::write(tree.join("new"), "new").expect("the sandbox is writable");
    let repository = Repository::at(sandbox.join("copy"));
    let mut killed = 0;
    for (verb, call) in [&["gc"][..], &["commit", "--ref", "another", tree.to_str().expect("UTF-8")]]
        .into_iter()
        .flat_map(|verb| CHANGING_CALLS.map(|call| (verb, call)))
    {
        for nth in 1.. {
            remove_tree(repository.path());
            run("cp", ["-a".as_ref(), base.as_os_str(), repository.path().as_os_str()]).success();
            let mut strace = std::process::Command::new("strace");
            strace.args(["-f", "-q", "-o", "/dev/null"]);
            strace.args([
                format!("--trace={call}"),
                format!("--inject={call}:signal=KILL:when={nth}"),
                "--".to_owned(),
            ]);
            let ended = finish(run_by(strace, &repository.command(verb))).status.success();
            let context = format!("{} killed at {call} number {nth}", verb[0]);
            assert_eq!(repository.run(["cat", "local:/a"]).success(), "a", "{context}");
            assert_eq!(repository.run(["cat", "local:/b/c"]).success(), "c".repeat(5000), "{context}");
            repository.run(["fsck", "--all"]).success();
            repository.run(verb).success();
            assert!(forms(&repository)[0].is_empty(), "{context}, then again");
            repository.run(["fsck", "--all"]).success();
            if ended {
                break;
            }
            killed += 1;
        }
    }
    println!("{killed} killed");
    assert!(killed > 20, "only {killed} were killed");
}
