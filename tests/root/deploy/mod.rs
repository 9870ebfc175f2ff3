//! Deployments in a directory: the operations in the life of a machine, and failures that it must survive.
mod etc;
mod kill;
mod lazy;
mod lifecycle;
mod loaders;
mod menus;
mod package;
mod running;
mod space;
mod surprises;
mod trust;
mod units;
