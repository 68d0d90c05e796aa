//! Heads, bodies, servers and pools, without policy.
//!
//! The stacks of both directions are written on top of this room; it knows nothing of routes,
//! breakers or retries. It promises that whoever decides about a retry is told the truth: a
//! [`Failure`](crate::outcome::Failure) says `Processed::Never` only with a proof.
//!
//! * [`server`]: one downstream connection.
//! * [`client`]: pools of upstream connections.
//! * `guard`: where one HTTP/1 request ends and the next begins.
//! * [`upgrade`]: what follows a `101` or a CONNECT.
//! * [`answer`]: responses that a sidecar makes itself.
//! * [`headers`]: hop-by-hop headers, authorities, request ids, streaming detection.
//! * `chunked`: bodies in chunks.
//! * [`forwarded`]: what applications are told of their clients' addresses.
//! * `kept`: heads that can be sent once more.
//! * [`replay`]: request bodies that can be sent once more.
//! * [`body`]: the body types of both directions.
//! * [`cuts`]: exchanges that may be ended from outside.
//! * [`deadline`]: timers that cost nothing while nobody waits.
//! * `cork`: what an HTTP/2 connection writes while it is polled leaves at once.
//! * `together`: an HTTP/2 connection and its exchanges, in one task.
//! * `settings`: the library's settings at both ends.
//! * `spare`: room for fields, used again.
//! * [`floods`]: ends what floods an HTTP/2 connection.

pub mod answer;
pub mod body;
mod chunked;
pub mod client;
mod cork;
pub mod cuts;
pub mod deadline;
pub mod floods;
pub mod forwarded;
mod guard;
pub mod headers;
pub(crate) mod kept;
pub mod replay;
pub mod server;
mod settings;
pub(crate) mod spare;
#[cfg(test)]
mod testing;
mod together;
pub mod upgrade;

/// Which HTTP a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0 and 1.1.
    Http1,
    /// HTTP/2, by ALPN or prior knowledge.
    Http2,
}

impl Version {
    /// The connection's protocol that a message of `version` came over.
    pub fn of(version: ::http::Version) -> Self {
        if version == ::http::Version::HTTP_2 {
            Self::Http2
        } else {
            Self::Http1
        }
    }
}
