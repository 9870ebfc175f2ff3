//! Speculative fetches: no more of them stays unread than was read.

use std::path::{Path, PathBuf};

use super::number;
use crate::common::link::{Link, Shape};
use crate::common::sandbox::{Repository, Sandbox, run};
use crate::common::web::Web;

/// Programs that read parts of many files, as a user starts them: the standard library, many modules, a C extension.
const PROGRAMS: [&str; 3] = [
    "pass",
    "import asyncio, email.message, http.client, json, logging.config, unittest, xml.dom.minidom",
    "import ctypes, decimal, multiprocessing.pool, sqlite3, ssl, tarfile, zipfile",
];

/// Returns the distribution's Python: the program, and the directory of its modules.
fn python() -> (PathBuf, PathBuf) {
    let program = std::fs::canonicalize("/usr/bin/python3").expect("python3 is installed");
    let name = program.file_name().expect("a file").to_owned();
    (program, Path::new("/usr/lib").join(name))
}

#[test]
fn unread_speculative_bytes_stay_below_bytes_read() {
    let sandbox = Sandbox::new("guesses");
    let (program, library) = python();
    let tree = sandbox.directory("tree");
    for directory in ["bin", "lib"] {
        std::fs::create_dir(tree.join(directory)).expect("the sandbox is writable");
    }
    run("cp", [program.as_os_str(), tree.join("bin/python").as_os_str()]).success();
    run("cp", ["-a".as_ref(), library.as_os_str(), tree.join("lib").as_os_str()]).success();
    let publisher = sandbox.repository("publisher");
    publisher.commit("main", &tree);
    let published = sandbox.join("published");
    publisher.run(["publish", &format!("file://{}", published.display()), "main"]).success();
    let web = Web::serve(&published);
    let link = Link::to(web.address(), Shape::HOME);
    let client = sandbox.repository("client");
    client.run(["remote", "add", "os", &format!("http://{}", link.address()), "--insecure-unsigned"]).success();
    let mounted = client.mount("os:main", &sandbox.join("mounted"), &[]);
    let before = fetched(&client);
    for program in PROGRAMS {
        let python = mounted.path().join("bin/python");
        let home = format!("PYTHONHOME={}", mounted.path().display());
        let words =
            [home.as_ref(), "PYTHONDONTWRITEBYTECODE=1".as_ref(), python.as_os_str(), "-c".as_ref(), program.as_ref()];
        run("env", words).success();
        let (all, unread) = fetched(&client);
        println!("after '{program}': {} bytes fetched, {unread} of them unread", all - before.0);
        assert!(unread <= (all - before.0) / 2, "after '{program}': {unread} of {} bytes are unread", all - before.0);
    }
    mounted.unmount();
}

/// Returns the fetched bytes, and the bytes that were fetched ahead and not read yet.
fn fetched(client: &Repository) -> (u64, u64) {
    let text = client.run(["mounts", "--json"]).success();
    let mounts: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    (number(&mounts[0], "bytes_fetched"), number(&mounts[0], "bytes_ahead_unread"))
}
