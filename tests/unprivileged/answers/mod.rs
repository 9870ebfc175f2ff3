//! What a remote may answer, and what becomes of it: the one rule for refs, commits, images, locators, packs and deltas, by
//! pull and by lazy reads.

mod counts;
mod forms;
mod matrix;
mod scene;
mod sizes;
mod words;
