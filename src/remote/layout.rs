//! Where everything is in a published repository. The only place that spells the names of its directories.
//!
//! ```text
//! refs/NAME             a signed ref record and, unsigned, the placement of its commit. Changes.
//! placements/COMMIT     where the parts of a commit are, for those that are no ref's newest. Changes when repacked.
//! commits/COMMIT        a commit record and its signatures
//! images/IMAGE          an image in compressed frames
//! locators/LOCATOR      which frame of which pack holds each object of an image
//! packs/PACK.pack       zstd frames
//! deltas/DELTA          the way from one commit to another
//! profiles/PROFILE      what a boot reads, in order
//! keys/KEY              a new key, announced by an old one
//! superseded/PATH       a mark: since it was written, no published ref needs the file PATH
//! naming.lease          who may write names and remove files now; in a bucket only
//! naming.probe          by which publishers find out whether the bucket honours conditions of writes; in a bucket only
//! ```
//!
//! Paths are relative to the repository's URL and have no leading slash. Everything but refs, placements and keys is
//! immutable and may be cached for ever: its name tells its content. (A commit's record never changes, but it may gain
//! signatures.) Marks, the lease and the probe concern publishers and pruners only; clients never ask for them.
//!
//! # How files go
//!
//! What a ref needs is: the commits of its history as far as they are to be kept, with their placements, and all that those
//! name; of a locator also its packs. A client that has read a ref goes on asking for what that ref needed, perhaps for hours;
//! a lazy mount that does not find it any more reads `placements/COMMIT` again, so that of a commit that is kept it finds
//! everything however often that was put elsewhere.
//! So a prune does not remove what nothing needs any more: it marks it, by an empty file below `superseded/` whose time of
//! writing, by the clock of the other side, says since when. A later prune removes what was marked longer ago than the
//! *grace period* and is still not needed, names before contents (`commits`, `placements`, then the rest), and then the
//! mark. Whoever makes a marked file needed again takes the mark away first: a publisher before it names it, a prune
//! when it finds it needed. Killed at any point, a prune leaves marks, files whose names are gone, or a mark without a file; all
//! of these the next one deals with.
//!
//! Two never do the decisive thing at once: a publisher holds the *lease* (`crate::remote::lease`) from looking whether all
//! that it is about to name is there until it is named; a prune holds it from reading the refs until what it found not to be
//! needed is marked or gone. So neither a file that is named nor one that is about to be named is removed. The packs of a
//! publisher who is still uploading are needed by nobody: they may be marked, and if he takes longer than the grace period
//! they go, he notices when he has the lease, and starts again.
//!
//! # What a new client pays
//!
//! Each publish writes a pack of what is new, and a frame is fetched whole if one object in it is needed. So what a client with
//! nothing fetches would grow with every publish. Two things bound that, for the newest commit of each ref:
//!
//! - A *publish* packs some contents that are published already once more, together with what is new, when the commit would take
//!   more than 24 requests for contents beyond those of a commit published afresh, or more than 1.5 times the bytes: the smallest
//!   packs, and those parts of packs of which the commit needs least, until 1.3 times the bytes are enough. For each new byte of
//!   content at most two are packed again, by this publish or, as the placement's field `regroup` remembers, by later ones. So
//!   the contents packed by all publishes of a ref but the first are at most three times those that were new. When a few files
//!   change again and again all over a tree, each commit stays below 36 requests for contents and 1.6 times the bytes.
//! - A *prune*, or a regrouping by itself, does all of it when there are more than 7 requests too many or a tenth of the bytes.
//!
//! Only the newest commit of a ref is given new places. An older one keeps those that it had as the newest, within the same
//! bounds. Packs and locators that nothing needs after that are marked like everything else, and stay for the grace period.
//!
//! A pack of which most is dead is copied, its live frames as they are, to a new one. The locators and placements that lead
//! there are written anew, and the refs with the same signed record, since the placement is not part of it. The old pack and
//! locators are then marked like everything else.

use std::str::FromStr;

use crate::model::{CommitId, DeltaId, ImageId, LocatorId, PackId, ProfileId, RefName};

/// The directory of refs, for listing.
pub const REFS: &str = "refs";

/// The directory of placements, for listing.
pub const PLACEMENTS: &str = "placements";

/// The directory of marks, for listing.
pub const SUPERSEDED: &str = "superseded";

/// Who may write names now.
pub const LEASE: &str = "naming.lease";

/// What is written to find out whether the other side honours conditions.
pub const PROBE: &str = "naming.probe";

/// The directories of files that may be removed when nothing needs them, in the order in which they are: what gives names
/// before what is named.
pub const REMOVABLE: [&str; 7] = ["commits", "placements", "deltas", "profiles", "locators", "images", "packs"];

/// Whether this is the path of a file that publishing made and that may be removed when nothing needs it. Whatever else is
/// in the directories is somebody's.
#[must_use]
pub fn is_removable(path: &str) -> bool {
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

/// The mark of a file that nothing needs.
#[must_use]
pub fn superseded(path: &str) -> String {
    format!("{SUPERSEDED}/{path}")
}

/// Whether a file may be replaced by another of the same name. A commit's signatures grow when another key signs it, but whoever
/// needs the newer ones asks again past caches, so that an older copy does no harm.
#[must_use]
pub fn may_change(path: &str) -> bool {
    ["refs/", "placements/", "keys/"].iter().any(|directory| path.starts_with(directory))
}

/// The file that holds a ref record.
#[must_use]
pub fn reference(name: &RefName) -> String {
    format!("{REFS}/{name}")
}

/// The file that says where the parts of a commit are.
#[must_use]
pub fn placement(id: CommitId) -> String {
    format!("{PLACEMENTS}/{id}")
}

/// The file of a commit record with its signatures.
#[must_use]
pub fn commit(id: CommitId) -> String {
    format!("commits/{id}")
}

/// The file of a published image.
#[must_use]
pub fn image(id: ImageId) -> String {
    format!("images/{id}")
}

/// The file of a locator.
#[must_use]
pub fn locator(id: LocatorId) -> String {
    format!("locators/{id}")
}

/// The file of a pack.
#[must_use]
pub fn pack(id: PackId) -> String {
    format!("packs/{id}.pack")
}

/// The file of a delta.
#[must_use]
pub fn delta(id: DeltaId) -> String {
    format!("deltas/{id}")
}

/// The file of a boot profile.
#[must_use]
pub fn profile(id: ProfileId) -> String {
    format!("profiles/{id}")
}

/// The file that announces a key, by the key's own name.
#[must_use]
pub fn key(name: &str) -> String {
    format!("keys/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_publishing_makes_is_removable() {
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
        let mark = superseded(&made[0]);
        let reference = reference(&"main".parse().expect("a name"));
        for path in
            ["packs/README", "packs/x.pack", "index.html", "keys/ed25519:0", LEASE, &mark, &reference, "commits"]
        {
            assert!(!is_removable(path), "{path}");
        }
    }
}
