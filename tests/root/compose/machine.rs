//! What a machine has in `/etc`, `/var`, `/opt` and `/usr/local` is what the package manager left there. The oracle is a root that
//! mmdebstrap made; systemd's own programs make the machine's `/var`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::fixture::Composer;
use super::isolation::small_root;
use crate::common::sandbox::{Sandbox, run};
use crate::common::trees;

/// Copies the parts of a Debian root that a machine gets a copy of, and what says how it is made.
fn parts_of_debian(root: &Path) {
    let debian = trees::debian_root();
    fs::create_dir_all(root.join("usr/lib")).expect("writable");
    for part in ["etc", "var", "opt", "home", "root", "srv", "usr/local", "usr/lib/tmpfiles.d", "usr/lib/sysusers.d"] {
        run("cp", ["-a".as_ref(), debian.join(part).as_os_str(), root.join(part).as_os_str()]).success();
    }
    fs::copy(debian.join("usr/lib/os-release"), root.join("usr/lib/os-release")).expect("it has one");
    for link in ["bin", "lib", "sbin", "lib64"] {
        fs::create_dir_all(root.join("usr").join(link)).expect("writable");
        symlink(format!("usr/{link}"), root.join(link)).expect("writable");
    }
}

/// Adds what packages of servers and vendors have.
const MORE: &str = r#"
cd "$1"
echo "named:x:953:953::/var/cache/bind:/usr/sbin/nologin" >>etc/passwd
echo "named:x:953:" >>etc/group
install -d -m 2775 -g 953 var/cache/bind var/cache/bind/zones
install -d -m 1730 -o 953 -g 953 "var/spool/a b" var/log/server
install -d -m 0750 -o 953 var/lib/server 'var/lib/server/x"y' "var/lib/server/it's" 'var/lib/server/back\slash' 'var/lib/server/50%'
printf state >var/lib/server/state; chmod 640 var/lib/server/state; chown 953:0 var/lib/server/state
: >'var/lib/server/empty file'
ln -s ../server/state 'var/lib/server/a link'
mkfifo -m 620 var/lib/server/pipe
printf secret >"var/lib/server/$(printf '\344\377')"
install -d opt/acme/bin opt/acme/conf var/opt/acme/db "opt/Acme VPN" var/opt/acme/conf
printf run >opt/acme/bin/run; chmod 4755 opt/acme/bin/run; printf x >opt/acme/conf/default; printf y >var/opt/acme/conf/own
printf vpn >"opt/Acme VPN/run"
install -d -m 2775 usr/local/lib/site; printf tool >usr/local/bin/tool; chmod 755 usr/local/bin/tool
echo kiosk >etc/hostname.kept; printf x >root/.kept; install -d -m 700 -o 953 home/kiosk; printf x >home/kiosk/file
"#;

/// What is below `/var` and compared elsewhere or not at all: what `/home`, `/opt` and so on lead to; the package database, which is
/// in `/usr`; files of caches and logs and lists of packages, of which only directories stay.
const VAR_FILTERS: [&str; 11] = [
    "--exclude=/home/",
    "--exclude=/mnt/",
    "--exclude=/opt/",
    "--exclude=/roothome/",
    "--exclude=/srv/",
    "--exclude=/usrlocal/",
    "--exclude=/lib/dpkg",
    "--include=*/",
    "--exclude=/cache/**",
    "--exclude=/lib/apt/**",
    "--exclude=/log/**",
];

/// Backup copies, names and keys of the machine on which the root was made, and dates of passwords are in no image. Lines of systemd and
/// D-Bus say what three links are, and systemd makes its catalogue at boot. `/opt` is the same directory as `/var/opt`, and the link
/// `man` leads to a directory there.
const EXPECTED: &str = "\
etc: >f+++++++++ group-
etc: >f+++++++++ gshadow-
etc: >f+++++++++ hostname
etc: .f...p..... machine-id
etc: >f+++++++++ passwd-
etc: >f+++++++++ resolv.conf
etc: >fcsT...... shadow
etc: >f+++++++++ shadow-
etc: >f+++++++++ ssh/ssh_host_ecdsa_key
etc: >f+++++++++ ssh/ssh_host_ecdsa_key.pub
etc: >f+++++++++ ssh/ssh_host_ed25519_key
etc: >f+++++++++ ssh/ssh_host_ed25519_key.pub
etc: >f+++++++++ ssh/ssh_host_rsa_key
etc: >f+++++++++ ssh/ssh_host_rsa_key.pub
var: cLc.T...... lock -> /run/lock
var: cLc.T...... run -> /run
var: *deleting   lib/dbus/machine-id
var: >f+++++++++ lib/systemd/catalog/database
opt: >f+++++++++ acme/conf/own
opt: cd+++++++++ acme/db/
usr/local: cd+++++++++ man/";

#[test]
fn machine_has_what_the_package_manager_left() {
    let sandbox = Sandbox::new("compose-machine");
    let (root, machine) = (sandbox.directory("root"), sandbox.join("machine"));
    parts_of_debian(&root);
    run("sh", ["-e".as_ref(), "-c".as_ref(), MORE.as_ref(), "sh".as_ref(), root.as_os_str()]).success();
    let composer = Composer::new(&sandbox.join("c"));
    composer.compose(&["--from-root", &root.to_string_lossy(), "--ref", "given/root"]);
    composer.repository.run(["export", "given/root", &machine.to_string_lossy()]).success();
    run("cp", ["-a".as_ref(), machine.join("usr/etc/.").as_os_str(), machine.join("etc").as_os_str()]).success();
    let inside = format!("--root={}", machine.display());
    run("systemd-sysusers", [inside.as_str()]).success();
    let made = run("systemd-tmpfiles", [&*inside, "--create", "--exclude-prefix=/dev", "--exclude-prefix=/run"]);
    let of_var: Vec<&str> = made.stderr.lines().filter(|line| line.contains("/machine/var/")).collect();
    assert!(of_var.is_empty(), "{of_var:#?}");

    let mut found = Vec::new();
    for part in ["etc", "var", "opt", "usr/local", "root", "home", "srv"] {
        // Links there lead to what is in /usr; rsync follows those of the sender.
        let has_links = matches!(part, "opt" | "usr/local");
        let (from, to) = if has_links { (&machine, &root) } else { (&root, &machine) };
        let [from, to] = [from, to].map(|top| format!("{}/", top.join(part).display()));
        let links = if has_links { "-L" } else { "-l" };
        let mut options = vec!["-nc", "-rpgoDHAX", links, "--delete", "-i"];
        if part == "var" {
            options.extend(VAR_FILTERS);
        }
        let said = run("rsync", options.into_iter().chain([&*from, &*to])).success();
        found.extend(said.lines().map(|line| format!("{part}: {line}")));
    }
    assert_eq!(found.join("\n"), EXPECTED);
    // What follows the commit is a link to it, and what does not is a copy.
    let link = |path: &str| fs::read_link(machine.join(path)).expect(path).display().to_string();
    assert_eq!(link("var/usrlocal/bin/tool"), "../../../usr/lib/usrlocal/bin/tool");
    assert_eq!(link("var/opt/Acme VPN"), "../../usr/lib/opt/Acme VPN");
    assert!(fs::symlink_metadata(machine.join("var/opt/acme/db")).expect("state").is_dir());
}

/// A root that no package manager knows, with a host name and resolver of the machine that made it.
#[test]
fn what_a_treefile_asks_for_by_name_is_in_the_commit() {
    let sandbox = Sandbox::new("compose-asked");
    let root = sandbox.directory("root");
    small_root(&root);
    fs::remove_dir_all(root.join("var/lib/dpkg")).expect("own");
    fs::create_dir_all(root.join("etc")).expect("writable");
    for file in ["hostname", "resolv.conf"] {
        fs::write(root.join("etc").join(file), "of the builder\n").expect("writable");
    }
    fs::write(sandbox.join("asked"), "asked\n").expect("writable");
    let composer = Composer::new(&sandbox.join("c"));
    let treefile = sandbox.join("t.yaml");
    let compose = |lines: &str| {
        fs::write(&treefile, format!("ref: t/x\ndistribution: debian\n{lines}")).expect("writable");
        composer.compose(&["--from-root", &root.to_string_lossy(), &treefile.to_string_lossy()])
    };
    let cat = |path: &str| composer.repository.run(["cat", &format!("t/x:{path}")]);
    let tmpfiles = || cat("/usr/lib/tmpfiles.d/sapwood-var.conf").success();

    compose("postprocess: ['echo ran >/usr/lib/ran']\n");
    assert_eq!(cat("/usr/lib/ran").success(), "ran");
    cat("/usr/etc/hostname").failure(1);
    cat("/usr/etc/resolv.conf").failure(1);
    compose(
        "postprocess: ['echo kiosk >/etc/hostname']\n\
         add-files: [[asked, /etc/resolv.conf], [asked, /var/cache/app/seed], [asked, /usr/local/bin/tool]]\n",
    );
    assert_eq!(cat("/usr/etc/hostname").success(), "kiosk");
    assert_eq!(cat("/usr/etc/resolv.conf").success(), "asked");
    assert_eq!(cat("/usr/share/factory/var/cache/app/seed").success(), "asked");
    let lines = tmpfiles();
    assert!(lines.contains("L /var/usrlocal/bin/tool - - - - ../../../usr/lib/usrlocal/bin/tool"), "{lines}");
    compose("opt-usrlocal: machine\nadd-files: [[asked, /usr/local/bin/tool]]\n");
    let lines = tmpfiles();
    assert!(lines.contains("C /var/usrlocal/bin/tool - - - - /usr/share/factory/var/usrlocal/bin/tool"), "{lines}");
    // The same treefile under another ref makes the same image.
    let image = |name: &str| {
        let shown = composer.repository.run(["show", "--json", name]).success();
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        shown["commit"]["image"].as_str().expect("an id").to_owned()
    };
    let first = image("t/x");
    let text = fs::read_to_string(&treefile).expect("written").replace("ref: t/x", "ref: t/y");
    fs::write(&treefile, text).expect("writable");
    composer.compose(&["--from-root", &root.to_string_lossy(), &treefile.to_string_lossy()]);
    assert_eq!(image("t/y"), first);
}
