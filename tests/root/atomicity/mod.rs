//! Atomicity: a kill, a power cut or an error leaves the old state or the new one.

mod commit;
mod durable;
mod remote;
