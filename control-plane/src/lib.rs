//! Weft's control plane: turns manifests into what sidecars need to know, and vouches for who they
//! are.
//!
//! Data flows downhill: a module uses only what stands below it in this list.
//!
//! * [`app`]: the command line, settings, start and end.
//! * `cluster`: what is written to a cluster, and who somebody is there; behind the feature
//!   `kubernetes`.
//! * [`keeper`]: moves the authority's rotations on, and follows what others do of them.
//! * [`serve`]: the gRPC services and their streams.
//! * [`check`]: pure: (objects) → what is wrong, or can never act, and how to mend it.
//! * [`explain`]: pure: (model, service) → what is in force for it, and who said so.
//! * [`compile`]: pure: (model, who asks, what) → wire message.
//! * [`source`]: where the model's objects come from.
//! * [`index`]: the one model of services, endpoints, workloads and policies.
//! * [`identity`]: the certificate authority and the tokens that it believes.
//! * [`route`]: Gateway API routes, as far as they are about the mesh.
//! * [`policy`]: `TrafficPolicy` and its rules.
#![forbid(unsafe_code)]

pub mod app;
pub mod check;
#[cfg(feature = "kubernetes")]
pub mod cluster;
pub mod compile;
pub mod explain;
pub mod identity;
pub mod index;
pub mod keeper;
pub mod policy;
pub mod route;
pub mod serve;
pub mod source;
