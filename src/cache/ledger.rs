//! Which frames were read, and which were fetched ahead of reading: a few bits a frame.

/// The frames of one locator.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    read: Bits,
    /// Read, fetched ahead, or about to be.
    asked: Bits,
    /// Fetched ahead and not read yet.
    unread: Bits,
    unread_bytes: u64,
    /// Of large objects, of which other rules say how much may lie unread.
    large: Bits,
    large_unread_bytes: u64,
    read_bytes: u64,
}

impl Ledger {
    /// Notes that a frame of `length` bytes was read; returns whether that was the first time. Its bytes count if somebody
    /// waited for them or they were fetched ahead, not if they were here all along.
    pub fn read(&mut self, frame: u32, length: u64, missed: bool) -> bool {
        let is_new = self.read.set(frame);
        self.asked.set(frame);
        let was_ahead = self.unread.clear(frame);
        if was_ahead {
            self.unread_bytes = self.unread_bytes.saturating_sub(length);
            if self.large.has(frame) {
                self.large_unread_bytes = self.large_unread_bytes.saturating_sub(length);
            }
        }
        if was_ahead || (is_new && missed) {
            self.read_bytes += length;
        }
        is_new
    }

    /// Notes that a frame is going to be fetched ahead.
    pub fn ask(&mut self, frame: u32) {
        self.asked.set(frame);
    }

    /// Notes, before it is fetched, that a frame is a large object's.
    pub fn of_large(&mut self, frame: u32) {
        self.large.set(frame);
    }

    /// Notes that a frame of `length` bytes was fetched ahead.
    pub fn fetched(&mut self, frame: u32, length: u64) {
        self.asked.set(frame);
        if !self.read.has(frame) && self.unread.set(frame) {
            self.unread_bytes += length;
            if self.large.has(frame) {
                self.large_unread_bytes += length;
            }
        }
    }

    pub fn is_read(&self, frame: u32) -> bool {
        self.read.has(frame)
    }

    pub fn is_asked(&self, frame: u32) -> bool {
        self.asked.has(frame)
    }

    /// Bytes that were read for the first time.
    pub const fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Bytes that were fetched ahead and not read yet.
    pub const fn unread_bytes(&self) -> u64 {
        self.unread_bytes
    }

    /// Those among them that are not of large objects.
    pub const fn small_unread_bytes(&self) -> u64 {
        self.unread_bytes.saturating_sub(self.large_unread_bytes)
    }
}

/// A set of small numbers.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn place(number: u32) -> (usize, u64) {
        ((number / u64::BITS) as usize, 1 << (number % u64::BITS))
    }

    fn has(&self, number: u32) -> bool {
        let (word, bit) = Self::place(number);
        self.0.get(word).is_some_and(|found| found & bit != 0)
    }

    /// Adds; returns whether it was not there.
    fn set(&mut self, number: u32) -> bool {
        let (word, bit) = Self::place(number);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    /// Takes away; returns whether it was there.
    fn clear(&mut self, number: u32) -> bool {
        let (word, bit) = Self::place(number);
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
        let mut ledger = Ledger::default();
        ledger.ask(100);
        ledger.fetched(100, 10);
        ledger.fetched(100, 10);
        assert_eq!((ledger.unread_bytes(), ledger.small_unread_bytes(), ledger.read_bytes()), (10, 10, 0));
        assert!(ledger.read(100, 10, false));
        assert!(!ledger.read(100, 10, true));
        assert_eq!((ledger.unread_bytes(), ledger.small_unread_bytes(), ledger.read_bytes()), (0, 0, 10));
        ledger.of_large(200);
        ledger.fetched(200, 10);
        assert_eq!((ledger.unread_bytes(), ledger.small_unread_bytes()), (10, 0));
        ledger.read(200, 10, false);
        assert!(ledger.read(7, 5, false), "it was here all along");
        assert!(ledger.read(8, 5, true));
        assert_eq!(ledger.read_bytes(), 25);
        ledger.fetched(8, 5);
        assert_eq!(ledger.unread_bytes(), 0, "somebody was faster");
    }
}
