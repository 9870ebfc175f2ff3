//! Damaged disks: a mount that verifies returns the right bytes or an error, and damaged contents are fetched again where a
//! remote has them.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::common::published::Published;
use crate::common::sandbox::{Mounted, Repository, Sandbox};
use crate::common::trees::noise;
use crate::common::web::Web;

/// A content of each kind of place: in a pack, in a file, and in a file with blocks, two of which are damaged. Each with name,
/// seed, length and damaged positions.
const FILES: [(&str, u64, usize, &[usize]); 3] =
    [("packed", 1, 20_000, &[10_000]), ("plain", 2, 300_000, &[7]), ("large", 3, 1_700_000, &[300_000, 1_699_999])];

fn content(seed: u64, length: usize) -> Vec<u8> {
    noise(seed, length)
}

fn tree(sandbox: &Sandbox) -> PathBuf {
    let tree = sandbox.directory("tree");
    for (name, seed, length, _) in FILES {
        fs::write(tree.join(name), content(seed, length)).expect("writable");
    }
    fs::write(tree.join("sound"), content(9, 50_000)).expect("writable");
    tree
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("listable").map(|entry| entry.expect("listed").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Changes bytes of a content wherever the repository has it.
fn damage(repository: &Repository, seed: u64, length: usize, positions: &[usize]) {
    let wanted = content(seed, length);
    let directories = ["packs", "objects"].map(|name| files_below(&repository.path().join(name)));
    let mut found = 0;
    for path in directories.into_iter().flatten() {
        let bytes = fs::read(&path).expect("readable");
        let Some(start) = bytes.windows(64).position(|window| window == &wanted[..64]) else { continue };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("owned by the test");
        let file = OpenOptions::new().write(true).open(&path).expect("writable");
        for position in positions {
            file.write_all_at(&[!wanted[*position]], (start + position) as u64).expect("writable");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("owned by the test");
        found += 1;
    }
    assert_eq!(found, 1, "the content of {length} bytes is somewhere else than thought");
}

fn damage_all(repository: &Repository) {
    FILES.iter().for_each(|(_, seed, length, positions)| damage(repository, *seed, *length, positions));
}

/// Drops a file from the kernel's cache, so that the next read reaches the mount.
fn forget(path: &Path) {
    let file = fs::File::open(path).expect("it is there");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice is taken");
}

#[track_caller]
fn assert_all_right(mounted: &Mounted, what: &str) {
    for (name, seed, length, _) in FILES {
        let read = fs::read(mounted.path().join(name)).unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
        assert!(read == content(seed, length), "{what}: {name} is wrong");
    }
}

fn figures(client: &Repository, mounted: &Mounted) -> serde_json::Value {
    let text = client.run(["mounts".as_ref(), "--json".as_ref(), mounted.path().as_os_str()]).success();
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn damaged_local_contents_fail_to_read_where_verified() {
    let sandbox = Sandbox::new("damage-local");
    let repository = sandbox.repository("repo");
    repository.commit("main", &tree(&sandbox));
    damage_all(&repository);
    let unchecked = repository.mount("main", &sandbox.join("unchecked"), &[]);
    let is_wrong = |(name, seed, length, _): &(&str, u64, usize, _)| {
        fs::read(unchecked.path().join(name)).is_ok_and(|read| read != content(*seed, *length))
    };
    assert!(FILES.iter().all(is_wrong), "nothing was damaged");
    for options in
        [&["verify=open"][..], &["verify=full"], &["verify=open", "passthrough"], &["verify=full", "passthrough"]]
    {
        let mounted = repository.mount("main", &sandbox.join("m"), options);
        for (name, ..) in FILES {
            let error = fs::read(mounted.path().join(name)).expect_err(name);
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{options:?} {name}");
        }
        assert_eq!(fs::read(mounted.path().join("sound")).expect("sound"), content(9, 50_000));
        // The sound blocks of a large file can be read.
        let large = fs::File::open(mounted.path().join("large")).expect("opens");
        let mut block = vec![0; 4096];
        large.read_exact_at(&mut block, 1 << 20).expect("sound");
        assert_eq!(block, content(3, 1_700_000)[1 << 20..][..4096]);
        drop(large);
        mounted.unmount();
    }
}

#[test]
fn damage_under_a_mount_is_noticed_at_each_read() {
    let sandbox = Sandbox::new("damage-later");
    let repository = sandbox.repository("repo");
    repository.commit("main", &tree(&sandbox));
    let mounted = repository.mount("main", &sandbox.join("m"), &["verify=full"]);
    assert_all_right(&mounted, "before");
    damage_all(&repository);
    for (name, ..) in FILES {
        forget(&mounted.path().join(name));
        let error = fs::read(mounted.path().join(name)).expect_err(name);
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
    }
}

#[test]
fn damaged_contents_are_fetched_again_from_the_remote() {
    let sandbox = Sandbox::new("damage-remote");
    let publisher = sandbox.repository("publisher");
    publisher.commit("main", &tree(&sandbox));
    let published = sandbox.join("published");
    Published::default().add(publisher.path(), "main", &published);
    for options in [&["verify=open"][..], &["verify=full"], &["verify=open", "passthrough"]] {
        let mut web = Web::serve(&published);
        let client = sandbox.repository(&format!("client-{}", options.concat()));
        client.run(["remote", "add", "os", &web.url(), "--insecure-unsigned"]).success();
        client.run(["pull", "os:main"]).success();
        damage_all(&client);
        assert!(!client.run(["fsck"]).status.success(), "nothing was damaged");
        let mounted = client.mount("remotes/os/main", &sandbox.join("m"), options);
        assert_all_right(&mounted, "first");
        let status = figures(&client, &mounted);
        assert_eq!(status["lazy"]["repaired"], 4, "{status}");
        assert_eq!(status["figures"]["errors"], 0, "{status}");
        mounted.unmount();
        // The contents fetched again have replaced the damaged ones: everything is sound, and no server is needed.
        client.assert_clean();
        web.stop();
        let again = client.mount("remotes/os/main", &sandbox.join("m"), options);
        assert_all_right(&again, "again");
        again.unmount();
    }
}

#[test]
fn repository_with_fs_verity_works_where_unsupported() {
    let sandbox = Sandbox::new("damage-verity");
    let repository = sandbox.repository("repo");
    repository.run(["config", "fs-verity", "on"]).success();
    assert_eq!(repository.run(["config", "fs-verity"]).success(), "on");
    repository.commit("main", &tree(&sandbox));
    repository.assert_clean();
    let packs = files_below(&repository.path().join("packs"));
    let file = fs::File::open(&packs[0]).expect("it exists");
    match sapwood::sys::has_verity(&file) {
        // The kernel itself protects the file then.
        true => assert!(OpenOptions::new().write(true).open(&packs[0]).is_err(), "a file with verity can be written"),
        false => println!("!!! THE FILESYSTEM OF THIS TEST HAS NO FS-VERITY: only going on without it is tested"),
    }
    let mounted = repository.mount("main", &sandbox.join("m"), &["verify=full"]);
    assert_all_right(&mounted, "with the setting");
}
