//! Answers of remotes, and what becomes of them: one rule for refs, commits, images, locators, packs and deltas, for pulls and
//! lazy reads.

mod counts;
mod fixture;
mod forms;
mod matrix;
mod messages;
mod sizes;
