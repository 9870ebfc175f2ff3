//! The configuration of dnf and rpm for one treefile: the `.repo` files beside it, a cache, nothing of this machine's.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::tool::{io_error, make_directory, read_lossy, write};
use super::super::{EngineError, Surroundings};
use crate::compose::treefile::Treefile;

/// Devices that scripts of packages may expect.
const DEVICES: &str = "null zero full random urandom tty";

/// More directories than any root lies below.
const UP: usize = 20;

/// A configuration that was written.
pub struct Config {
    directory: PathBuf,
}

impl Config {
    /// Writes the configuration for a treefile.
    ///
    /// # Errors
    /// [`EngineError::NoSources`] and [`EngineError::Unsigned`].
    pub fn write(surroundings: Surroundings<'_>, treefile: &Treefile) -> Result<Self, EngineError> {
        let directory = surroundings.work.join("dnf");
        let cache = surroundings.cache.join("dnf");
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
            write(&directory.join("repos.d").join(file.file_name().unwrap_or_default()), text)?;
            has_repos = true;
        }
        if !has_repos && treefile.packages.len() + treefile.repos.len() > 0 {
            return Err(EngineError::NoSources(format!(
                "there is no .repo file in {}: they say where dnf gets packages from",
                treefile.directory.display()
            )));
        }
        let config = Self { directory };
        write(&config.path(), config.text(&cache, treefile))?;
        write(&config.directory.join("home/.rpmmacros"), macros(treefile))?;
        Ok(config)
    }

    /// The same, with the keys that were fetched instead of where they were fetched from.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn with_kept_keys(surroundings: Surroundings<'_>, treefile: &Treefile) -> Result<Self, EngineError> {
        let config = Self::write(surroundings, treefile)?;
        let keys = config.directory.join("keys");
        let repos = config.directory.join("repos.d");
        for file in fs::read_dir(&repos).map_err(io_error("list", &repos))?.flatten() {
            let text = read_lossy(&file.path())?;
            write(&file.path(), with_keys(&text, &keys))?;
        }
        Ok(config)
    }

    /// The file for `--config`.
    pub fn path(&self) -> PathBuf {
        self.directory.join("dnf.conf")
    }

    /// What stands for `$releasever` and the like.
    pub fn substitutions(&self, treefile: &Treefile) -> Value {
        let mut values = json!({ "basearch": treefile.arch, "arch": treefile.arch });
        if let Some(release) = &treefile.releasever {
            values["releasever"] = json!(release);
        }
        values
    }

    /// Keeps keys, each in a file named after its repository.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub fn keep_keys(&self, keys: &Value) -> Result<(), EngineError> {
        for (repo, texts) in keys.as_object().into_iter().flatten() {
            for (index, text) in texts.as_array().into_iter().flatten().filter_map(Value::as_str).enumerate() {
                // The driver hands bytes on as characters of the same number.
                let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
                write(&self.directory.join("keys").join(format!("{repo}.{index}")), bytes)?;
            }
        }
        Ok(())
    }

    /// A script that gives a root `/proc` and devices and then runs the rest of its command line. The mounts are those of
    /// the sandbox it runs in.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub fn with_mounts(&self, root: &Path) -> Result<String, EngineError> {
        let script = self.directory.join("install");
        let root = format!("'{}'", root.display().to_string().replace('\'', "'\\''"));
        write(
            &script,
            format!(
                "set -e\numask 022\nmkdir -p {root}/proc {root}/dev\nmount -t proc proc {root}/proc\nmount -t tmpfs -o mode=755 tmpfs {root}/dev\n\
                 for device in {DEVICES}; do : > {root}/dev/$device; mount --bind /dev/$device {root}/dev/$device; done\nexec \"$@\"\n"
            ),
        )?;
        Ok(script.to_string_lossy().into_owned())
    }

    fn text(&self, cache: &Path, treefile: &Treefile) -> String {
        // dnf takes these for paths in the root it installs into. A path above `/` is `/`.
        let outside =
            |path: &Path| format!("/{}{}", "../".repeat(UP), path.display().to_string().trim_start_matches('/'));
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

/// Configuration of rpm: where its database is in the root, and what it checks.
fn macros(treefile: &Treefile) -> String {
    let mut text = String::from("%_dbpath /usr/lib/sysimage/rpm\n%_db_backend sqlite\n");
    if !treefile.install_langs.is_empty() {
        text.push_str(&format!("%_install_langs {}\n", treefile.install_langs.join(":")));
    }
    text
}

/// Refuses repositories that switch signatures off, unless the treefile says that it is meant.
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

/// A `.repo` file whose keys are those that were kept.
fn with_keys(text: &str, keys: &Path) -> String {
    let mut new = String::new();
    let mut is_key = false;
    for line in text.lines() {
        // A value goes on in lines that are indented.
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
    fn signatures_are_not_switched_off_silently() {
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
    fn keys_are_replaced_by_those_that_were_kept() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        write(&directory.path().join("a.0"), "key").expect("writable");
        let text = with_keys("[a]\nname=A\ngpgkey=https://host/1\n  https://host/2\nenabled=1\n", directory.path());
        assert_eq!(text, format!("[a]\ngpgkey=file://{}/a.0\nname=A\nenabled=1\n", directory.path().display()));
    }
}
