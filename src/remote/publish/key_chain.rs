//! The generation of the keys that sign a publication.
//!
//! *Not here*: what a chain means (`trust`), and writing it (`names`).
//!
//! *Used by* `cli`.

use super::error::PublishError;
use crate::remote::layout;
use crate::remote::published::PublishedError;
use crate::remote::transport::Transport;
use crate::trust::{KEY_CHAIN_SIZE_MAX, KeyChain, PublicKey};

/// Returns the chain to publish with: the longer one of `own` and the one at the destination, which must continue each
/// other. A published chain that ends in none of `signers` is not used.
///
/// # Errors
/// [`PublishError::ReplacedKey`] when a newer key replaced one of `signers` at the destination, and it is not among them;
/// [`PublishError::OtherKeys`] when the chains differ.
pub(crate) fn choose_key_chain(
    transport: &Transport,
    own: KeyChain,
    signers: &[PublicKey],
) -> Result<KeyChain, PublishError> {
    let Some((bytes, _)) = transport.get(layout::KEY_CHAIN, KEY_CHAIN_SIZE_MAX)? else { return Ok(own) };
    let published = KeyChain::parse(&bytes)
        .map_err(|error| PublishedError::Damaged { path: layout::KEY_CHAIN.to_owned(), reason: error.to_string() })?;
    let Some(newest) = published.announcements().last().copied() else { return Ok(own) };
    if published.is_continued_by(&own) {
        return Ok(own);
    }
    let replaced = signers.iter().find_map(|key| published.replaced(*key));
    if own.is_continued_by(&published) && signers.contains(&newest.new) {
        return Ok(published);
    }
    match replaced {
        Some(replaced) => Err(PublishError::ReplacedKey { old: replaced.old, new: replaced.new }),
        None => Err(PublishError::OtherKeys { found: newest.new }),
    }
}
