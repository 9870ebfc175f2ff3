//! The layout of a published repository: the only module that spells the names of its directories and files.
//!
//! ```text
//! refs/NAME             a signed ref record and, unsigned, the placement of its commit. Changes.
//! placements/COMMIT     the positions of a commit's parts, for commits that are no ref's newest. Changes when repacked.
//! commits/COMMIT        a commit record and its signatures
//! images/IMAGE          an image in compressed frames
//! locators/LOCATOR      which frame of which pack holds each object of an image
//! packs/PACK.pack       zstd frames
//! deltas/DELTA          makes a commit from an older one
//! profiles/PROFILE      what a boot reads, in order
//! keys/generations      which key replaced which (`crate::trust::KeyChain`). Changes.
//! superseded/PATH       a mark: no published ref has needed the file PATH since the mark was written
//! naming.lease          the holder of the right to write names and to remove files; in a bucket only
//! naming.probe          tests whether the bucket honours conditional writes; in a bucket only
//! ```
//!
//! Paths are relative to the repository's URL and have no leading slash. Everything but refs, placements and keys is
//! immutable and may be cached for ever: its name is the digest of its content. (A commit's record never changes, but
//! it may gain signatures.) Marks, the lease and the probe concern publishers and prunes only; clients never request
//! them.
//!
//! # How files are removed
//!
//! A ref needs the commits of its history as far as they are to be kept, their placements, and all files that those
//! name; of a locator also its packs. A client that has read a ref continues to request what that ref needed, perhaps
//! for hours. A lazy mount that does not find a file any more reads `placements/COMMIT` again, so it finds all parts of
//! a kept commit, however often they were moved.
//!
//! So a prune does not remove unneeded files at once. It marks each with an empty file below `superseded/`, whose time
//! of writing, by the clock of the server, says since when the file is unneeded. A later prune removes files that were
//! marked longer ago than the *grace period* and are still not needed, names before contents (`commits`, `placements`,
//! then the rest), and then their marks. A publisher removes the mark of a file before it names that file; a prune
//! removes the mark when it finds the file needed. A prune that is killed at any point leaves marks, files whose names
//! are gone, or marks without files; the next prune handles all of these.
//!
//! A publisher and a prune never change names at the same time: a publisher holds the *lease* (`crate::remote::lease`)
//! from the check that all files it is about to name exist until they are named; a prune holds it from reading the refs
//! until the unneeded files are marked or removed. So neither a named file nor one that is about to be named is
//! removed. The packs of a publisher that is still uploading are needed by no ref: they may be marked, and if the
//! upload takes longer than the grace period they are removed. The publisher notices that when it has the lease, and
//! starts again.
//!
//! # What a new client downloads
//!
//! Each publish writes a pack of new contents, and a frame is fetched whole if one object in it is needed. So the
//! download of a client that has nothing would grow with every publish. Two mechanisms bound it, for the newest commit
//! of each ref:
//!
//! - A *publish* packs some contents that are published already once more, together with the new ones, when the commit
//!   would take more than 24 requests for contents beyond those of a commit published afresh, or more than 1.5 times
//!   the bytes. It takes the smallest packs, and those parts of packs of which the commit needs least, until 1.3 times
//!   the bytes suffice. For each new byte of content at most two are packed again, by this publish or, as the
//!   placement's field `regroup` records, by later ones. So the contents packed by all publishes of a ref but the first
//!   are at most three times the new contents. When a few files change again and again all over a tree, each commit
//!   stays below 36 requests for contents and 1.6 times the bytes.
//! - A *prune*, or a regrouping by itself, packs all such contents again when there are more than 7 requests too many
//!   or a tenth of the bytes.
//!
//! Only the newest commit of a ref is moved to new packs. Older commits keep the packs that they had as the newest,
//! within the same bounds. Packs and locators that are unneeded after that are marked like every other file, and stay
//! for the grace period.
//!
//! The needed frames of a pack of which most is unneeded are copied unchanged to a new pack. The locators and
//! placements that lead to them are written again, and the refs with the same signed record, since the placement is not
//! part of it. The old pack and locators are then marked like every other file.

use std::str::FromStr;

use crate::model::{CommitId, DeltaId, ImageId, LocatorId, PackId, ProfileId, RefName};

/// The directory of refs, for listing.
pub(crate) const REFS: &str = "refs";

/// The directory of placements, for listing.
pub(crate) const PLACEMENTS: &str = "placements";

/// The directory of marks, for listing.
pub(crate) const SUPERSEDED: &str = "superseded";

/// The file that says which key replaced which.
pub const KEY_CHAIN: &str = "keys/generations";

/// The file of the lease.
pub(crate) const LEASE_FILE: &str = "naming.lease";

/// The file by which publishers test whether the server honours conditional writes.
pub(crate) const PROBE_FILE: &str = "naming.probe";

/// The directories of files that may be removed when they are not needed, in the order of removal: files that give
/// names before files that are named.
pub(crate) const REMOVABLE: [&str; 7] = ["commits", "placements", "deltas", "profiles", "locators", "images", "packs"];

/// Returns whether this is the path of a file that publishing made and that may be removed when it is not needed. Other
/// files in the directories are not Sapwood's.
pub(crate) fn is_removable(path: &str) -> bool {
    fn is<Id: FromStr>(name: &str) -> bool {
        name.parse::<Id>().is_ok()
    }
    match path.split_once('/') {
        Some(("commits" | "placements", name)) => is::<CommitId>(name),
        Some(("deltas", name)) => is::<DeltaId>(name),
        Some(("profiles", name)) => is::<ProfileId>(name),
        Some(("locators", name)) => is::<LocatorId>(name),
        Some(("images", name)) => is::<ImageId>(name),
        Some(("packs", name)) => name.strip_suffix(".pack").is_some_and(is::<PackId>),
        _ => false,
    }
}

/// Returns whether this is the path of a file that clients request.
pub(crate) fn is_for_clients(path: &str) -> bool {
    match path.split_once('/') {
        Some((REFS, name)) => name.parse::<RefName>().is_ok(),
        Some(_) if path == KEY_CHAIN => true,
        _ => is_removable(path),
    }
}

/// Returns the path of the mark of an unneeded file.
pub(crate) fn superseded_mark(path: &str) -> String {
    format!("{SUPERSEDED}/{path}")
}

/// Returns whether a file may be replaced by another of the same name. A commit's signatures grow when another key
/// signs it, but a client that needs the newer ones bypasses caches, so an older copy does no harm.
pub(crate) fn may_change(path: &str) -> bool {
    ["refs/", "placements/", "keys/"].iter().any(|directory| path.starts_with(directory))
}

/// Returns the path of a ref record.
#[must_use]
pub fn reference(name: &RefName) -> String {
    format!("{REFS}/{name}")
}

/// Returns the path of a commit's placement.
#[must_use]
pub fn placement(id: CommitId) -> String {
    format!("{PLACEMENTS}/{id}")
}

/// Returns the path of a commit record with its signatures.
#[must_use]
pub fn commit(id: CommitId) -> String {
    format!("commits/{id}")
}

/// Returns the path of a published image.
#[must_use]
pub fn image(id: ImageId) -> String {
    format!("images/{id}")
}

/// Returns the path of a locator.
#[must_use]
pub fn locator(id: LocatorId) -> String {
    format!("locators/{id}")
}

/// Returns the path of a pack.
#[must_use]
pub fn pack(id: PackId) -> String {
    format!("packs/{id}.pack")
}

/// Returns the path of a delta.
#[must_use]
pub fn delta(id: DeltaId) -> String {
    format!("deltas/{id}")
}

/// Returns the path of a profile.
pub(crate) fn profile(id: ProfileId) -> String {
    format!("profiles/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_made_by_publishing_are_removable() {
        let bytes = b"content";
        let made = [
            commit(CommitId::of(bytes)),
            placement(CommitId::of(bytes)),
            delta(DeltaId::of(bytes)),
            profile(ProfileId::of(bytes)),
            locator(LocatorId::of(bytes)),
            image(ImageId::of(bytes)),
            pack(PackId::of(bytes)),
        ];
        for (path, directory) in
            made.iter().zip(["commits", "placements", "deltas", "profiles", "locators", "images", "packs"])
        {
            assert!(is_removable(path), "{path}");
            assert!(path.starts_with(directory) && REMOVABLE.contains(&directory));
        }
        let mark = superseded_mark(&made[0]);
        let reference = reference(&"main".parse().expect("a name"));
        for path in
            ["packs/README", "packs/x.pack", "index.html", "keys/ed25519:0", LEASE_FILE, &mark, &reference, "commits"]
        {
            assert!(!is_removable(path), "{path}");
        }
    }

    #[test]
    fn clients_request_only_what_was_published_for_them() {
        let published =
            [reference(&"debian/12".parse().expect("a name")), KEY_CHAIN.to_owned(), commit(CommitId::of(b""))];
        assert!(published.iter().all(|path| is_for_clients(path)));
        let mark = superseded_mark(&published[2]);
        for path in ["keys/release.key", "keys/release.pub", "refs/../keys", "refs/", "", "README", LEASE_FILE, &mark] {
            assert!(!is_for_clients(path), "{path}");
        }
    }
}
