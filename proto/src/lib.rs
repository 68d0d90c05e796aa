//! The contracts between Weft's processes.
//!
//! * [`discovery`]: what a sidecar knows, and the stream that tells it.
//! * [`identity`]: how a sidecar gets its certificate.
//! * [`header_label`]: a label of metrics that takes its values from a header.
//! * [`logs`]: the log of every program.
//! * [`names`]: every label, annotation, port, header, metric and environment variable that more
//!   than one crate or a user spells.
//! * [`otlp`]: how spans are told to a collector.
//! * [`pattern`]: what a regular expression of a policy means.
//! * [`process`]: what the kernel says about a process, for its metrics.
//! * [`replica`]: what the control plane's replicas tell each other.
//! * [`spiffe`]: the one parser of SPIFFE ids.
//!
//! The messages are generated at build time from the `.proto` files beside this crate, which carry
//! the documentation of every field.
#![forbid(unsafe_code)]

pub mod header_label;
pub mod logs;
pub mod names;
pub mod pattern;
pub mod process;
pub mod spiffe;

/// The discovery stream (`weft.discovery.v1`).
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]
pub mod discovery {
    tonic::include_proto!("weft.discovery.v1");
}

/// The certificate service (`weft.identity.v1`).
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]
pub mod identity {
    tonic::include_proto!("weft.identity.v1");
}

/// What replicas of the control plane tell each other (`weft.replica.v1`).
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]
pub mod replica {
    tonic::include_proto!("weft.replica.v1");
}

/// What of OTLP sidecars speak (`opentelemetry.proto.collector.trace.v1`).
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]
pub mod otlp {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}
