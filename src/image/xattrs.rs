//! Encodes sets of extended attributes and reads them in place.
//!
//! A set is stored once, however many inodes have it: on an SELinux system tens of thousands of inodes share a few hundred
//! labels.
//!
//! *Used by* `image::columns`, which writes sets, and by the readers of this folder.

use super::header::usize_of;
use super::view::{ImageView, entry_error};
use super::{EntryFault, ImageError, Section};
use crate::model::{XATTR_NAME_MAX, XATTR_VALUE_MAX, Xattrs};

/// Encodes a set. The lengths fit because [`Xattrs`] bounds them.
pub(super) fn encode_set(xattrs: &Xattrs) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in xattrs.iter() {
        let name_length = u16::try_from(name.len()).expect("Xattrs bounds names at 255 bytes");
        let value_length = u32::try_from(value.len()).expect("Xattrs bounds values at 64 KiB");
        bytes.extend_from_slice(&name_length.to_le_bytes());
        bytes.extend_from_slice(&value_length.to_le_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value);
    }
    bytes
}

/// The extended attributes of one inode, read in place from the image.
#[derive(Clone, Copy)]
pub struct XattrSet<'a> {
    bytes: &'a [u8],
    /// An entry that has the attributes, for error messages.
    entry: u32,
}

impl<'a> XattrSet<'a> {
    /// Returns the set of `entry`; an empty set when it has no attributes.
    #[inline]
    pub(super) fn of(view: ImageView<'a>, entry: u32) -> Result<Self, ImageError> {
        match view.sections.xattrs.get_or_zero(view.bytes, entry as usize)? {
            0 => Ok(Self { bytes: &[], entry }),
            number => Self::numbered(view, number, entry),
        }
    }

    /// Returns the set with this number, which is not 0; `entry` is an entry that has it.
    pub(super) fn numbered(view: ImageView<'a>, number: u32, entry: u32) -> Result<Self, ImageError> {
        let offset = |index: usize| view.sections.xattr_offsets.get(view.bytes, index).map(usize_of);
        let (start, end) = (offset(number as usize - 1)?, offset(number as usize)?);
        Ok(Self { bytes: view.sections.xattr_sets.slice(view.bytes, start, end)?.as_bytes(), entry })
    }

    /// Returns the encoded set.
    pub(super) const fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Returns whether there are no attributes.
    pub(crate) const fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns names and values in ascending order of names, without copying. The iterator ends after the first error.
    pub fn iter(self) -> impl Iterator<Item = Result<(&'a [u8], &'a [u8]), ImageError>> {
        let mut rest = self.bytes;
        let mut last: &[u8] = &[];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            match split_pair(rest).filter(|(name, ..)| *name > last) {
                Some((name, value, after)) => {
                    (rest, last) = (after, name);
                    Some(Ok((name, value)))
                }
                None => {
                    rest = &[];
                    Some(Err(self.damaged()))
                }
            }
        })
    }

    /// Returns the value of one attribute.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged.
    pub(crate) fn get(self, name: &[u8]) -> Result<Option<&'a [u8]>, ImageError> {
        for pair in self.iter() {
            let (found, value) = pair?;
            if found >= name {
                return Ok((found == name).then_some(value));
            }
        }
        Ok(None)
    }

    /// Returns the attributes as a value.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged.
    pub(crate) fn to_xattrs(self) -> Result<Xattrs, ImageError> {
        if self.is_empty() {
            return Ok(Xattrs::default());
        }
        let pairs = self.iter().map(|pair| pair.map(|(name, value)| (name.into(), value.into())));
        Xattrs::new(pairs.collect::<Result<_, _>>()?).map_err(|_| self.damaged())
    }

    const fn damaged(self) -> ImageError {
        entry_error(Section::XattrSets, self.entry, EntryFault::Xattrs)
    }
}

type Pair<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Returns the first attribute of an encoded set and the bytes after it; `None` when the attribute is not legal.
fn split_pair(bytes: &[u8]) -> Option<Pair<'_>> {
    let (head, rest) = bytes.split_at_checked(6)?;
    let name_length = usize::from(u16::from_le_bytes([head[0], head[1]]));
    let value_length = usize_of(u64::from(u32::from_le_bytes([head[2], head[3], head[4], head[5]])));
    if !(1..=XATTR_NAME_MAX).contains(&name_length) || value_length > XATTR_VALUE_MAX {
        return None;
    }
    let (name, rest) = rest.split_at_checked(name_length)?;
    let (value, rest) = rest.split_at_checked(value_length)?;
    (!name.contains(&0)).then_some((name, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(bytes: &[u8]) -> XattrSet<'_> {
        XattrSet { bytes, entry: 0 }
    }

    #[test]
    fn xattr_set_reads_back_as_it_was_encoded() {
        let mut xattrs = Xattrs::default();
        xattrs.set(b"user.b", b"two").expect("legal");
        xattrs.set(b"user.a", &[0; XATTR_VALUE_MAX]).expect("legal");
        let bytes = encode_set(&xattrs);
        assert_eq!(set(&bytes).to_xattrs().as_ref(), Ok(&xattrs));
        assert_eq!(set(&bytes).get(b"user.b"), Ok(Some(&b"two"[..])));
        assert_eq!(set(&bytes).get(b"user.aa"), Ok(None));
        assert_eq!(set(&bytes).get(b"user.c"), Ok(None));
    }

    #[test]
    fn damaged_xattr_set_ends_with_one_error() {
        let mut xattrs = Xattrs::default();
        xattrs.set(b"user.a", b"1").expect("legal");
        let good = encode_set(&xattrs);
        let twice = [good.clone(), good.clone()].concat();
        let cut = &good[..good.len() - 1];
        for bad in [&twice[..], cut, &[0; 6], &[1, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(set(bad).iter().filter(Result::is_err).count(), 1, "{bad:?}");
            assert!(set(bad).to_xattrs().is_err());
        }
    }
}
