//! A repository of many commits answers like one of few: system calls, bytes read and descriptors are counted.

mod commits;
mod counted;
mod history;
mod remembered;
