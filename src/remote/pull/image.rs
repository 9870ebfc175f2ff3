//! The image of a commit: from here, or whole from the remote.
//!
//! Whatever way it comes, it leaves here only after its id, its blocks and the rules of its format were checked.

use super::error::PullError;
use super::report::ImageSource;
use crate::image::Image;
use crate::model::ImageId;
use crate::remote::client::Remote;
use crate::remote::format::{ImageRef, decode_image};
use crate::remote::layout;
use crate::store::{ReadError, Store};
use crate::sys::Mapping;

/// Largest published image that is read. One of a million entries has about 40 MiB.
const PUBLISHED_MAX: u64 = 1 << 30;

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
            Err(error) => Err(error.into()),
        }
    }

    /// The whole image from the remote.
    pub(super) fn whole(remote: &Remote, id: ImageId, place: ImageRef) -> Result<Self, PullError> {
        let url = || remote.transport().url().into();
        let length = place.length.min(PUBLISHED_MAX);
        let published = remote
            .transport()
            .get_range(&layout::image(id), 0..length)
            .map_err(|source| PullError::Transport { url: url(), source })?;
        let bytes = decode_image(&published, id).map_err(|source| PullError::Wire { url: url(), id, source })?;
        Self::checked(remote, id, bytes, ImageSource::Whole)
    }

    /// Bytes that came from outside, if they are the image `id`.
    fn checked(remote: &Remote, id: ImageId, bytes: Vec<u8>, source: ImageSource) -> Result<Self, PullError> {
        let bytes = Mapping::of_bytes(bytes);
        let refused = |source| PullError::Image { url: remote.transport().url().into(), id, source };
        let image = Image::open(bytes.clone()).map_err(refused)?;
        if image.id() != id {
            return Err(ReadError::WrongImage { id, found: image.id() }.into());
        }
        image.verify().map_err(refused)?;
        Ok(Self { image, bytes: Some(bytes), source })
    }
}
