//! `weft`: the command that people type.
//!
//! One program holds all of Weft, so that `weft demo` can start whatever it needs from itself and
//! never meets a stale program.
//!
//! Data flows downhill: a module uses only what stands below it in this list.
//!
//! * [`command`]: the command line; [`main`] reads it and hands over.
//! * [`demo`]: a meshed application on this machine, a story told on it, and what was measured.
#![forbid(unsafe_code)]

pub mod command;
pub mod demo;

pub use command::main;
