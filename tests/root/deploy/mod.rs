//! Deploying to a directory: what a machine goes through in its life, and what it survives.
mod etc;
mod kill;
mod lazy;
mod life;
mod loaders;
mod package;
mod running;
mod space;
mod trust;
mod units;
