//! Reads `.repo` files, and writes them with known keys only. Pure.
//!
//! What is written has `gpgcheck=1` for each repository that the treefile does not name in `unsigned-repos`, whatever was read
//! and however it was spelt.
//!
//! Format: `dnf.conf(5)`.
//!
//! *Used by* `config`.

/// The keys that are passed on. None weakens the verification of packages.
const PASSED_KEYS: [&str; 26] = [
    "name",
    "baseurl",
    "mirrorlist",
    "metalink",
    "gpgkey",
    "repo_gpgcheck",
    "enabled",
    "enabled_metadata",
    "priority",
    "cost",
    "exclude",
    "excludepkgs",
    "includepkgs",
    "module_hotfixes",
    "countme",
    "metadata_expire",
    "fastestmirror",
    "deltarpm",
    "proxy",
    "proxy_username",
    "proxy_password",
    "username",
    "password",
    "sslcacert",
    "sslclientcert",
    "sslclientkey",
];

/// The words that dnf reads as "no".
const NO_WORDS: [&str; 4] = ["0", "no", "false", "off"];

/// Why a `.repo` file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepoFileError {
    /// A line is not understood.
    #[error("line {0} is not understood")]
    Syntax(usize),
    /// A repository asks not to be verified.
    #[error("{repo} switches off the verification of signatures (gpgcheck=0)")]
    Unverified {
        /// The id of the repository.
        repo: String,
    },
}

/// Reads a `.repo` file and returns it with known keys only. `is_unsigned` says of an id whether the treefile allows the
/// repository to be used without verification, `is_used` whether the compose uses it.
///
/// # Errors
/// [`RepoFileError`].
pub fn read(
    text: &str,
    is_unsigned: &dyn Fn(&str) -> bool,
    is_used: &dyn Fn(&str) -> bool,
) -> Result<String, RepoFileError> {
    let mut repos: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let syntax_error = RepoFileError::Syntax(index + 1);
        if line.trim().is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            let (_, value) = repos.last_mut().and_then(|(_, keys)| keys.last_mut()).ok_or(syntax_error)?;
            value.push(' ');
            value.push_str(line.trim());
        } else if let Some(id) = line.strip_prefix('[') {
            let id = id.trim_end().strip_suffix(']').ok_or(syntax_error)?.trim();
            repos.push((id.to_owned(), Vec::new()));
        } else {
            let (_, keys) = repos.last_mut().ok_or(syntax_error.clone())?;
            let (key, value) = line.split_once('=').ok_or(syntax_error)?;
            keys.push((key.trim().to_lowercase(), value.trim().to_owned()));
        }
    }
    let mut rendered = String::new();
    for (id, keys) in repos.iter().filter(|(id, _)| id != "main") {
        let is_off =
            keys.iter().any(|(key, value)| key == "gpgcheck" && NO_WORDS.contains(&value.to_lowercase().as_str()));
        if is_off && is_used(id) && !is_unsigned(id) {
            return Err(RepoFileError::Unverified { repo: id.clone() });
        }
        rendered.push_str(&format!("[{id}]\ngpgcheck={}\n", if is_off && is_unsigned(id) { "0" } else { "1" }));
        for (key, value) in keys.iter().filter(|(key, _)| PASSED_KEYS.contains(&key.as_str())) {
            rendered.push_str(&format!("{key}={}\n", value.replace(|c: char| c.is_control(), " ")));
        }
    }
    Ok(rendered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_verified_unless_they_are_named() {
        let text = "# x\n[good]\nname = A\ngpgkey=https://host/1\n  https://host/2\nunknown=1\n[bad]\nGPGCheck = Off\nbaseurl=http://h\n[main]\ngpgcheck=0\n";
        let unverified = Err(RepoFileError::Unverified { repo: "bad".to_owned() });
        assert_eq!(read(text, &|_| false, &|_| true), unverified);
        let good = "[good]\ngpgcheck=1\nname=A\ngpgkey=https://host/1 https://host/2\n";
        let unused = read(text, &|_| false, &|repo| repo == "good").expect("not used");
        assert_eq!(unused, format!("{good}[bad]\ngpgcheck=1\nbaseurl=http://h\n"));
        let named = read(text, &|repo| repo == "bad", &|_| true).expect("meant");
        assert_eq!(named, format!("{good}[bad]\ngpgcheck=0\nbaseurl=http://h\n"));
    }

    #[test]
    fn lines_outside_of_a_repository_are_refused() {
        for text in ["a=b\n", " a\n", "[x\n", "[x]\nword\n"] {
            assert!(matches!(read(text, &|_| false, &|_| true), Err(RepoFileError::Syntax(_))), "{text}");
        }
    }
}
