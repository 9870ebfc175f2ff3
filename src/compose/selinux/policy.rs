//! Reads the SELinux policy in a composed root and labels every path as a machine will see it.
//!
//! *Invariants*: the files are read in the order of libselinux: `file_contexts`, then `.homedirs`, then `.local`, where
//! later rules win. `.subs` and then `.subs_dist` replace the start of a path before it is looked up, each at most once;
//! the last matching line is used. `/usr/etc` is looked up as `/etc`, which it becomes on the machine.
//!
//! *Used by* `pipeline`.

use super::super::staged::{StagedTree, StagedTreeError, lossy_text};
use super::{ContextsError, FileContexts};

const POLICY_DIRECTORY: &str = "/usr/etc/selinux";

/// Why a root cannot be labelled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelinuxPolicyError {
    /// The root has no policy.
    #[error(
        "'selinux: true' is set, and there is no policy in the root: add one to 'packages' (Debian: selinux-policy-default), or set 'selinux: false'"
    )]
    Missing,
    /// A file of the policy is invalid.
    #[error("{file}")]
    Contexts { file: String, source: ContextsError },
    /// A file cannot be read.
    #[error(transparent)]
    Edit(#[from] StagedTreeError),
    /// A label cannot be set.
    #[error(transparent)]
    Label(#[from] ContextsError),
}

/// The rules of a policy and its aliases of paths.
pub(crate) struct SelinuxPolicy {
    contexts: FileContexts,
    /// Prefixes and their replacements from `.subs` and `.subs_dist`. Of each list the first match is used.
    aliases: [Vec<(Vec<u8>, Vec<u8>)>; 2],
}

impl SelinuxPolicy {
    /// Reads the policy of a root whose layout is finished.
    pub(crate) fn read(staged: &StagedTree) -> Result<Self, SelinuxPolicyError> {
        let name = policy_name(staged)?.ok_or(SelinuxPolicyError::Missing)?;
        let file = |suffix: &str| format!("{POLICY_DIRECTORY}/{name}/contexts/files/file_contexts{suffix}");
        let text = |suffix: &str| staged.read_text(file(suffix));
        let contexts_error = |suffix: &str| {
            let file = file(suffix);
            move |source| SelinuxPolicyError::Contexts { file, source }
        };
        let main = text("")?.ok_or(SelinuxPolicyError::Missing)?;
        let mut contexts = FileContexts::parse(&main).map_err(contexts_error(""))?;
        for suffix in [".homedirs", ".local"] {
            contexts.extend(&text(suffix)?.unwrap_or_default()).map_err(contexts_error(suffix))?;
        }
        let aliases = [
            parse_aliases(&text(".subs")?.unwrap_or_default()),
            parse_aliases(&text(".subs_dist")?.unwrap_or_default()),
        ];
        Ok(Self { contexts, aliases })
    }

    /// Labels every entry.
    pub(crate) fn apply(&self, staged: &mut StagedTree) -> Result<(), SelinuxPolicyError> {
        Ok(self.contexts.apply_as(staged.tree_mut(), &|path| self.policy_path(path))?)
    }

    /// Returns the path under which the policy has the rules for a path of the image.
    fn policy_path(&self, path: &[u8]) -> Vec<u8> {
        let mut path = match path.strip_prefix(b"/usr/etc") {
            Some(rest) if rest.is_empty() || rest[0] == b'/' => [b"/etc", rest].concat(),
            _ => path.to_vec(),
        };
        for list in &self.aliases {
            let fitting = list.iter().find_map(|(from, to)| {
                let rest = path.strip_prefix(&from[..])?;
                (rest.is_empty() || rest[0] == b'/').then(|| {
                    let rest = if to == b"/" { rest.strip_prefix(b"/").unwrap_or(rest) } else { rest };
                    [&to[..], rest].concat()
                })
            });
            path = fitting.unwrap_or(path);
        }
        path
    }
}

/// Returns the name of the policy that the configuration selects, or of the only one in the root.
fn policy_name(staged: &StagedTree) -> Result<Option<String>, SelinuxPolicyError> {
    let has_contexts =
        |name: &str| staged.find(format!("{POLICY_DIRECTORY}/{name}/contexts/files/file_contexts")).is_some();
    let config = staged.read_text(format!("{POLICY_DIRECTORY}/config"))?.unwrap_or_default();
    let configured = config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    if let Some(name) = configured.map(|name| name.trim().trim_matches('"'))
        && has_contexts(name)
    {
        return Ok(Some(name.to_owned()));
    }
    let names = staged.list(POLICY_DIRECTORY).into_iter().map(|name| lossy_text(name.as_bytes()));
    let mut names = names.filter(|name| has_contexts(name));
    Ok(names.next().filter(|_| names.next().is_none()))
}

fn parse_aliases(text: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pair = |line: &str| {
        let mut words = line.split_whitespace();
        let (from, to) = (words.next()?, words.next()?);
        (!from.starts_with('#')).then(|| (from.as_bytes().to_vec(), to.as_bytes().to_vec()))
    };
    text.lines().rev().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(staged: &StagedTree, path: &str) -> String {
        let xattrs = &staged.node(path).expect("the entry exists").metadata.xattrs;
        xattrs
            .get(b"security.selinux")
            .map_or_else(String::new, |label| lossy_text(label).trim_end_matches('\0').to_owned())
    }

    #[test]
    fn paths_are_labelled_as_a_machine_will_see_them() {
        let mut staged = StagedTree::empty();
        let files = "/usr/etc/selinux/targeted/contexts/files/file_contexts";
        for (suffix, text) in [
            ("", "/.* d\n/etc(/.*)? etc\n/usr/lib(/.*)? lib\n/home/[^/]+ -d wrong\n/srv(/.*)? <<none>>\n"),
            (".homedirs", "/home/[^/]+ -d home\n"),
            (".local", "/usr/lib/x local\n"),
            (".subs", "/data /home\n"),
            (".subs_dist", "# comment\n/usr/lib64 /usr/lib\n"),
        ] {
            staged.write(format!("{files}{suffix}"), text.as_bytes(), 0o644).expect("the path is free");
        }
        for directory in ["/home/user", "/data/user", "/usr/lib64/a", "/srv/x", "/usr/lib/x", "/usr/etcetera"] {
            staged.ensure_directory(directory, 0o755).expect("the path is free");
        }
        staged.write("/usr/etc/hosts", *b"x", 0o644).expect("the path is free");
        SelinuxPolicy::read(&staged)
            .expect("the root has a policy")
            .apply(&mut staged)
            .expect("every path can be labelled");
        for (path, expected) in [
            ("/usr/etc/hosts", "etc"),
            ("/usr/etcetera", "d"),
            ("/home/user", "home"),
            ("/data/user", "home"),
            ("/usr/lib64/a", "lib"),
            ("/usr/lib/x", "local"),
            ("/srv/x", ""),
        ] {
            assert_eq!(label(&staged, path), expected, "{path}");
        }
    }

    #[test]
    fn missing_or_malformed_policy_is_an_error() {
        assert!(matches!(SelinuxPolicy::read(&StagedTree::empty()), Err(SelinuxPolicyError::Missing)));
        let mut staged = StagedTree::empty();
        staged
            .write("/usr/etc/selinux/x/contexts/files/file_contexts", *b"/a -q b\n", 0o644)
            .expect("the path is free");
        let message = SelinuxPolicy::read(&staged).err().expect("the policy has a bad line").to_string();
        assert!(message.ends_with("/x/contexts/files/file_contexts"), "{message}");
    }
}
