//! Tests that measure what a worker does in a time, and therefore run when no other test does.

mod kills;
