//! What the suites share and what needs no mesh: reading metrics, and TLS endpoints whose identity a
//! test makes up.
#![forbid(unsafe_code)]

pub mod metrics;
pub mod tls;

pub use metrics::Metrics;
