//! Who somebody is in a cluster, who vouches and who leads: the control plane's own tasks, and whole
//! processes of it, on an API server.
#![allow(clippy::unwrap_used)] // In helpers of tests too.

mod authority;
mod bundle;
mod common;
mod lease;
mod processes;
mod tokens;
mod webhook;
