//! What the suites share and what needs no mesh: an API server, definitions for it, and TLS endpoints
//! whose identity a test makes up.
#![forbid(unsafe_code)]

pub mod apiserver;
pub mod gateway_crds;
pub mod tls;
