//! The generation of the keys that sign a publication.
//!
//! *Not here*: what a chain means (`trust`), and writing it (`names`).
//!
//! *Used by* `cli`.

use super::error::PublishError;
use super::existing::Survey;
use crate::remote::layout;
use crate::remote::published::PublishedError;
use crate::remote::transport::Transport;
use crate::trust::{KEY_CHAIN_SIZE_MAX, KeyChain, PublicKey};

/// Returns the chain to publish with: the longer one of `own` and the one at the destination, which must continue each
/// other. The published chain is used as it is if it has nothing to do with `signers`, which are the keys of another builder.
///
/// # Errors
/// [`PublishError::ReplacedKey`] when a newer key replaced one of `signers` at the destination, and it is not among them;
/// [`PublishError::OtherKeys`] when the chains differ; [`PublishError::NoKeyChain`] when the destination lacks a chain that its
/// refs are signed with, and `own` is shorter.
pub(crate) fn choose_key_chain(
    transport: &Transport,
    survey: &Survey,
    own: KeyChain,
    signers: &[PublicKey],
) -> Result<KeyChain, PublishError> {
    let Some((bytes, _)) = transport.get(layout::KEY_CHAIN, KEY_CHAIN_SIZE_MAX)? else {
        let needed = survey.refs.values().filter(|published| published.is_signed_by(signers));
        let needed = needed.map(|published| published.record.generation()).max().unwrap_or(0);
        return if needed <= own.generation() { Ok(own) } else { Err(PublishError::NoKeyChain { needed }) };
    };
    let published = KeyChain::parse(&bytes)
        .map_err(|error| PublishedError::Damaged { path: layout::KEY_CHAIN.to_owned(), reason: error.to_string() })?;
    let Some(newest) = published.announcements().last().copied() else { return Ok(own) };
    if published.is_continued_by(&own) {
        return Ok(own);
    }
    let replaced = signers.iter().find_map(|key| published.replaced(*key));
    let is_apart = own.generation() == 0 && !signers.iter().any(|key| published.concerns(*key));
    if is_apart || own.is_continued_by(&published) && signers.contains(&newest.new) {
        return Ok(published);
    }
    match replaced {
        Some(replaced) => Err(PublishError::ReplacedKey { old: replaced.old, new: replaced.new }),
        None => Err(PublishError::OtherKeys { found: newest.new }),
    }
}
