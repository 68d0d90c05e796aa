//! What the suites share and what needs no mesh: an API server, the benchmark, canary tools, definitions for it, TLS endpoints whose
//! identity a test makes up, HTTP/2 by hand, a judge of paths, gRPC and bytes beside another load, how loads are
//! counted, and what threads use.
#![forbid(unsafe_code)]

pub mod apiserver;
pub mod bench;
pub mod canary;
pub mod counts;
pub mod frames;
pub mod gateway_crds;
pub mod grpc_and_bytes;
pub mod promql;
pub mod readings;
pub mod threads;
pub mod tls;
