//! The image format from outside: random trees, damaged bytes, the golden file, sizes nobody has at home.

mod arbitrary;
mod diff;
mod faults;
mod golden;
mod listing;
mod mutations;
mod round_trip;
mod scale;
