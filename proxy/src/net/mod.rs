//! Addresses, sockets and closing: what every direction stands on.
//!
//! * [`closing`]: the phases in which a sidecar ends.

pub mod closing;
