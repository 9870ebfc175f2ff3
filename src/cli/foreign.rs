//! The verbs of similar programs (ostree, rpm-ostree, git, restic, borg) that are called otherwise here.
//!
//! *Not here*: misspelt verbs, for which clap finds similar ones.
//!
//! *Invariants*: no word of the table is a verb of this program, and each sentence names one that exists. *Used by* `cli::parse`.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Verbs of other programs, each with the beginning of the command that does the same here and what it does.
const FOREIGN_VERBS: &[(&[&str], &str, &str)] = &[
    (&["checkout", "extract", "restore"], "export SOURCE DIR", "writes a commit out as a directory"),
    (
        &["prune", "purge", "forget", "expire"],
        "gc",
        "removes what no ref needs; 'sapwood refs --delete REF' deletes a ref",
    ),
    (&["rev-parse", "checksum", "inspect", "info"], "show SOURCE", "prints the id of a commit and all about it"),
    (
        &["reset", "revert", "undo"],
        "refs --move REF SOURCE",
        "lets a ref name another commit, 'sapwood refs --undo REF' undoes that",
    ),
    (&["branch", "tag", "ref"], "refs --create NEW SOURCE", "makes a ref"),
    (
        &["branches", "tags", "list", "snapshots", "images"],
        "refs",
        "lists the refs, 'sapwood ls SOURCE' a directory of a commit",
    ),
    (&["backup", "create", "import", "add", "store", "save"], "commit --ref REF DIR", "stores a directory as a commit"),
    (&["verify", "check", "scrub"], "fsck", "checks the repository"),
    (
        &["push", "upload", "summary", "static-delta", "sign", "gpg-sign"],
        "publish URL REF",
        "writes what clients fetch, signed and with deltas",
    ),
    (&["fetch", "pull-local", "clone", "download"], "pull REMOTE:REF", "fetches a commit"),
    (&["trivial-httpd", "httpd", "server"], "serve DIR", "serves a directory over HTTP"),
    (&["unmount", "fusermount"], "umount DIR", "unmounts"),
    (&["find", "tree"], "ls -R SOURCE:/path", "lists everything below a directory"),
    (&["du", "df", "stats", "usage"], "size", "says what refs take"),
    (&["rebase", "set-origin"], "switch REMOTE:REF", "lets the machine follow another ref"),
    (
        &["admin", "initramfs", "initramfs-etc"],
        "status",
        "lists deployments; 'sapwood deploy', 'upgrade' and 'rollback' change them",
    ),
    (&["update"], "upgrade", "deploys the newest commit"),
    (
        &["install", "override", "uninstall", "usroverlay", "apply-live"],
        "compose TREEFILE",
        "makes a commit from a list of packages",
    ),
];

/// Returns the error for a verb of another program with what it is called here, and any other error unchanged.
pub(crate) fn explain(error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    let row = FOREIGN_VERBS.iter().find(|(words, ..)| words.contains(&given.as_str()));
    match row {
        Some((_, command, what)) if error.kind() == ErrorKind::InvalidSubcommand => {
            let text = format!("there is no verb '{given}' here: 'sapwood {command}' {what}\n");
            clap::Error::raw(ErrorKind::InvalidSubcommand, text)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_verbs_are_none_of_ours_and_lead_to_ours() {
        let command = crate::cli::command();
        for (words, ours, what) in FOREIGN_VERBS {
            words.iter().for_each(|word| assert!(command.find_subcommand(word).is_none(), "{word}"));
            let quoted = what.split("'sapwood ").skip(1);
            for text in quoted.chain([*ours]) {
                let verb = text.split([' ', '\'']).next().expect("not empty");
                assert!(command.find_subcommand(verb).is_some(), "{verb}");
            }
        }
    }
}
