//! Weft's sidecar: takes every connection that a workload makes or receives, and enforces policy.
//!
//! Data flows downhill: a module uses only what stands below it in this list.
//!
//! * [`app`]: settings, threads, life cycle; puts everything together.
//! * [`admin`]: `/live`, `/ready`, `/metrics`, `/config`, `/circuit-breakers` and their kin.
//! * [`outbound`]: the life of a connection that the application makes.
//! * [`inbound`]: the life of a connection that is made to the application.
//! * [`discovery`]: the stream from the control plane; what this sidecar knows.
//! * [`identity`]: keys, certificates, mesh TLS.
//! * [`exchange`]: one request and its response, as they are accounted for.
//! * [`http`]: heads, bodies, servers and pools, without policy.
//! * [`tcp`]: bytes both ways.
//! * [`detect`]: which protocol a connection speaks.
//! * [`bounds`]: what the process bears, and what is taken of it.
//! * [`telemetry`]: metrics and logs.
//! * [`resilience`]: breaker, budget, balancer, split, backoff: pure decisions.
//! * [`policy`]: what the control plane decided, as this process uses it.
//! * [`outcome`]: the closed list of how exchanges end, and the one error type of the data path.
//! * [`worker`]: which data-path worker a thread is.
//! * [`net`]: addresses, sockets, original destinations.
//! * [`interception`]: `weft-proxy init`, the redirect rules.
//! * [`netlink`]: talking to the kernel's tables.
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod bounds;
pub mod detect;
pub mod discovery;
pub mod exchange;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod interception;
pub mod net;
pub mod netlink;
pub mod outbound;
pub mod outcome;
pub mod policy;
pub mod resilience;
pub mod tcp;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod worker;

/// What tests of the hot path count allocations with.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: weft_counting::Counting = weft_counting::Counting;
