//! Removes what must differ on each machine: private keys, shared secrets, identities; and has the machine make it again at its
//! first boot, where the image has a program for that.
//!
//! Scripts of packages make such files while a root is composed. In a commit they would be the same on all machines, and known
//! to everyone who can read the commit.
//!
//! Keys are recognised by content, identities by name. A file that the treefile adds (`add-files`), or names in
//! `keep-identities`, stays.
//!
//! *Used by* `layout`.

use super::super::staged::{StagedTree, lossy_text};
use super::LayoutError;
use crate::model::FileKind;

/// The directories that are searched. What packages have below `/usr` is the same for everyone who has the package.
const SEARCHED: [&str; 8] = ["/etc", "/var", "/root", "/home", "/srv", "/opt", "/usr/local", "/boot"];

/// The number of bytes at the beginning of a file that are searched for a key.
const SEARCHED_BYTES: usize = 64 << 10;

/// Texts that only files with a private key or a shared secret have.
const KEY_TEXTS: [&str; 6] = [
    "PRIVATE KEY-----",
    "PRIVATE KEY BLOCK-----",
    "-----BEGIN OpenVPN Static key",
    "(private-key",
    "\npvt_exp=",
    "# Private key file of OSSEC",
];

/// First bytes of binary files with keys: those of Kerberos (`keytab(5)`).
const KEY_MAGICS: [&[u8]; 1] = [b"\x05\x02\x00\x00"];

/// Files that identify one machine, or hold a secret of it that its content does not show. `*` stands for any part of a name.
const IDENTITIES: [(&str, &str); 36] = [
    ("/etc/bacula/common_default_passwords", "passwords"),
    ("/etc/ceph/*.keyring", "a secret"),
    ("/etc/corosync/authkey", "a secret"),
    ("/etc/dbconfig-common/*.conf", "a password"),
    ("/etc/docker/key.json", "a private key"),
    ("/etc/dropbear/dropbear_*_host_key", "a private key"),
    ("/etc/iscsi/initiatorname.iscsi", "the machine's name as an initiator"),
    ("/etc/machine-info", "the machine's description"),
    ("/etc/munge/munge.key", "a secret"),
    ("/etc/mysql/debian.cnf", "a password"),
    ("/etc/nvme/hostid", "the machine's id as a host of NVMe"),
    ("/etc/nvme/hostnqn", "the machine's name as a host of NVMe"),
    ("/etc/pacemaker/authkey", "a secret"),
    ("/etc/phpmyadmin/config-db.php", "a password"),
    ("/etc/ssl/certs/ssl-cert-snakeoil.pem", "the certificate of a key that is left out"),
    ("/etc/tinyssh/sshkeydir/*", "a private key"),
    ("/etc/unbound/unbound_control.pem", "the certificate of a key that is left out"),
    ("/etc/unbound/unbound_server.pem", "the certificate of a key that is left out"),
    ("/etc/nsd/nsd_control.pem", "the certificate of a key that is left out"),
    ("/etc/nsd/nsd_server.pem", "the certificate of a key that is left out"),
    ("/etc/xrdp/rsakeys.ini", "a private key"),
    ("/var/lib/boinc-client/gui_rpc_auth.cfg", "a password"),
    ("/var/lib/glusterd/glusterd.info", "the machine's id"),
    ("/var/lib/mysql/auto.cnf", "the machine's id"),
    ("/var/lib/netdata/registry/netdata.public.unique.id", "the machine's id"),
    ("/var/lib/NetworkManager/secret_key", "a secret"),
    ("/var/lib/phpmyadmin/blowfish_secret.inc.php", "a secret"),
    ("/var/lib/rabbitmq/.erlang.cookie", "a secret"),
    ("/var/lib/samba/private/secrets.tdb", "secrets"),
    ("/var/lib/snmp/snmpd.conf", "the machine's id"),
    ("/var/lib/sss/secrets/.secrets.mkey", "a secret"),
    ("/var/lib/tor/keys/*", "a private key"),
    ("/var/lib/tor/*/hs_ed25519_secret_key", "a private key"),
    ("/var/lib/zerotier-one/identity.secret", "a private key"),
    ("/etc/mailname", "the machine's name"),
    ("/etc/libvirt/secrets/*", "a secret"),
];

/// A program that makes such a file on the machine.
struct Generator {
    /// The name of the unit, without `sapwood-identity-`.
    name: &'static str,
    /// The files that it makes; the unit does nothing if the first exists.
    makes: &'static [&'static str],
    /// The program that the image must have.
    program: &'static str,
    /// The command.
    command: &'static str,
}

const GENERATORS: [Generator; 11] = [
    Generator {
        name: "ssh",
        makes: &["/etc/ssh/ssh_host_ed25519_key"],
        program: "/usr/sbin/sshd",
        command: "/usr/bin/ssh-keygen -A",
    },
    Generator {
        name: "ssl-cert",
        makes: &["/etc/ssl/private/ssl-cert-snakeoil.key", "/etc/ssl/certs/ssl-cert-snakeoil.pem"],
        program: "/usr/sbin/make-ssl-cert",
        command: "/usr/sbin/make-ssl-cert generate-default-snakeoil --force-overwrite",
    },
    Generator {
        name: "rndc",
        makes: &["/etc/bind/rndc.key"],
        program: "/usr/sbin/rndc-confgen",
        command: "/bin/sh -c '/usr/sbin/rndc-confgen -a -c /etc/bind/rndc.key && chown bind:bind /etc/bind/rndc.key && chmod 640 /etc/bind/rndc.key'",
    },
    Generator {
        name: "iscsi",
        makes: &["/etc/iscsi/initiatorname.iscsi"],
        program: "/usr/sbin/iscsi-iname",
        command: "/bin/sh -c 'umask 077; name=$(/usr/sbin/iscsi-iname) && echo \"InitiatorName=$name\" >/etc/iscsi/initiatorname.iscsi'",
    },
    Generator {
        name: "nvme",
        makes: &["/etc/nvme/hostnqn", "/etc/nvme/hostid"],
        program: "/usr/sbin/nvme",
        command: "/bin/sh -c 'mkdir -p /etc/nvme; /usr/sbin/nvme gen-hostnqn >/etc/nvme/hostnqn && cat /proc/sys/kernel/random/uuid >/etc/nvme/hostid'",
    },
    Generator {
        name: "munge",
        makes: &["/etc/munge/munge.key"],
        program: "/usr/sbin/mungekey",
        command: "/bin/sh -c '/usr/sbin/mungekey --create && chown munge:munge /etc/munge/munge.key'",
    },
    Generator {
        name: "xrdp",
        makes: &["/etc/xrdp/rsakeys.ini"],
        program: "/usr/bin/xrdp-keygen",
        command: "/bin/sh -c '/usr/bin/xrdp-keygen xrdp /etc/xrdp/rsakeys.ini && chown xrdp:xrdp /etc/xrdp/rsakeys.ini && chmod 600 /etc/xrdp/rsakeys.ini'",
    },
    Generator {
        name: "unbound",
        makes: &[
            "/etc/unbound/unbound_server.key",
            "/etc/unbound/unbound_server.pem",
            "/etc/unbound/unbound_control.key",
            "/etc/unbound/unbound_control.pem",
        ],
        program: "/usr/sbin/unbound-control-setup",
        command: "/usr/sbin/unbound-control-setup",
    },
    Generator {
        name: "nsd",
        makes: &[
            "/etc/nsd/nsd_server.key",
            "/etc/nsd/nsd_server.pem",
            "/etc/nsd/nsd_control.key",
            "/etc/nsd/nsd_control.pem",
        ],
        program: "/usr/sbin/nsd-control-setup",
        command: "/usr/sbin/nsd-control-setup",
    },
    Generator {
        name: "dropbear",
        makes: &[
            "/etc/dropbear/dropbear_ed25519_host_key",
            "/etc/dropbear/dropbear_ecdsa_host_key",
            "/etc/dropbear/dropbear_rsa_host_key",
        ],
        program: "/usr/bin/dropbearkey",
        command: "/bin/sh -c 'for type in rsa ecdsa ed25519; do /usr/bin/dropbearkey -t $type -f /etc/dropbear/dropbear_$${type}_host_key; done'",
    },
    Generator {
        name: "mailname",
        makes: &["/etc/mailname"],
        program: "/usr/sbin/sendmail",
        command: "/bin/sh -c 'hostname --fqdn >/etc/mailname || hostname >/etc/mailname'",
    },
];

/// The directory of units, and that of the links which start them.
const UNITS: &str = "/usr/lib/systemd/system";

/// A file that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// Its path in the root.
    pub(crate) path: String,
    /// What it holds.
    pub(crate) what: &'static str,
    /// The unit that makes it again, if there is one.
    pub(crate) unit: Option<String>,
}

/// Removes all such files but those in `kept`, and adds units that make them again. Returns what was removed.
pub(crate) fn remove(staged: &mut StagedTree, kept: &[&str]) -> Result<Vec<LeftOut>, LayoutError> {
    let mut removed = Vec::new();
    let paths: Vec<_> = SEARCHED.iter().flat_map(|directory| staged.descendants(directory)).collect();
    for (path, id) in paths {
        let text = lossy_text(&path);
        if staged.tree().node(id).kind.file_kind() != FileKind::Regular || kept.contains(&text.as_str()) {
            continue;
        }
        let Some(what) = identify(staged, &text)? else { continue };
        staged.remove(&path);
        removed.push(LeftOut { path: text, what, unit: None });
    }
    let has_systemd = staged.is_directory(UNITS);
    for generator in GENERATORS.iter().filter(|_| has_systemd) {
        let first = generator.makes[0];
        let is_missing = staged.find(first).is_none() && staged.find(generator.program).is_some();
        let is_made = |left: &LeftOut| generator.makes.contains(&left.path.as_str());
        // Host keys of SSH are among the leftovers that are always removed.
        if !is_missing || !(generator.name == "ssh" || removed.iter().any(is_made)) {
            continue;
        }
        let unit = format!("sapwood-identity-{}.service", generator.name);
        staged.write(format!("{UNITS}/{unit}"), unit_text(first, generator.command).as_bytes(), 0o644)?;
        staged.ensure_directory(format!("{UNITS}/sysinit.target.wants"), 0o755)?;
        staged.symlink(format!("{UNITS}/sysinit.target.wants/{unit}"), format!("../{unit}"))?;
        removed.iter_mut().filter(|left| is_made(left)).for_each(|left| left.unit = Some(unit.clone()));
    }
    Ok(removed)
}

/// Returns what a file holds that must differ on each machine, if it does.
fn identify(staged: &StagedTree, path: &str) -> Result<Option<&'static str>, LayoutError> {
    if let Some((_, what)) = IDENTITIES.iter().find(|(pattern, _)| matches(pattern, path)) {
        return Ok(Some(*what));
    }
    let bytes = staged.read(path)?.unwrap_or_default();
    let head = &bytes[..bytes.len().min(SEARCHED_BYTES)];
    let contains = |text: &str| head.windows(text.len()).any(|window| window == text.as_bytes());
    if KEY_TEXTS.iter().any(|text| contains(text)) || KEY_MAGICS.iter().any(|magic| head.starts_with(magic)) {
        return Ok(Some("a private key"));
    }
    // A key of `rndc` and of transactions (`named.conf(5)`).
    let is_shared_key = contains("algorithm") && contains("hmac-") && contains("secret \"");
    let is_tunnel_key = contains("[Interface]") && contains("PrivateKey") && contains("=");
    Ok((is_shared_key || is_tunnel_key).then_some("a secret"))
}

/// Returns whether a path matches a pattern, in which a `*` stands for any part of a name.
fn matches(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut names) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), names.next()) {
            (None, None) => return true,
            (Some(pattern), Some(name)) => {
                let is_match = match pattern.split_once('*') {
                    None => pattern == name,
                    Some((start, end)) => {
                        name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
                    }
                };
                if !is_match {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

fn unit_text(makes: &str, command: &str) -> String {
    format!(
        "[Unit]\nDescription=Make {makes} of this machine\nDefaultDependencies=no\nRequiresMountsFor=/etc /var\n\
         After=local-fs.target systemd-sysusers.service systemd-tmpfiles-setup.service systemd-random-seed.service\n\
         Before=sysinit.target shutdown.target\nConflicts=shutdown.target\nConditionPathExists=!{makes}\nConditionPathIsReadWrite=/etc\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={command}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_identities_are_left_out_and_made_again() {
        let mut staged = StagedTree::empty();
        let rndc = "key \"rndc-key\" {\n\talgorithm hmac-sha256;\n\tsecret \"bm9uZQ==\";\n};\n";
        for (path, text) in [
            ("/etc/ssl/private/ssl-cert-snakeoil.key", "-----BEGIN PRIVATE KEY-----\nx\n"),
            ("/etc/ssl/certs/ssl-cert-snakeoil.pem", "-----BEGIN CERTIFICATE-----\nx\n"),
            ("/etc/bind/rndc.key", rndc),
            ("/etc/nvme/hostnqn", "nqn"),
            ("/etc/own.key", "-----BEGIN RSA PRIVATE KEY-----\n"),
            ("/etc/named.conf", "options { };\n"),
            ("/etc/ssl/certs/ca.pem", "-----BEGIN CERTIFICATE-----\nx\n"),
            ("/usr/share/doc/test.key", "-----BEGIN PRIVATE KEY-----\n"),
            ("/usr/sbin/make-ssl-cert", "x"),
            ("/usr/lib/systemd/system/x.service", "x"),
        ] {
            staged.write(path, text.as_bytes(), 0o600).expect("free");
        }
        let removed = remove(&mut staged, &["/etc/own.key"]).expect("edits");
        let paths: Vec<(&str, Option<&str>)> =
            removed.iter().map(|left| (left.path.as_str(), left.unit.as_deref())).collect();
        assert_eq!(
            paths,
            [
                ("/etc/bind/rndc.key", None),
                ("/etc/nvme/hostnqn", None),
                ("/etc/ssl/certs/ssl-cert-snakeoil.pem", Some("sapwood-identity-ssl-cert.service")),
                ("/etc/ssl/private/ssl-cert-snakeoil.key", Some("sapwood-identity-ssl-cert.service")),
            ]
        );
        for kept in ["/etc/own.key", "/etc/named.conf", "/etc/ssl/certs/ca.pem", "/usr/share/doc/test.key"] {
            assert!(staged.find(kept).is_some(), "{kept}");
        }
        let wants = "/usr/lib/systemd/system/sysinit.target.wants/sapwood-identity-ssl-cert.service";
        assert_eq!(staged.link_target(wants), Some(&b"../sapwood-identity-ssl-cert.service"[..]));
    }

    #[test]
    fn pattern_stands_for_a_part_of_one_name() {
        assert!(matches("/etc/dropbear/dropbear_*_host_key", "/etc/dropbear/dropbear_rsa_host_key"));
        assert!(!matches("/var/lib/tor/keys/*", "/var/lib/tor/keys/a/b") && !matches("/a/*", "/a"));
    }
}
