//! `weft`: the command that people type.
//!
//! One program holds all of Weft, so that `weft demo` can start whatever it needs from itself and
//! never meets a stale program.
//!
//! Data flows downhill: a module uses only what stands below it in this list.
//!
//! * [`command`]: the command line; [`main`] reads it and hands over.
//! * [`check`]: what is wrong with a mesh's files, before a control plane reads them, or with a cluster.
//! * `check_cluster`: the latter: what was fetched, and what is wrong with it.
//! * [`explain`]: what is in force for a service, who said so, and what happens to a request.
//! * [`proxy_status`]: which sidecars run what, and who is behind.
//! * [`breaker`]: circuit breakers of all sidecars, listed and changed.
//! * [`tap`]: exchanges of all sidecars as they end.
//! * [`stat`]: success, rate and latency of what passes, once and live.
//! * [`canary`]: the weights of a service's split, shown and changed.
//! * [`version`]: what this program is, and a control plane and its sidecars.
//! * [`completion`]: what a shell needs to complete the command line.
//! * [`order`]: commands to sidecars.
//! * [`edges`]: who calls whom, and who does it in plaintext.
//! * [`identity`]: who signs, whom the mesh trusts, and rotations of both.
//! * [`inject`]: manifests with the sidecar in their pods.
//! * [`install`]: manifests that install a mesh into a cluster, and lists that remove it.
//! * [`demo`]: a meshed application on this machine, a story told on it, and what was measured.
//! * `cluster`: which cluster somebody means, and a client of it.
//! * `words`: words in lines.
//! * `paint`: colours on terminals.
#![forbid(unsafe_code)]

pub mod breaker;
pub mod canary;
pub mod check;
mod check_cluster;
mod cluster;
pub mod command;
pub mod completion;
pub mod demo;
pub mod edges;
pub mod explain;
pub mod identity;
pub mod inject;
pub mod install;
pub mod order;
mod paint;
pub mod proxy_status;
pub mod stat;
pub mod tap;
pub mod version;
mod words;

pub use command::main;
