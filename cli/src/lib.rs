//! `weft`: the command that people type.
//!
//! One program holds all of Weft, so that `weft demo` can start whatever it needs from itself and
//! never meets a stale program.
//!
//! Data flows downhill: a module uses only what stands below it in this list.
//!
//! * [`command`]: the command line; [`main`] reads it and hands over.
//! * [`check`]: what is wrong with a mesh's files, before a control plane reads them.
//! * [`explain`]: what is in force for a service, who said so, and what happens to a request.
//! * [`proxy_status`]: which sidecars run what, and who is behind.
//! * [`demo`]: a meshed application on this machine, a story told on it, and what was measured.
//! * `paint`: colours on terminals.
#![forbid(unsafe_code)]

pub mod check;
pub mod command;
pub mod demo;
pub mod explain;
mod paint;
pub mod proxy_status;

pub use command::main;
