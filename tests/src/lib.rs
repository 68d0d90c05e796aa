//! What the suites share and what needs no mesh: TLS endpoints whose identity a test makes up.
#![forbid(unsafe_code)]

pub mod tls;
