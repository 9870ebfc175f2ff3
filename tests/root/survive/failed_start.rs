//! Mounts whose workers cannot start because the repository or the image is missing or damaged: readers get errors, and nothing
//! grows.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use super::mount::{Subject, eventually};
use crate::common::sandbox::Sandbox;
use crate::common::trees;

/// A damage to a repository, and its repair.
struct Damage {
    name: &'static str,
    inflict: fn(&Path),
    repair: Option<fn(&Path)>,
}

fn image(repository: &Path) -> std::path::PathBuf {
    let mut images = fs::read_dir(repository.join("images")).expect("a repository");
    images.find_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_file())).expect("one commit was made")
}

const DAMAGES: [Damage; 3] = [
    Damage {
        name: "settings",
        inflict: |repository| {
            let path = repository.join("config.toml");
            fs::copy(&path, path.with_extension("kept")).expect("owned by the test");
            fs::write(&path, "garbage").expect("owned by the test");
        },
        repair: Some(|repository| {
            let path = repository.join("config.toml");
            fs::copy(path.with_extension("kept"), &path).expect("owned by the test");
        }),
    },
    Damage {
        name: "image",
        inflict: |repository| fs::rename(image(repository), repository.join("kept")).expect("owned by the test"),
        repair: Some(|repository| {
            let name = fs::read_to_string(repository.join("name")).expect("written by the test");
            fs::rename(repository.join("kept"), repository.join("images").join(name)).expect("owned by the test");
        }),
    },
    Damage {
        name: "all",
        inflict: |repository| fs::remove_dir_all(repository).expect("owned by the test"),
        repair: None,
    },
];

#[test]
fn mount_refuses_reads_until_a_worker_can_start() {
    let sandbox = Sandbox::new("refused");
    let tree = sandbox.join("tree");
    trees::medium(&tree, 100);
    let cases = DAMAGES.iter().zip([&["noresend"][..], &["passthrough"], &[]]).map(|(damage, options)| {
        let repository = sandbox.repository(damage.name);
        repository.commit("main", &tree);
        let name = image(repository.path()).file_name().expect("it has one").to_owned();
        fs::write(repository.path().join("name"), name.as_encoded_bytes()).expect("owned by the test");
        (damage, Subject::new(&repository, "main", &sandbox.join(&format!("at-{}", damage.name)), options))
    });
    let cases: Vec<_> = cases.collect();
    for (damage, subject) in &cases {
        (damage.inflict)(subject.repository.path());
        subject.signal_workers(Signal::SIGKILL);
    }
    for (damage, subject) in &cases {
        assert_eq!(refusal(subject, "07"), Some(libc::EIO), "{}", damage.name);
        assert_eq!(subject.health("service"), "refusing", "{}", damage.name);
    }
    let table = cases[0].1.repository.run(["mounts"]).success();
    assert_eq!(table.matches("refusing: no worker comes to serve").count(), cases.len(), "{table}");

    let lines = || fs::read_to_string("/run/sapwood/mount.log").expect("there is no journal here").lines().count();
    let deaths = || cases.iter().map(|(_, subject)| subject.deaths()).collect::<Vec<_>>();
    let before = (lines(), deaths());
    std::thread::sleep(std::time::Duration::from_secs(4));
    for (damage, subject) in &cases {
        assert_eq!(refusal(subject, "08"), Some(libc::EIO), "{}", damage.name);
        assert!(subject.workers().len() <= 2, "one refuses, one may try");
    }
    assert_eq!((lines(), deaths()), before, "nothing is logged or counted again and again");

    for (damage, subject) in cases {
        if let Some(repair) = damage.repair {
            repair(subject.repository.path());
            eventually("a worker that serves", || subject.health("service") == "full");
            for name in ["07/file-7", "08/file-8"] {
                let expected = fs::read(tree.join(name)).expect("readable");
                // On a kernel that cannot resend requests, each thread of the old worker answers one more.
                eventually("an answer", || fs::read(subject.join(name)).is_ok_and(|bytes| bytes == expected));
            }
        }
        subject.mounted.unmount();
    }
}

fn refusal(subject: &Subject, name: &str) -> Option<i32> {
    fs::read_dir(subject.join(name)).err().and_then(|error| error.raw_os_error())
}
