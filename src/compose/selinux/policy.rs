//! The policy that a composed root brings along, and labels for every path as a machine will see it.
//!
//! As libselinux reads a policy: `file_contexts`, then `.homedirs`, then `.local`, later rules winning; `.subs` and then
//! `.subs_dist` replace the start of a path before it is looked up, each at most once, the last fitting line first.
//! `/usr/etc` is looked up as `/etc`, which it becomes.

use super::super::draft::{Draft, DraftError, words};
use super::{ContextsError, FileContexts};

const SELINUX: &str = "/usr/etc/selinux";

/// Why a root cannot be labelled.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// No policy.
    #[error(
        "'selinux: true' is set, and there is no policy in the root: add one to 'packages' (Debian: selinux-policy-default), or set 'selinux: false'"
    )]
    Missing,
    /// A file of the policy.
    #[error("{file}")]
    Contexts {
        /// Which.
        file: String,
        /// What is wrong.
        source: ContextsError,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// A label cannot be set.
    #[error(transparent)]
    Label(#[from] ContextsError),
}

/// The rules of a policy, and the aliases of paths.
pub struct Policy {
    contexts: FileContexts,
    /// Each list is tried once, from its start.
    aliases: [Vec<(Vec<u8>, Vec<u8>)>; 2],
}

impl Policy {
    /// The policy of a root whose layout is done.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn read(draft: &Draft) -> Result<Self, PolicyError> {
        let name = name(draft)?.ok_or(PolicyError::Missing)?;
        let file = |suffix: &str| format!("{SELINUX}/{name}/contexts/files/file_contexts{suffix}");
        let text = |suffix: &str| draft.text(file(suffix));
        let contexts_error = |suffix: &str| {
            let file = file(suffix);
            move |source| PolicyError::Contexts { file, source }
        };
        let main = text("")?.ok_or(PolicyError::Missing)?;
        let mut contexts = FileContexts::parse(&main).map_err(contexts_error(""))?;
        for suffix in [".homedirs", ".local"] {
            contexts.extend(&text(suffix)?.unwrap_or_default()).map_err(contexts_error(suffix))?;
        }
        let aliases = [aliases(&text(".subs")?.unwrap_or_default()), aliases(&text(".subs_dist")?.unwrap_or_default())];
        Ok(Self { contexts, aliases })
    }

    /// Labels every entry.
    ///
    /// # Errors
    /// [`PolicyError::Label`].
    pub fn apply(&self, draft: &mut Draft) -> Result<(), PolicyError> {
        Ok(self.contexts.apply_as(draft.tree_mut(), &|path| self.seen_as(path))?)
    }

    /// The path under which the policy knows a path of the image.
    fn seen_as(&self, path: &[u8]) -> Vec<u8> {
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

/// The policy that the configuration names, or the only one there is.
fn name(draft: &Draft) -> Result<Option<String>, PolicyError> {
    let has_contexts = |name: &str| draft.find(format!("{SELINUX}/{name}/contexts/files/file_contexts")).is_some();
    let config = draft.text(format!("{SELINUX}/config"))?.unwrap_or_default();
    let configured = config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    if let Some(name) = configured.map(|name| name.trim().trim_matches('"'))
        && has_contexts(name)
    {
        return Ok(Some(name.to_owned()));
    }
    let names = draft.list(SELINUX).into_iter().map(|name| words(name.as_bytes()));
    let mut names = names.filter(|name| has_contexts(name));
    Ok(names.next().filter(|_| names.next().is_none()))
}

fn aliases(text: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
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

    fn label(draft: &Draft, path: &str) -> String {
        let xattrs = &draft.node(path).expect("there").metadata.xattrs;
        xattrs.get(b"security.selinux").map_or_else(String::new, |label| words(label).trim_end_matches('\0').to_owned())
    }

    #[test]
    fn paths_are_labelled_as_a_machine_will_see_them() {
        let mut draft = Draft::empty();
        let files = "/usr/etc/selinux/targeted/contexts/files/file_contexts";
        for (suffix, text) in [
            ("", "/.* d\n/etc(/.*)? etc\n/usr/lib(/.*)? lib\n/home/[^/]+ -d wrong\n/srv(/.*)? <<none>>\n"),
            (".homedirs", "/home/[^/]+ -d home\n"),
            (".local", "/usr/lib/x local\n"),
            (".subs", "/data /home\n"),
            (".subs_dist", "# comment\n/usr/lib64 /usr/lib\n"),
        ] {
            draft.write(format!("{files}{suffix}"), text.as_bytes(), 0o644).expect("free");
        }
        for directory in ["/home/user", "/data/user", "/usr/lib64/a", "/srv/x", "/usr/lib/x", "/usr/etcetera"] {
            draft.directory(directory, 0o755).expect("free");
        }
        draft.write("/usr/etc/hosts", *b"x", 0o644).expect("free");
        Policy::read(&draft).expect("a policy").apply(&mut draft).expect("labels");
        for (path, expected) in [
            ("/usr/etc/hosts", "etc"),
            ("/usr/etcetera", "d"),
            ("/home/user", "home"),
            ("/data/user", "home"),
            ("/usr/lib64/a", "lib"),
            ("/usr/lib/x", "local"),
            ("/srv/x", ""),
        ] {
            assert_eq!(label(&draft, path), expected, "{path}");
        }
    }

    #[test]
    fn a_root_without_a_policy_says_so() {
        assert!(matches!(Policy::read(&Draft::empty()), Err(PolicyError::Missing)));
        let mut draft = Draft::empty();
        draft.write("/usr/etc/selinux/x/contexts/files/file_contexts", *b"/a -q b\n", 0o644).expect("free");
        let message = Policy::read(&draft).err().expect("a bad line").to_string();
        assert!(message.ends_with("/x/contexts/files/file_contexts"), "{message}");
    }
}
