//! Obtains the image of a commit: from the repository, whole from the remote, or made by a delta.
//!
//! *Invariants*: an image leaves this module only after its id, its blocks and the rules of its format were checked.
//!
//! *Used by* `plan` and `delta`.

use bytes::Bytes;

use super::error::PullError;
use super::report::ImageSource;
use crate::image::Image;
use crate::model::ImageId;
use crate::remote::client::Remote;
use crate::remote::format::ImageRef;
use crate::remote::format::wire::{FrameIndex, WireError, decode_image};
use crate::remote::layout;
use crate::remote::transport::Rejection;
use crate::store::{ReadError, Store};
use crate::sys::Mapping;

/// A published image of up to this many bytes is fetched by one request, since the placement that gives its length is
/// not signed. 16 MiB: an image of 400,000 entries. Of a larger one the start is fetched first, which proves how large
/// the image is.
const SINGLE_REQUEST_MAX: u64 = 16 << 20;

/// Returns the length of a published image as its own start says. It must not be much longer than the image, whose
/// length the id proves.
fn plausible_length(start: &[u8], id: ImageId) -> Result<u64, WireError> {
    let index = FrameIndex::parse(start, id)?;
    let end = index.frames().last().map_or(index.length(), |frame| frame.range.end);
    let raw = index.outline().file_length();
    if end >= start.len() as u64 && end <= raw.saturating_add(raw / 4).saturating_add(SINGLE_REQUEST_MAX) {
        Ok(end)
    } else {
        Err(WireError::Length)
    }
}

/// An image and how it was obtained.
pub(super) struct ObtainedImage {
    pub(crate) image: Image,
    /// The image's bytes, unless they are in the repository.
    pub(crate) bytes: Option<Mapping>,
    pub(crate) source: ImageSource,
}

impl ObtainedImage {
    /// Returns the image from the repository, if it is there and undamaged.
    pub(super) fn from_store(store: &Store, id: ImageId) -> Result<Option<Self>, PullError> {
        match store.image(id) {
            Ok(image) => Ok(Some(Self { image, bytes: None, source: ImageSource::Here })),
            Err(ReadError::MissingImage { .. }) => Ok(None),
            // A damaged image is fetched and written again.
            Err(error @ (ReadError::Image { .. } | ReadError::WrongImage { .. })) => {
                tracing::warn!("{error}; it is fetched again");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Fetches the whole image from the remote.
    pub(super) fn fetch_whole(remote: &Remote, id: ImageId, place: ImageRef) -> Result<Self, PullError> {
        let (transport, path) = (remote.transport(), layout::image(id));
        let failed = |source| PullError::Transport { url: transport.url().into(), source };
        if place.length <= SINGLE_REQUEST_MAX {
            let mut check = |published: &Bytes| Self::decode(published, id);
            return transport.get_range_checked(&path, 0..place.length, &mut check).map_err(failed);
        }
        let mut check = |start: &Bytes| {
            let end = plausible_length(start, id).map_err(Rejection::wrong)?;
            Ok((start.clone(), end))
        };
        let first = 0..place.prefix.min(SINGLE_REQUEST_MAX);
        let (start, end) = transport.get_range_checked(&path, first, &mut check).map_err(failed)?;
        let mut check = |rest: &Bytes| Self::decode(&[start.clone(), rest.clone()].concat(), id);
        transport.get_range_checked(&path, start.len() as u64..end, &mut check).map_err(failed)
    }

    fn decode(published: &[u8], id: ImageId) -> Result<Self, Rejection> {
        let bytes = decode_image(published, id).map_err(Rejection::wrong)?;
        Self::check(id, bytes, ImageSource::Whole)
    }

    /// Checks an image that was made by a delta.
    pub(super) fn from_delta(id: ImageId, bytes: Vec<u8>) -> Result<Self, Rejection> {
        Self::check(id, bytes, ImageSource::Delta)
    }

    /// Checks that received bytes are the image `id`.
    fn check(id: ImageId, bytes: Vec<u8>, source: ImageSource) -> Result<Self, Rejection> {
        let bytes = Mapping::of_bytes(bytes);
        let image = Image::open(bytes.clone()).map_err(Rejection::wrong)?;
        if image.id() != id {
            return Err(Rejection::wrong(ReadError::WrongImage { id, found: image.id() }));
        }
        // The bytes have the digest that a trusted key signed, so requesting them again returns the same.
        image.verify().map_err(Rejection::permanent)?;
        Ok(Self { image, bytes: Some(bytes), source })
    }
}
