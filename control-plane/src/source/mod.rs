//! Where the model's objects come from.
//!
//! * [`files`]: a directory, watched.
//! * [`mesh_file`]: the format of `mesh.yaml` in it.

pub mod files;
pub mod mesh_file;
