//! What the suites share and what needs no mesh: an API server, and TLS endpoints whose identity a test
//! makes up.
#![forbid(unsafe_code)]

pub mod apiserver;
pub mod tls;
