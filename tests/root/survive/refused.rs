//! A mount whose workers cannot come to serve: its repository or image is gone or damaged. Readers get errors, and nothing
//! grows because of it.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use super::mount::{Subject, eventually};
use crate::common::sandbox::Sandbox;
use crate::common::trees;

/// Something done to a repository, and how to undo it.
struct Damage {
    name: &'static str,
    inflict: fn(&Path),
    mend: Option<fn(&Path)>,
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
            fs::copy(&path, path.with_extension("kept")).expect("ours");
            fs::write(&path, "garbage").expect("ours");
        },
        mend: Some(|repository| {
            let path = repository.join("config.toml");
            fs::copy(path.with_extension("kept"), &path).expect("ours");
        }),
    },
    Damage {
        name: "image",
        inflict: |repository| fs::rename(image(repository), repository.join("kept")).expect("ours"),
        mend: Some(|repository| {
            let name = fs::read_to_string(repository.join("name")).expect("written by the test");
            fs::rename(repository.join("kept"), repository.join("images").join(name)).expect("ours");
        }),
    },
    Damage { name: "all", inflict: |repository| fs::remove_dir_all(repository).expect("ours"), mend: None },
];

#[test]
fn a_mount_whose_workers_cannot_start_refuses_until_one_can() {
    let sandbox = Sandbox::new("refused");
    let tree = sandbox.join("tree");
    trees::medium(&tree, 100);
    let cases = DAMAGES.iter().zip([&["noresend"][..], &["passthrough"], &[]]).map(|(damage, options)| {
        let repository = sandbox.repository(damage.name);
        repository.commit("main", &tree);
        let name = image(repository.path()).file_name().expect("it has one").to_owned();
        fs::write(repository.path().join("name"), name.as_encoded_bytes()).expect("ours");
        (damage, Subject::new(&repository, "main", &sandbox.join(&format!("at-{}", damage.name)), options))
    });
    let cases: Vec<_> = cases.collect();
    for (damage, subject) in &cases {
        (damage.inflict)(subject.repository.path());
        subject.hit(Signal::SIGKILL);
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
        if let Some(mend) = damage.mend {
            mend(subject.repository.path());
            eventually("a worker that serves", || subject.health("service") == "full");
            for name in ["07/file-7", "08/file-8"] {
                let expected = fs::read(tree.join(name)).expect("readable");
                // A kernel that cannot send a request again has the old worker answer one more from each of its threads.
                eventually("an answer", || fs::read(subject.join(name)).is_ok_and(|bytes| bytes == expected));
            }
        }
        subject.mounted.unmount();
    }
}

fn refusal(subject: &Subject, name: &str) -> Option<i32> {
    fs::read_dir(subject.join(name)).err().and_then(|error| error.raw_os_error())
}
