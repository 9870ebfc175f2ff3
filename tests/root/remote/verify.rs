//! `publish --verify` reads the publication by the URL that clients use, and reports every fault.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt as _;

use crate::common::sandbox::{Sandbox, run};
use crate::common::trees;
use crate::common::web::Web;
use serde_json::Value;

#[test]
fn publish_verify_reads_by_url_and_reports_faults() {
    let sandbox = Sandbox::new("verify");
    let (publisher, tree, published) =
        (sandbox.repository("publisher"), sandbox.join("tree"), sandbox.join("published"));
    trees::medium(&tree, 120);
    let destination = format!("file://{}", published.display());
    let publish = |url: &str| publisher.run(["publish", "--json", "--verify", url, &destination, "main"]);
    let commit = publisher.commit("main", &tree);
    let web = Web::serve(&published);
    let told: Value = serde_json::from_str(&publish(&web.url()).success()).expect("JSON");
    let verified = &told["verify"]["refs"][0];
    assert_eq!((&verified["ref"], &verified["commit"]), (&"main".into(), &commit.as_str().into()), "{told}");
    let size: u64 = told["publish"]["pack_bytes"].as_u64().expect("a number");
    assert!(verified["bytes"].as_u64().expect("a number") > size, "all of it was read: {told}");

    // A byte is changed between publisher and client.
    let damaged = sandbox.join("damaged");
    run("cp", [OsStr::new("-a"), published.as_os_str(), damaged.as_os_str()]).success();
    let pack =
        fs::read_dir(damaged.join("packs")).expect("published").next().expect("a pack").expect("listable").path();
    let file = fs::File::options().read(true).write(true).open(&pack).expect("owned by the test");
    let mut byte = [0];
    file.read_exact_at(&mut byte, size / 2).expect("it is longer");
    file.write_all_at(&[byte[0] ^ 1], size / 2).expect("writable");
    let said = publish(&Web::serve(&damaged).url()).failure(1);
    assert!(said.contains("cannot read 'main' from") && said.contains("packs/"), "{said}");

    // A cache shows an older ref.
    let stale = sandbox.directory("stale");
    run("cp", [OsStr::new("-a"), published.join("refs").as_os_str(), stale.as_os_str()]).success();
    for name in ["commits", "images", "locators", "packs", "placements"] {
        std::os::unix::fs::symlink(published.join(name), stale.join(name)).expect("writable");
    }
    fs::write(tree.join("new"), "contents").expect("writable");
    publisher.commit("main", &tree);
    let said = publish(&Web::serve(&stale).url()).failure(1);
    assert!(said.contains(&commit) && said.contains("keeps older refs"), "{said}");
    publish(&web.url()).success();
    let left = fs::read_dir(publisher.path().join("tmp")).expect("it exists").count();
    assert_eq!(left, 0, "the repository that was read into is gone");
}
