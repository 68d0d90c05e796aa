//! What is said about policies and routes: their statuses.
//!
//! * Only the replica that leads writes. When leadership begins, every status is looked at again.
//! * What is said is about the version of the object that the model was made of; while that is not the
//!   one that the API server has, nothing is written.
//! * A status that says so already is not written again. What other controllers say stays.
//! * A write is a merge patch that holds for one version of the object only: where the object has
//!   changed meanwhile, it is looked at again as it is then.
//! * While the API server is away nothing is lost, as nothing is remembered: what differs is found by
//!   comparing when it is back.

mod desired;
pub mod policy;
mod schedule;
#[cfg(test)]
mod tests;
mod write;
mod writer;

pub use schedule::COUNTS_EVERY;
pub use writer::{Known, StatusWriter};
