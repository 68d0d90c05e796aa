//! Who called whom, and how the bytes were protected: as sidecars reported, kept and put together.
//!
//! * [`book`]: the newest report of each sidecar of this replica.
//! * [`merge`]: the books of all replicas as one list, each edge once, whichever end saw it.
//! * [`strict`]: what would be refused if what is `Permissive` were `Strict`.
//!
//! Of an edge that both ends saw, the server's counts hold. All ages are differences of one clock each,
//! so that nobody's clock has to be right.

mod book;
mod merge;
mod strict;
#[cfg(test)]
mod tests;

pub use self::merge::{End, Merged, Row, merge};
pub use self::strict::{Caller, Target, targets};

pub(super) use self::book::{Book, Reporter};

use weft_proto::discovery::EdgeTls;
use weft_proto::replica::SeenEdge;

/// The word for how an edge is protected.
pub const fn tls_word(tls: EdgeTls) -> &'static str {
    match tls {
        EdgeTls::Unspecified => "unknown",
        EdgeTls::Mesh => "mesh",
        EdgeTls::Plaintext => "plaintext",
        EdgeTls::Passthrough => "app-tls",
        EdgeTls::Exempt => "exempt",
        EdgeTls::Refused => "refused",
        EdgeTls::Local => "local",
    }
}

/// Whether Strict would refuse it.
pub const fn is_plain(tls: EdgeTls) -> bool {
    matches!(tls, EdgeTls::Plaintext | EdgeTls::Passthrough)
}

/// How an edge is protected, as a replica said.
fn tls_of(edge: &SeenEdge) -> EdgeTls {
    EdgeTls::try_from(edge.tls).unwrap_or_default()
}
