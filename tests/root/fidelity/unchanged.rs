//! A directory that is committed again is stored with its present contents, also where its files look unchanged.
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::sandbox::{Repository, Sandbox, run};

/// Makes two directories whose only file has the same name, length and times, and different contents.
fn twins(sandbox: &Sandbox) -> [PathBuf; 2] {
    ["12.1\n", "12.2\n"].map(|content| {
        let tree = sandbox.directory(&format!("tree-{}", content.trim()));
        fs::write(tree.join("f"), content).expect("the sandbox is writable");
        for path in [tree.join("f"), tree.clone()] {
            run("touch", [Path::new("-d"), Path::new("@0"), &path]).success();
        }
        tree
    })
}

fn committed(repository: &Repository, directory: &Path, options: &[&str]) -> (String, u64) {
    let mut arguments = vec!["commit", "--json", "--ref", "os"];
    arguments.extend(options);
    let told = repository.run(arguments.into_iter().map(Path::new).chain([directory])).success();
    let told: serde_json::Value = serde_json::from_str(&told).expect("--json prints JSON");
    (repository.run(["cat", "os:/f"]).success(), told["bytes_read"].as_u64().expect("a number"))
}

/// Makes a disk image as image builders do: with the same identifier and the same times for each version.
fn ext4(tree: &Path, image: &Path) {
    let script = format!(
        "truncate -s 4M {image} && E2FSPROGS_FAKE_TIME=1000000000 mke2fs -q -t ext4 -O ^has_journal \
         -U 11111111-2222-3333-4444-555555555555 -E hash_seed=11111111-2222-3333-4444-555555555555,root_owner=0:0 -d {tree} {image}",
        image = image.display(),
        tree = tree.display()
    );
    run("sh", ["-c", &script]).success();
    let debugfs = "debugfs -w -R 'set_inode_field f ctime 20010909014640' ";
    run("sh", ["-c", &format!("{debugfs} {} 2>/dev/null", image.display())]).success();
}

#[test]
fn replaced_loop_image_is_read_again() {
    let sandbox = Sandbox::new("unchanged-images");
    let trees = twins(&sandbox);
    let images = [("read-only", "loop,ro"), ("writable", "loop")];
    for (name, mount) in images {
        let repository = sandbox.repository(&format!("repository-{name}"));
        let (image, at) = (sandbox.join(&format!("{name}.image")), sandbox.directory(&format!("at-{name}")));
        for (tree, expected) in trees.iter().zip(["12.1", "12.2"]) {
            ext4(tree, &image);
            run("mount", [Path::new("-o"), Path::new(mount), &image, &at]).success();
            let (stored, read) = committed(&repository, &at, &[]);
            run("umount", [&at]).success();
            assert_eq!((stored.as_str(), read), (expected, 5), "{name}");
            fs::remove_file(&image).expect("it was just made");
        }
        repository.assert_clean();
    }
}

#[test]
fn another_commit_mounted_at_the_same_path_is_read_again() {
    let sandbox = Sandbox::new("unchanged-mounts");
    let (source, repository) = (sandbox.repository("source"), sandbox.repository("repository"));
    let at = sandbox.directory("at");
    for (tree, expected) in twins(&sandbox).iter().zip(["12.1", "12.2"]) {
        source.commit("os", tree);
        let mounted = source.mount("os", &at, &[]);
        assert_eq!(committed(&repository, &at, &[]), (expected.to_owned(), 5));
        mounted.unmount();
    }
}

#[test]
fn overlay_is_read_again_when_its_layers_may_have_changed() {
    let sandbox = Sandbox::new("unchanged-overlay");
    let trees = twins(&sandbox);
    let (lower, at, disk) = (sandbox.directory("lower"), sandbox.directory("at"), sandbox.tmpfs("disk", 16 << 20));
    let overlay = |lower: &Path| {
        for name in ["upper", "work"] {
            fs::create_dir_all(disk.join(name)).expect("the sandbox is writable");
        }
        let (lower, disk) = (lower.display(), disk.display());
        let options = format!("lowerdir={lower},upperdir={disk}/upper,workdir={disk}/work");
        run("mount", ["-t", "overlay", "overlay", "-o", &options, &at.display().to_string()]).success();
    };
    let repository = sandbox.repository("repository");
    for (tree, expected) in trees.iter().zip(["12.1", "12.2"]) {
        let image = sandbox.join("image");
        ext4(tree, &image);
        run("mount", [Path::new("-o"), Path::new("loop,ro"), &image, &lower]).success();
        overlay(&lower);
        assert_eq!(committed(&repository, &at, &[]), (expected.to_owned(), 5), "above an image");
        assert_eq!(committed(&repository, &at, &[]).1, 5, "above an image, again");
        run("umount", [&at]).success();
        run("umount", [&lower]).success();
    }
    wait_for_stable_ctime();
    overlay(&trees[1]);
    assert_eq!(committed(&repository, &at, &[]), ("12.2".to_owned(), 5));
    let again = committed(&repository, &at, &[]).1;
    run("umount", [&at]).success();
    // Kernels before 6.8 have no unique mount ids.
    assert_eq!(again, if has_unique_mount_ids() { 0 } else { 5 }, "above a disk, again");
}

#[test]
fn an_unchanged_file_on_the_disk_of_the_repository_is_read_once() {
    let sandbox = Sandbox::new("unchanged-disk");
    let (repository, tree) = (sandbox.repository("repository"), &twins(&sandbox)[0]);
    wait_for_stable_ctime();
    assert_eq!(committed(&repository, tree, &[]), ("12.1".to_owned(), 5));
    assert_eq!(committed(&repository, tree, &[]), ("12.1".to_owned(), 0));
    assert_eq!(committed(&repository, tree, &["--no-cache"]), ("12.1".to_owned(), 5));
    fs::write(tree.join("f"), "12.3\n").expect("the sandbox is writable");
    run("touch", [Path::new("-d"), Path::new("@0"), &tree.join("f")]).success();
    assert_eq!(committed(&repository, tree, &[]), ("12.3".to_owned(), 5));
}

/// Waits two seconds: a file with a younger ctime is read again, since it may have changed within a tick of the clock.
fn wait_for_stable_ctime() {
    std::thread::sleep(std::time::Duration::from_secs(4));
}

fn has_unique_mount_ids() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("proc is mounted");
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(8))
}

#[test]
fn own_mount_is_committed_unread_except_for_mounts_over_it() {
    let sandbox = Sandbox::new("unchanged-own");
    let (repository, tree, at) = (sandbox.repository("repository"), sandbox.join("tree"), sandbox.join("at"));
    crate::common::trees::nasty(&tree);
    fs::write(tree.join("f"), "12.1\n").expect("the sandbox is writable");
    let over = tree.join("covered");
    fs::create_dir(&over).expect("the sandbox is writable");
    fs::write(over.join("below"), "what lies below\n").expect("the sandbox is writable");
    repository.commit("main", &tree);
    let mounted = repository.mount("main", &at, &["suid", "dev"]);
    let image = |name: &str| {
        let told = repository.run(["show", "--json", name]).success();
        serde_json::from_str::<serde_json::Value>(&told).expect("--json prints JSON")["commit"]["image"].clone()
    };
    assert_eq!(committed(&repository, &at, &[]).1, 0);
    assert_eq!(image("os"), image("main"));
    let (_, read) = committed(&repository, &at, &["--no-cache"]);
    assert!(read > 1000, "{read}");
    assert_eq!(image("os"), image("main"));

    run("mount", ["-t", "tmpfs", "none", &at.join("covered").display().to_string()]).success();
    fs::write(at.join("covered/above"), "what lies above\n").expect("a tmpfs");
    let (_, read) = committed(&repository, &at, &[]);
    run("umount", [at.join("covered")]).success();
    assert_eq!(read, 16, "one file lies on another filesystem");
    assert_eq!(repository.run(["cat", "os:/covered/above"]).success(), "what lies above");
    repository.run(["cat", "os:/covered/below"]).any_failure();
    mounted.unmount();
}
