//! Composes: real ones, of Debian's archive as this machine's apt knows it and of rpm packages built here.
//!
//! What they made is compared with what dpkg, rpm, setfiles, systemd and the other tools of the distributions say.
//! Package files are kept between runs; a commit that several tests look at is composed once.
mod debian;
mod failures;
mod fixture;
mod labels;
mod rpm;
mod server;
mod versions;
mod walls;
