//! The command (being written elsewhere).
fn main() {}
