//! What is remembered of published repositories: which repository is at a URL, and the newest state seen of each ref.
//!
//! ```text
//! remotes/pinned/url-DIGEST        the identity of the repository at a URL
//! remotes/generations/IDENTITY     which key of a repository replaced which (`crate::trust::KeyChain`)
//! remotes/seen/@IDENTITY/REF+KEY   the newest state of a ref that KEY signed, `/` in its name written as `%`
//! remotes/seen/@IDENTITY/REF       the same, as earlier versions wrote it, for all keys
//! remotes/seen/url-DIGEST/REF      the same, for records of version 1, which do not name their repository
//! remotes/seen/NAME/REF            the same, by the name of the remote
//! ```
//!
//! A repository is remembered by its identity, so another spelling of its URL, another name, or a remote that was removed
//! and added again makes nothing older acceptable. States are remembered by the key that signed them, and count where that
//! key or a successor of it is trusted: a remote that claims the identity of another one changes nothing for that. Records of version 1 are remembered by the URL in its normal form and
//! by the name of the remote.
//!
//! *Not here*: the configuration of remotes (`remotes`), and the checks (`trust`).
//!
//! *Invariants*: every file is replaced as a whole; what was seen never becomes older unless the user asks for it.
//!
//! *Used by* `client`, `rotation` and `cli`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::remotes::{RemoteConfig, RemoteName, RemotesError, SEEN_DIRECTORY, replace};
use crate::model::RefName;
use crate::store::Store;
use crate::trust::{KeyChain, LastSeen, PublicKey, RefRecord, RepositoryId, Verified};

/// The directory of the identities of repositories by URL.
const PINNED_DIRECTORY: &str = "pinned";

/// What is between the name of a ref and that of a key. No ref has it in its name.
const SIGNER_MARK: char = '+';

/// The directory of the changes of keys.
const GENERATIONS_DIRECTORY: &str = "generations";

/// What is remembered of the repository of one remote.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    directory: PathBuf,
    name: RemoteName,
    /// The name made from the URL.
    place: RemoteName,
    /// Whether records are signed. What an unsigned one says of its repository is not remembered for others.
    has_keys: bool,
}

impl Memory {
    /// Returns the memory of the remote `name`.
    pub(crate) fn of(store: &Store, name: &RemoteName, config: &RemoteConfig) -> Self {
        let place = RemoteName::of_url(&config.url);
        Self { directory: store.layout().remotes(), name: name.clone(), place, has_keys: !config.insecure_unsigned }
    }

    /// Returns the identity that a record counts for.
    fn identity_of(&self, record: &RefRecord) -> Option<RepositoryId> {
        record.repository().filter(|_| self.has_keys)
    }

    /// Returns the identity of the repository that was first seen at the URL.
    ///
    /// # Errors
    /// When the file cannot be read: that must not count as none.
    pub(crate) fn pinned(&self) -> Result<Option<RepositoryId>, RemotesError> {
        if !self.has_keys {
            return Ok(None);
        }
        let path = self.pin_file();
        let Some(text) = read(&path)? else { return Ok(None) };
        text.trim_end().parse().map(Some).map_err(|_| RemotesError::Seen { path })
    }

    /// Returns which key of a repository replaced which, as far as it was seen.
    ///
    /// # Errors
    /// When the file cannot be read: that must not count as none.
    pub(crate) fn key_chain(&self, repository: RepositoryId) -> Result<KeyChain, RemotesError> {
        let path = self.chain_file(repository);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(KeyChain::default()),
            Err(source) => Err(RemotesError::Io { action: "read", path, source }),
            Ok(bytes) => KeyChain::parse(&bytes).map_err(|_| RemotesError::Seen { path }),
        }
    }

    /// Records which key of a repository replaced which.
    ///
    /// # Errors
    /// When the repository cannot be written.
    pub(crate) fn remember_keys(&self, repository: RepositoryId, chain: &KeyChain) -> Result<(), RemotesError> {
        replace(self.chain_file(repository), &chain.encode())
    }

    /// Returns the newest state that was seen of the ref of `record`, signed by one of the keys `lineage`.
    ///
    /// # Errors
    /// When a file cannot be read: that must not count as none.
    pub(crate) fn read_seen(
        &self,
        record: &RefRecord,
        lineage: &[PublicKey],
    ) -> Result<Option<LastSeen>, RemotesError> {
        let mut found = None;
        if let Some(id) = self.identity_of(record) {
            let by_key = lineage.iter().map(|key| self.signed_file(id, &record.name, *key));
            for path in by_key.chain([self.seen_file(&identity_place(id), &record.name)]) {
                let seen = read_seen_file(&path)?;
                found = found.into_iter().chain(seen).max_by_key(|seen: &LastSeen| (seen.generation, seen.sequence));
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        for place in [&self.place, &self.name] {
            let seen = read_seen_file(&self.seen_file(place.as_str(), &record.name))?;
            found = found.into_iter().chain(seen).max_by_key(|seen: &LastSeen| seen.sequence);
        }
        Ok(found)
    }

    /// Records that the ref has this state, unless something newer has been recorded meanwhile. `generation` is that of the
    /// trusted keys, which `lineage` has with those that they replaced.
    ///
    /// # Errors
    /// When the repository cannot be written.
    pub(crate) fn remember(
        &self,
        record: &Verified<RefRecord>,
        generation: u64,
        lineage: &[PublicKey],
    ) -> Result<(), RemotesError> {
        let (seen, now) = (self.read_seen(record, lineage)?, record.seen(generation));
        if record.check_newer(seen, generation).is_err() {
            return Ok(());
        }
        let Some((id, signer)) = self.identity_of(record).zip(record.signer()) else {
            for place in [&self.place, &self.name] {
                write_seen(self.seen_file(place.as_str(), &record.name), now)?;
            }
            return Ok(());
        };
        if self.pinned()? != Some(id) {
            replace(self.pin_file(), format!("{id}\n").as_bytes())?;
        }
        write_seen(self.signed_file(id, &record.name, signer), now)
    }

    /// Removes the record of a ref, so that an older state is accepted once more. `repository` is the one that is followed.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(crate) fn forget(&self, repository: Option<RepositoryId>, name: &RefName) -> Result<(), RemotesError> {
        let places = [self.place.to_string(), self.name.to_string()].into_iter().chain(repository.map(identity_place));
        let mut paths: Vec<PathBuf> = places.map(|place| self.seen_file(&place, name)).collect();
        if let Some(id) = repository {
            paths.extend(self.signed_files(id, name)?);
        }
        for path in paths {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|source| RemotesError::Io { action: "remove", path, source })?,
            }
        }
        Ok(())
    }

    fn chain_file(&self, repository: RepositoryId) -> PathBuf {
        self.directory.join(GENERATIONS_DIRECTORY).join(repository.to_string())
    }

    fn pin_file(&self) -> PathBuf {
        self.directory.join(PINNED_DIRECTORY).join(self.place.as_str())
    }

    fn seen_file(&self, place: &str, name: &RefName) -> PathBuf {
        self.directory.join(SEEN_DIRECTORY).join(place).join(file_name(name))
    }

    fn signed_file(&self, repository: RepositoryId, name: &RefName, key: PublicKey) -> PathBuf {
        let place = self.directory.join(SEEN_DIRECTORY).join(identity_place(repository));
        place.join(format!("{}{SIGNER_MARK}{key}", file_name(name)))
    }

    /// Returns the files of all signers of a ref.
    fn signed_files(&self, repository: RepositoryId, name: &RefName) -> Result<Vec<PathBuf>, RemotesError> {
        let path = self.directory.join(SEEN_DIRECTORY).join(identity_place(repository));
        let beginning = format!("{}{SIGNER_MARK}", file_name(name));
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.and_then(Iterator::collect::<io::Result<Vec<_>>>),
        };
        let entries = entries.map_err(|source| RemotesError::Io { action: "list", path, source })?;
        let is_of_ref = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(beginning.as_bytes());
        Ok(entries.iter().filter(|entry| is_of_ref(entry)).map(fs::DirEntry::path).collect())
    }
}

fn identity_place(repository: RepositoryId) -> String {
    format!("@{repository}")
}

fn file_name(name: &RefName) -> String {
    name.as_str().replace('/', "%")
}

fn write_seen(path: PathBuf, now: LastSeen) -> Result<(), RemotesError> {
    if read_seen_file(&path)? == Some(now) {
        return Ok(());
    }
    replace(path, now.render().as_bytes())
}

fn read_seen_file(path: &Path) -> Result<Option<LastSeen>, RemotesError> {
    let Some(text) = read(path)? else { return Ok(None) };
    LastSeen::parse(&text).map(Some).map_err(|_| RemotesError::Seen { path: path.to_owned() })
}

fn read(path: &Path) -> Result<Option<String>, RemotesError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(|source| RemotesError::Io { action: "read", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CommitId;
    use crate::store::Config;
    use crate::trust::{Binding, CommitOrigin, Envelope, Keyring, SecretKey, SignaturePurpose, Trust};

    fn key(number: u8) -> SecretKey {
        SecretKey::from_seed(&[number; 32])
    }

    /// Returns a record that the key `signer` signed.
    fn record(sequence: u64, repository: Option<u8>, signer: u8) -> Verified<RefRecord> {
        let binding = repository.map(|number| Binding {
            repository: RepositoryId::from_bytes([number; 16]),
            generation: 0,
            expires: None,
            origin: CommitOrigin::AnyRef,
        });
        let name: RefName = "a/b".parse().expect("legal");
        let record = RefRecord { name: name.clone(), commit: CommitId::of(b"x"), sequence, timestamp: 0, binding };
        let bytes = Envelope::unsigned(record.encode()).signed(SignaturePurpose::Ref, &key(signer)).encode();
        let trust = Trust::Keys(Keyring::new([key(signer).public()]));
        trust.accept_ref(&bytes, &name, None).expect("signed").0
    }

    #[test]
    fn seen_state_never_becomes_older_unless_forgotten() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::init(directory.path(), &Config::default()).expect("empty");
        let name = "os".parse().expect("legal");
        let at = |url: &str| RemoteConfig { url: url.to_owned(), ..RemoteConfig::default() };
        let memory = Memory::of(&store, &name, &at("http://localhost/"));
        let seen = |memory: &Memory, repository| {
            let seen = memory.read_seen(&record(0, repository, 1), &[key(1).public()]).expect("readable");
            seen.map(|seen| seen.sequence)
        };
        // The first record with an identity is held to what was seen at the same place without one.
        for (repository, states) in [(None, [(3, 3), (2, 3), (4, 4)]), (Some(1), [(3, 4), (5, 5), (2, 5)])] {
            for (now, then) in states {
                memory.remember(&record(now, repository, 1), 0, &[key(1).public()]).expect("written");
                assert_eq!(seen(&memory, repository), Some(then));
            }
        }
        // The same repository under another name and another spelling; another repository.
        let other = Memory::of(&store, &"other".parse().expect("legal"), &at("http://LOCALHOST:80/."));
        assert_eq!((seen(&other, None), seen(&other, Some(1))), (Some(4), Some(5)));
        let elsewhere = Memory::of(&store, &"other".parse().expect("legal"), &at("https://example.org/"));
        assert_eq!(
            (seen(&elsewhere, None), seen(&elsewhere, Some(1)), seen(&elsewhere, Some(2))),
            (None, Some(5), None)
        );
        let one = RepositoryId::from_bytes([1; 16]);
        assert_eq!((other.pinned().expect("readable"), elsewhere.pinned().expect("readable")), (Some(one), None));
        // One who claims to be the same repository, with a key of its own.
        elsewhere.remember(&record(1000, Some(1), 2), 0, &[key(2).public()]).expect("written");
        assert_eq!(seen(&memory, Some(1)), Some(5));
        let by_both = memory.read_seen(&record(0, Some(1), 1), &[key(1).public(), key(2).public()]).expect("readable");
        assert_eq!(by_both.map(|seen| seen.sequence), Some(1000));
        memory.forget(Some(one), &"a/b".parse().expect("legal")).expect("removed");
        assert_eq!((seen(&memory, None), seen(&memory, Some(1))), (None, None));
    }
}
