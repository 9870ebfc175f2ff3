//! The history of accesses to the frames of one locator: which were read, and which were fetched ahead. A few bits for each
//! frame.
//!
//! *Used by* `predictor`.

/// The accesses to the frames of one locator.
#[derive(Debug, Default)]
pub(in crate::cache) struct AccessHistory {
    read: FrameSet,
    /// Frames that were read, were fetched ahead, or are going to be.
    requested: FrameSet,
    /// Frames that were fetched ahead and not read yet.
    unread: FrameSet,
    unread_bytes: u64,
    /// Frames of large objects, which have their own bounds for unread bytes.
    large: FrameSet,
    large_unread_bytes: u64,
    read_bytes: u64,
}

impl AccessHistory {
    /// Records a read of a frame of `length` bytes; returns whether it was the first one. The bytes count as read if a reader
    /// waited for them or they were fetched ahead, but not if they were stored already.
    pub(crate) fn note_read(&mut self, frame: u32, length: u64, missed: bool) -> bool {
        let is_new = self.read.insert(frame);
        self.requested.insert(frame);
        let was_ahead = self.unread.remove(frame);
        if was_ahead {
            self.unread_bytes = self.unread_bytes.saturating_sub(length);
            if self.large.contains(frame) {
                self.large_unread_bytes = self.large_unread_bytes.saturating_sub(length);
            }
        }
        if was_ahead || (is_new && missed) {
            self.read_bytes += length;
        }
        is_new
    }

    /// Records that a frame is going to be fetched ahead.
    pub(crate) fn note_requested(&mut self, frame: u32) {
        self.requested.insert(frame);
    }

    /// Records that a frame belongs to a large object. Called before the frame is fetched.
    pub(crate) fn note_large(&mut self, frame: u32) {
        self.large.insert(frame);
    }

    /// Records that a frame of `length` bytes was fetched ahead.
    pub(crate) fn note_fetched(&mut self, frame: u32, length: u64) {
        self.requested.insert(frame);
        if !self.read.contains(frame) && self.unread.insert(frame) {
            self.unread_bytes += length;
            if self.large.contains(frame) {
                self.large_unread_bytes += length;
            }
        }
    }

    pub(crate) fn is_read(&self, frame: u32) -> bool {
        self.read.contains(frame)
    }

    pub(crate) fn is_requested(&self, frame: u32) -> bool {
        self.requested.contains(frame)
    }

    /// Returns the number of bytes that were read, each frame counted once; see [`Self::note_read`].
    pub(crate) const fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Returns the number of bytes that were fetched ahead and not read yet.
    pub(crate) const fn unread_bytes(&self) -> u64 {
        self.unread_bytes
    }

    /// Returns the unread bytes that do not belong to large objects.
    pub(crate) const fn small_unread_bytes(&self) -> u64 {
        self.unread_bytes.saturating_sub(self.large_unread_bytes)
    }
}

/// A set of frame numbers, as a bitmap.
#[derive(Debug, Default)]
struct FrameSet(Vec<u64>);

impl FrameSet {
    fn position(number: u32) -> (usize, u64) {
        ((number / u64::BITS) as usize, 1 << (number % u64::BITS))
    }

    fn contains(&self, number: u32) -> bool {
        let (word, bit) = Self::position(number);
        self.0.get(word).is_some_and(|found| found & bit != 0)
    }

    /// Adds a number; returns whether it was missing.
    fn insert(&mut self, number: u32) -> bool {
        let (word, bit) = Self::position(number);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    /// Removes a number; returns whether it was in the set.
    fn remove(&mut self, number: u32) -> bool {
        let (word, bit) = Self::position(number);
        let Some(found) = self.0.get_mut(word) else { return false };
        let was_there = *found & bit != 0;
        *found &= !bit;
        was_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_once() {
        let mut history = AccessHistory::default();
        history.note_requested(100);
        history.note_fetched(100, 10);
        history.note_fetched(100, 10);
        assert_eq!((history.unread_bytes(), history.small_unread_bytes(), history.read_bytes()), (10, 10, 0));
        assert!(history.note_read(100, 10, false));
        assert!(!history.note_read(100, 10, true));
        assert_eq!((history.unread_bytes(), history.small_unread_bytes(), history.read_bytes()), (0, 0, 10));
        history.note_large(200);
        history.note_fetched(200, 10);
        assert_eq!((history.unread_bytes(), history.small_unread_bytes()), (10, 0));
        history.note_read(200, 10, false);
        assert!(history.note_read(7, 5, false), "a frame that was stored before");
        assert!(history.note_read(8, 5, true));
        assert_eq!(history.read_bytes(), 25);
        history.note_fetched(8, 5);
        assert_eq!(history.unread_bytes(), 0, "the frame was read before it was fetched ahead");
    }
}
