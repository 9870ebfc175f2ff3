//! Writes the configuration of dnf and rpm for one treefile: the `.repo` files beside it and a cache. Nothing of this
//! machine's configuration is used.
//!
//! *Used by* `Dnf`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::tool::{io_error, make_directory, read_lossy, write_file};
use super::super::{EngineContext, EngineError};
use crate::compose::treefile::Treefile;

/// The devices that scripts of packages may expect.
const DEVICES: &str = "null zero full random urandom tty";

/// The number of `../` that leads from any root to `/`; more than a root is deep.
const PARENT_STEPS: usize = 20;

/// The configuration files of one compose.
pub(crate) struct DnfConfig {
    directory: PathBuf,
}

impl DnfConfig {
    /// Writes the configuration for a treefile.
    pub(crate) fn write(context: EngineContext<'_>, treefile: &Treefile) -> Result<Self, EngineError> {
        let directory = context.work.join("dnf");
        let cache = context.cache.join("dnf");
        for name in ["repos.d", "empty", "home", "log", "state", "vars"] {
            make_directory(&directory.join(name))?;
        }
        make_directory(&cache)?;
        let mut has_repos = false;
        let entries = fs::read_dir(&treefile.directory).map_err(io_error("list", &treefile.directory))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "repo")) {
            let text = read_lossy(file)?;
            refuse_unsigned(&text, treefile)?;
            write_file(&directory.join("repos.d").join(file.file_name().unwrap_or_default()), text)?;
            has_repos = true;
        }
        if !has_repos && treefile.packages.len() + treefile.repos.len() > 0 {
            return Err(EngineError::NoSources(format!(
                "there is no .repo file in {}: they say where dnf gets packages from",
                treefile.directory.display()
            )));
        }
        let config = Self { directory };
        write_file(&config.path(), config.render(&cache, treefile))?;
        write_file(&config.directory.join("home/.rpmmacros"), rpm_macros(treefile))?;
        Ok(config)
    }

    /// Writes the configuration with the saved keys instead of the URLs they were fetched from.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub(crate) fn write_with_saved_keys(context: EngineContext<'_>, treefile: &Treefile) -> Result<Self, EngineError> {
        let config = Self::write(context, treefile)?;
        let keys = config.directory.join("keys");
        let repos = config.directory.join("repos.d");
        for file in fs::read_dir(&repos).map_err(io_error("list", &repos))?.flatten() {
            let text = read_lossy(&file.path())?;
            write_file(&file.path(), use_saved_keys(&text, &keys))?;
        }
        Ok(config)
    }

    /// Returns the file for `--config`.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join("dnf.conf")
    }

    /// Returns the values of `$releasever` and the like.
    pub(crate) fn substitutions(&self, treefile: &Treefile) -> Value {
        let mut values = json!({ "basearch": treefile.arch, "arch": treefile.arch });
        if let Some(release) = &treefile.releasever {
            values["releasever"] = json!(release);
        }
        values
    }

    /// Saves keys, each in a file named after its repository.
    pub(crate) fn save_keys(&self, keys: &Value) -> Result<(), EngineError> {
        for (repo, texts) in keys.as_object().into_iter().flatten() {
            for (index, text) in texts.as_array().into_iter().flatten().filter_map(Value::as_str).enumerate() {
                // The driver encodes each byte as the character with the same number (Latin-1).
                let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
                write_file(&self.directory.join("keys").join(format!("{repo}.{index}")), bytes)?;
            }
        }
        Ok(())
    }

    /// Writes a script that mounts `/proc` and devices in a root and then runs the rest of its command line. The mounts exist
    /// only in the mount namespace in which the script runs.
    pub(crate) fn write_mount_script(&self, root: &Path) -> Result<String, EngineError> {
        let script = self.directory.join("install");
        let root = format!("'{}'", root.display().to_string().replace('\'', "'\\''"));
        write_file(
            &script,
            format!(
                "set -e\numask 022\nmkdir -p {root}/proc {root}/dev\nmount -t proc proc {root}/proc\nmount -t tmpfs -o mode=755 tmpfs {root}/dev\n\
                 for device in {DEVICES}; do : > {root}/dev/$device; mount --bind /dev/$device {root}/dev/$device; done\nexec \"$@\"\n"
            ),
        )?;
        Ok(script.to_string_lossy().into_owned())
    }

    fn render(&self, cache: &Path, treefile: &Treefile) -> String {
        // dnf takes these paths as relative to the root it installs into. `..` above `/` is `/`.
        let outside = |path: &Path| {
            format!("/{}{}", "../".repeat(PARENT_STEPS), path.display().to_string().trim_start_matches('/'))
        };
        let (own, repos) = (outside(&self.directory), self.directory.display());
        let cache = outside(cache);
        let flags = if treefile.documentation { "" } else { "tsflags=nodocs\n" };
        format!(
            "[main]\ngpgcheck=1\nlocalpkg_gpgcheck=0\nbest=1\nstrict=1\nskip_if_unavailable=0\nkeepcache=1\nplugins=0\nobsoletes=1\n\
             reposdir={repos}/repos.d\nvarsdir={repos}/vars\ncachedir={cache}\nsystem_cachedir={cache}\npersistdir=/var/lib/dnf\nlogdir={own}/log\n\
             metadata_expire=0\nzchunk=0\nhistory_record=0\ninstall_weak_deps={}\n{flags}",
            if treefile.recommends { "1" } else { "0" },
        )
    }
}

/// Returns rpm's configuration: the place of its database in the root, and the languages.
fn rpm_macros(treefile: &Treefile) -> String {
    let mut text = String::from("%_dbpath /usr/lib/sysimage/rpm\n%_db_backend sqlite\n");
    if !treefile.install_langs.is_empty() {
        text.push_str(&format!("%_install_langs {}\n", treefile.install_langs.join(":")));
    }
    text
}

/// Refuses repositories that switch the verification of signatures off, unless the treefile names them in `unsigned-repos`.
fn refuse_unsigned(text: &str, treefile: &Treefile) -> Result<(), EngineError> {
    let mut repo = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            repo = name.to_owned();
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let is_off = ["0", "false", "no", "off"].contains(&value.trim().to_lowercase().as_str());
        let is_used = treefile.repos.is_empty() || treefile.repos.contains(&repo);
        let is_named = treefile.unsigned_repos.contains(&repo);
        if key.trim() == "gpgcheck" && is_off && is_used && !is_named {
            return Err(EngineError::Unsigned { repo, how: "gpgcheck=0".to_owned() });
        }
    }
    Ok(())
}

/// Returns a `.repo` file with the saved keys instead of its own key URLs.
fn use_saved_keys(text: &str, keys: &Path) -> String {
    let mut new = String::new();
    let mut is_key = false;
    for line in text.lines() {
        // Indented lines continue the value.
        is_key =
            line.trim_start().starts_with("gpgkey") && line.contains('=') || (is_key && line.starts_with([' ', '\t']));
        if !is_key {
            new.push_str(line);
            new.push('\n');
        }
        if let Some(repo) = line.trim().strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let files = (0..).map(|index| keys.join(format!("{repo}.{index}"))).take_while(|file| file.exists());
            let urls: Vec<String> = files.map(|file| format!("file://{}", file.display())).collect();
            if !urls.is_empty() {
                new.push_str(&format!("gpgkey={}\n", urls.join(" ")));
            }
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpgcheck_off_needs_unsigned_repos() {
        let mut treefile = Treefile::bare("x".parse().expect("legal"), "x86_64");
        let text = "[good]\ngpgcheck=1\n[bad]\nname=x\ngpgcheck = 0\n";
        let message = refuse_unsigned(text, &treefile).expect_err("off").to_string();
        assert!(message.starts_with("bad switches off") && message.contains("unsigned-repos"), "{message}");
        treefile.repos = vec!["good".to_owned()];
        refuse_unsigned(text, &treefile).expect("not used");
        treefile.repos.clear();
        treefile.unsigned_repos = vec!["bad".to_owned()];
        refuse_unsigned(text, &treefile).expect("meant");
    }

    #[test]
    fn key_urls_are_replaced_by_saved_keys() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        write_file(&directory.path().join("a.0"), "key").expect("writable");
        let text =
            use_saved_keys("[a]\nname=A\ngpgkey=https://host/1\n  https://host/2\nenabled=1\n", directory.path());
        assert_eq!(text, format!("[a]\ngpgkey=file://{}/a.0\nname=A\nenabled=1\n", directory.path().display()));
    }
}
