//! Container images of Weft, assembled from programs of this machine: no registry, no daemon, no
//! privilege.
//!
//! [`assemble`] makes an image; [`Assembled::write_archive`] writes it as a file that every container
//! runtime loads. The same programs and the same libraries make the same bytes, and so the same digests,
//! wherever and whenever that is done.
//!
//! An image holds its programs, the shared libraries that they ask for, the files that name resolution
//! and user names need, and licences; nothing else. There is no shell, no package manager and no set of
//! public root certificates: Weft's programs trust roots that they are given (the mesh's, a cluster's).
//!
//! What cannot be made right is refused: a library that is not found, a program for another machine, a
//! C library that needs plug-ins for names.
//!
//! Data flows downhill: a module uses only what stands below it in this list.
//!
//! * [`command`]: the command line.
//! * [`assemble`](mod@assemble): from programs to an image.
//! * [`archive`]: the image as one file.
//! * [`layer`]: files as a compressed layer.
//! * [`root`]: the files of an image.
//! * [`libraries`]: which shared libraries programs need, and where they are.
//! * [`notices`]: licences of what the programs are made of.
//! * [`programs`]: building and stripping the programs.
//! * [`elf`]: what a program says about itself.
//! * [`reference`]: what an image is called.
//! * [`spec`]: which images there are, and what is in each.
//! * [`tar`]: writing tar archives that depend on nothing but their files.
#![forbid(unsafe_code)]

pub mod archive;
pub mod assemble;
pub mod command;
pub mod elf;
pub mod layer;
pub mod libraries;
pub mod notices;
pub mod programs;
pub mod reference;
pub mod root;
pub mod spec;
pub mod tar;

pub use assemble::{Assembled, assemble};
pub use reference::Reference;
pub use spec::{IMAGES, Image};
