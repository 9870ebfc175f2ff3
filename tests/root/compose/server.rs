//! The composed bootable server: kernel and initramfs in their places, units, and a `/var` that systemd can make.

use std::fs;

use super::fixture::{chroot, server};
use crate::common::sandbox::{Sandbox, run};

#[test]
fn kernel_and_initramfs_are_where_a_deployment_looks_for_them() {
    let shared = server();
    let shown: serde_json::Value =
        serde_json::from_str(&shared.sapwood(&["show", "--json", shared.name])).expect("JSON");
    let version = shown["commit"]["extra"]["compose.kernel"].as_str().expect("a kernel").to_owned();
    assert!(shown["commit"]["version"].as_str().expect("a version").starts_with("12.20"));
    let sandbox = Sandbox::new("compose-server");
    let mounted = shared.mount(&sandbox);
    let modules = mounted.path().join("usr/lib/modules").join(&version);
    for file in ["vmlinuz", "initramfs.img", "config", "modules.dep"] {
        assert!(fs::metadata(modules.join(file)).is_ok_and(|metadata| metadata.len() > 1000), "{file}");
    }
    assert_eq!(fs::read_dir(mounted.path().join("boot")).expect("listable").count(), 0);
    let kind = run("file", ["-b".as_ref(), modules.join("vmlinuz").as_os_str()]).success();
    assert!(kind.contains("Linux kernel") && kind.contains(&version), "{kind}");
    let listing = run("lsinitrd", [modules.join("initramfs.img")]).success();
    for part in ["usr/lib/systemd/systemd", "virtio_blk.ko", "fuse.ko", "overlay.ko", "etc/initrd-release"] {
        assert!(listing.contains(part), "the initramfs has no {part}");
    }
}

#[test]
fn systemd_finds_its_units_users_and_var() {
    let shared = server();
    let sandbox = Sandbox::new("compose-units");
    // A copy on disk, with /etc as in a deployment.
    let root = sandbox.join("copy");
    shared.sapwood(&["export", shared.name, &root.to_string_lossy()]);
    run("cp", ["-a".as_ref(), root.join("usr/etc/.").as_os_str(), root.join("etc").as_os_str()]).success();
    let inside = format!("--root={}", root.display());
    for unit in ["ssh.service", "systemd-networkd.service", "systemd-resolved.service"] {
        assert_eq!(run("systemctl", [inside.as_str(), "is-enabled", unit]).success(), "enabled", "{unit}");
    }
    assert_eq!(run("systemctl", [inside.as_str(), "get-default"]).success(), "multi-user.target");
    run("systemd-tmpfiles", [inside.as_str(), "--create", "--exclude-prefix=/dev", "--exclude-prefix=/run"]).success();
    assert!(chroot(&root, &["dpkg", "-l", "openssh-server"]).success().contains("ii  openssh-server"));
    assert!(root.join("var/roothome/.bashrc").is_file() && root.join("root/.bashrc").is_file());
    let before = fs::read_to_string(root.join("etc/passwd")).expect("it exists");
    run("systemd-sysusers", [inside.as_str()]).success();
    assert_eq!(fs::read_to_string(root.join("etc/passwd")).expect("it exists"), before, "every user is there already");
    // Without /etc/passwd, sysusers.d makes the same users with the same ids.
    for file in ["passwd", "group", "shadow", "gshadow"] {
        fs::remove_file(root.join("etc").join(file)).expect("it exists");
    }
    run("systemd-sysusers", [inside.as_str()]).success();
    let ids = |text: &str| {
        let line = |line: &str| {
            line.split(':').take(3).filter(|field| *field != "x").map(str::to_owned).collect::<Vec<_>>().join(":")
        };
        let mut lines: Vec<String> = text.lines().map(line).map(|line| line.replace(":!*:", ":")).collect();
        lines.sort();
        lines
    };
    let after = fs::read_to_string(root.join("etc/passwd")).expect("made");
    assert_eq!(ids(&after), ids(&before));
}

#[test]
fn excluded_languages_and_documentation_are_left_out() {
    let shared = server();
    let paths = shared.sapwood(&["ls", &format!("{}:/usr/share/man", shared.name)]);
    assert_eq!(paths, "");
    let locales = shared.sapwood(&["ls", &format!("{}:/usr/share/locale", shared.name)]);
    assert!(!locales.lines().any(|name| name.starts_with("de")), "{locales}");
    let documents = shared.sapwood(&["ls", &format!("{}:/usr/share/doc/bash", shared.name)]);
    assert_eq!(documents, "copyright");
}
