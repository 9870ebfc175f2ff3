//! Tests that count what a worker does in time, and therefore run when nothing else does.

mod kills;
