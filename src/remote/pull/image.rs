//! The image of a commit: from here, or whole from the remote.
//!
//! Whatever way it comes, it leaves here only after its id, its blocks and the rules of its format were checked.

use bytes::Bytes;

use super::error::PullError;
use super::report::ImageSource;
use crate::image::Image;
use crate::model::ImageId;
use crate::remote::client::Remote;
use crate::remote::format::ImageRef;
use crate::remote::format::wire::{Prelude, WireError, decode_image};
use crate::remote::layout;
use crate::remote::transport::Refusal;
use crate::store::{ReadError, Store};
use crate::sys::Mapping;

/// A published image of up to this many bytes is fetched by one request, on the word of a placement that is not signed.
/// 16 MiB: one of 400,000 entries. Of a larger one the start comes first, which proves how large the image is.
const ONE_REQUEST: u64 = 16 << 20;

/// How long a published image is by its own start: not much longer than the image, whose length its id proves.
fn believable_length(start: &[u8], id: ImageId) -> Result<u64, WireError> {
    let prelude = Prelude::parse(start, id)?;
    let end = prelude.frames().last().map_or(prelude.length(), |frame| frame.range.end);
    let raw = prelude.outline().file_length();
    if end >= start.len() as u64 && end <= raw.saturating_add(raw / 4).saturating_add(ONE_REQUEST) {
        Ok(end)
    } else {
        Err(WireError::Length)
    }
}

/// An image and how it came.
pub(super) struct Obtained {
    pub image: Image,
    /// Its bytes, unless they are in the repository.
    pub bytes: Option<Mapping>,
    pub source: ImageSource,
}

impl Obtained {
    /// The image as it is in the repository, if it is there undamaged.
    pub(super) fn from_store(store: &Store, id: ImageId) -> Result<Option<Self>, PullError> {
        match store.image(id) {
            Ok(image) => Ok(Some(Self { image, bytes: None, source: ImageSource::Here })),
            Err(ReadError::MissingImage { .. }) => Ok(None),
            // It is written again.
            Err(error @ (ReadError::Image { .. } | ReadError::WrongImage { .. })) => {
                tracing::warn!("{error}; it is fetched again");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The whole image from the remote.
    pub(super) fn whole(remote: &Remote, id: ImageId, place: ImageRef) -> Result<Self, PullError> {
        let (transport, path) = (remote.transport(), layout::image(id));
        let failed = |source| PullError::Transport { url: transport.url().into(), source };
        if place.length <= ONE_REQUEST {
            let mut check = |published: &Bytes| Self::decoded(published, id);
            return transport.get_range_checked(&path, 0..place.length, &mut check).map_err(failed);
        }
        let mut check = |start: &Bytes| {
            let end = believable_length(start, id).map_err(Refusal::wrong)?;
            Ok((start.clone(), end))
        };
        let first = 0..place.prefix.min(ONE_REQUEST);
        let (start, end) = transport.get_range_checked(&path, first, &mut check).map_err(failed)?;
        let mut check = |rest: &Bytes| Self::decoded(&[start.clone(), rest.clone()].concat(), id);
        transport.get_range_checked(&path, start.len() as u64..end, &mut check).map_err(failed)
    }

    fn decoded(published: &[u8], id: ImageId) -> Result<Self, Refusal> {
        let bytes = decode_image(published, id).map_err(Refusal::wrong)?;
        Self::checked(id, bytes, ImageSource::Whole)
    }

    /// An image made by a delta.
    pub(super) fn patched(id: ImageId, bytes: Vec<u8>) -> Result<Self, Refusal> {
        Self::checked(id, bytes, ImageSource::Delta)
    }

    /// Bytes that came from outside, if they are the image `id`.
    fn checked(id: ImageId, bytes: Vec<u8>, source: ImageSource) -> Result<Self, Refusal> {
        let bytes = Mapping::of_bytes(bytes);
        let image = Image::open(bytes.clone()).map_err(Refusal::wrong)?;
        if image.id() != id {
            return Err(Refusal::wrong(ReadError::WrongImage { id, found: image.id() }));
        }
        // Its bytes are those that a trusted key signed, so asking again brings the same.
        image.verify().map_err(Refusal::settled)?;
        Ok(Self { image, bytes: Some(bytes), source })
    }
}
