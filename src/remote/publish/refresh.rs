//! Signs the published refs again with a later expiry. No commit is read or written.
//!
//! *Not here*: what an expiry means to clients (`freshness`).
//!
//! *Invariants*: only a record that one of the signers had signed is signed again, so that writing to the destination gives
//! no signature. Commit and sequence stay. The lease is held, as for every change of names.
//!
//! *Used by* `cli`.

use super::error::PublishError;
use super::existing::Survey;
use super::names::put_key_chain;
use super::options::PublishOptions;
use crate::model::RefName;
use crate::remote::layout;
use crate::remote::lease::{self, Lease};
use crate::remote::published;
use crate::remote::transport::{Transport, TransportError, WriteCondition};
use crate::trust::{CommitOrigin, Envelope, RefRecord, SignaturePurpose};

/// Signs the refs `names` again, or all when there are none, and returns the new records.
///
/// # Errors
/// [`PublishError::NotSigned`] when a ref has no signature by any of the signers; nothing was written then.
pub(crate) fn refresh(
    transport: &Transport,
    survey: &Survey,
    names: &[RefName],
    options: &PublishOptions,
) -> Result<Vec<RefRecord>, PublishError> {
    let keys = options.current_keys();
    let mut refs = Vec::new();
    for name in names.iter().chain(survey.refs.keys().filter(|_| names.is_empty())) {
        let published = survey.refs.get(name).ok_or_else(|| PublishError::NotPublished(name.clone()))?;
        match keys.check(SignaturePurpose::Ref, &published.envelope, name) {
            Ok(_) => {}
            Err(error) if names.is_empty() && survey.refs.len() > 1 => {
                tracing::warn!("'{name}' is not signed again: {error}");
                continue;
            }
            Err(source) => return Err(PublishError::NotSigned { name: name.clone(), source }),
        }
        if let (Some(own), Some(found)) = (options.repository, published.record.repository())
            && own != found
        {
            return Err(PublishError::OtherRepository { own, found });
        }
        refs.push((name, published));
    }
    lease::verify_conditional_writes(transport)?;
    let lease = Lease::acquire(transport, options.lease, &*options.announce)?;
    put_key_chain(transport, &options.key_chain)?;
    let mut records = Vec::new();
    for (name, published) in refs {
        let origin = published.record.binding.map_or(CommitOrigin::ThisRef, |binding| binding.origin);
        let record = RefRecord { timestamp: options.now, binding: options.binding(origin), ..published.record.clone() };
        let envelope = Envelope::unsigned(record.encode());
        let envelope = options.signers.iter().fold(envelope, |it, signer| it.signed(SignaturePurpose::Ref, signer));
        let bytes = [envelope.encode(), published.placement.render()].concat();
        lease.ensure_held()?;
        let condition = WriteCondition::IfVersion(published.version.clone());
        match transport.put(&layout::reference(name), bytes.into(), &condition) {
            // When an answer is lost, the request is sent again, and finds what it wrote itself.
            Err(TransportError::Exists { .. } | TransportError::Changed { .. })
                if published::read_ref(transport, name)?.is_some_and(|found| found.envelope == envelope) => {}
            Err(TransportError::Exists { .. } | TransportError::Changed { .. }) => {
                return Err(PublishError::RefChanged { name: name.clone() });
            }
            other => drop(other?),
        }
        records.push(record);
    }
    Ok(records)
}
