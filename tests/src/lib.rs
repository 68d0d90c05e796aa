//! What the suites share and what needs no mesh: an API server, definitions for it, TLS endpoints whose
//! identity a test makes up, and how loads are counted.
#![forbid(unsafe_code)]

pub mod apiserver;
pub mod counts;
pub mod gateway_crds;
pub mod tls;
