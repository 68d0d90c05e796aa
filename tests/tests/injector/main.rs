//! The admission webhook as a process of its own, called by an API server over TLS with the certificate
//! that the control plane makes.
#![allow(clippy::unwrap_used)] // In helpers of tests too.

mod calls;
mod common;
mod life;
mod pods;
