//! The SELinux policy module compiles and installs into the distribution's policy.
//!
//! *Not here*: booting with it, since no kernel of these tests has SELinux.

use std::path::Path;

use crate::common::sandbox::{Sandbox, run};
use crate::system::tools;

/// Directories that `semodule` needs in a root.
const POLICY: [&str; 3] = ["/var/lib/selinux", "/etc/selinux", "/usr/share/selinux"];

#[test]
fn selinux_module_installs_into_the_distributions_policy() {
    tools();
    let sandbox = Sandbox::new("boot-selinux");
    let path = |name: &str| sandbox.join(name).display().to_string();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/selinux/sapwood.te");
    run("checkmodule", ["-M", "-m", "-o", &path("sapwood.mod"), &source.display().to_string()]).success();
    run("semodule_package", ["-o", &path("sapwood.pp"), "-m", &path("sapwood.mod")]).success();
    let root = sandbox.directory("root");
    for directory in POLICY {
        assert!(Path::new(directory).exists(), "{directory} is missing: tests/boot/tools installs it");
        let parent = root.join(Path::new(&directory[1..]).parent().expect("it has one"));
        std::fs::create_dir_all(&parent).expect("writable");
        run("cp", ["-a".as_ref(), directory.as_ref(), parent.as_os_str()]).success();
    }
    let root = root.display().to_string();
    run("semodule", ["-p", &root, "-s", "default", "-n", "-i", &path("sapwood.pp")]).success();
    let list = run("semodule", ["-p", &root, "-s", "default", "-l"]).success();
    assert!(list.lines().any(|line| line.trim() == "sapwood"), "{list}");
}
