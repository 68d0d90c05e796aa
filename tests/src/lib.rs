//! What the suites share and what needs no mesh: an API server, TLS endpoints whose identity a test
//! makes up, and how loads are counted.
#![forbid(unsafe_code)]

pub mod apiserver;
pub mod counts;
pub mod tls;
