//! Where the model's objects come from.
//!
//! * [`files`]: a directory, watched.
//! * `kubernetes`: a cluster, watched; behind the feature of that name.
//! * [`progress`]: how the source is doing.
//! * [`mesh_file`]: the format of `mesh.yaml` in it.

mod closed;
pub mod files;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod mesh_file;
pub mod progress;
mod tell;
