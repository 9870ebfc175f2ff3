//! Composes of Debian's archive, as this machine's apt knows it, and of rpm packages that are built here.
//!
//! The results are compared with what dpkg, rpm, setfiles, systemd and other tools of the distributions report. Package files
//! are kept between runs; a commit that several tests read is composed once.
mod attacks;
mod base;
mod debian;
mod failures;
mod fixture;
mod isolation;
mod labels;
mod machine;
mod manifests;
mod rpm;
mod server;
mod versions;
