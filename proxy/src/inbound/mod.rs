//! To come.

pub mod authorize;
