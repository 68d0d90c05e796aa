//! What a response body holds of its connection.

use super::h1::H1Lease;
use super::h2::H2Lease;

/// What a response body holds of its connection.
#[derive(Debug)]
pub(in crate::http) enum Lease {
    /// Nothing any more.
    None,
    /// A connection of its own, which the library drives.
    H1(H1Lease),
    /// One of several streams; counted until dropped.
    H2(H2Lease),
}

impl Lease {
    /// The response has ended as it should.
    pub(in crate::http) fn give_back(&mut self) {
        match std::mem::replace(self, Self::None) {
            Self::H1(lease) => lease.give_back(),
            Self::H2(lease) => drop(lease),
            Self::None => {}
        }
    }

    /// The response will never end as it should.
    pub(in crate::http) fn abandon(&mut self) {
        *self = Self::None;
    }
}
