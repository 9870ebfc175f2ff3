//! The image format, by its public interface: random trees, damaged bytes, the golden file, extreme sizes.

mod arbitrary;
mod diff;
mod faults;
mod golden;
mod listing;
mod mutations;
mod round_trip;
mod scale;
