//! Counting mesh TLS handshakes: how they ended and, where they failed, why.

use metrics::Counter;

use super::families;
use super::recorder::WeftRecorder;
use crate::outcome::Origin;

/// How a mesh TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeResult {
    /// Both sides are who they should be.
    Ok,
    /// TLS failed.
    Failed,
    /// It took too long.
    Timeout,
    /// The peer is verified, but not who it should be.
    WrongIdentity,
}

/// Why a mesh TLS handshake failed. A closed list: peers choose among these, and make up none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFault {
    /// The peer refused this side, and said so.
    Alert,
    /// No common protocol.
    Alpn,
    /// A signature of the chain or of the handshake does not fit its key.
    BadSignature,
    /// The leaf or one above it may not be used so: a CA as leaf, a leaf as CA, key usage, purpose, path
    /// length, what cannot be read.
    Certificate,
    /// The peer left.
    Closed,
    /// Something in the chain has expired.
    Expired,
    /// The leaf has not exactly one URI name, or that is no SPIFFE id of a workload.
    Name,
    /// The peer shows no certificate.
    NoCertificate,
    /// This side has no certificate yet.
    NotReady,
    /// Something in the chain is not valid yet.
    NotYetValid,
    /// It took too long.
    Timeout,
    /// What came is no TLS 1.3, or breaks its rules or limits.
    Tls,
    /// A workload of another trust domain.
    TrustDomain,
    /// The chain leads to no root of the mesh.
    UnknownIssuer,
    /// A workload of the mesh, and not the one it should be.
    WrongIdentity,
}

impl HandshakeResult {
    /// Every result, in the order of the enum.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Failed, Self::Timeout, Self::WrongIdentity];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::WrongIdentity => "wrong_identity",
        }
    }
}

impl HandshakeFault {
    /// Every fault, in the order of the enum.
    pub const ALL: [Self; 15] = [
        Self::Alert,
        Self::Alpn,
        Self::BadSignature,
        Self::Certificate,
        Self::Closed,
        Self::Expired,
        Self::Name,
        Self::NoCertificate,
        Self::NotReady,
        Self::NotYetValid,
        Self::Timeout,
        Self::Tls,
        Self::TrustDomain,
        Self::UnknownIssuer,
        Self::WrongIdentity,
    ];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Alpn => "alpn",
            Self::BadSignature => "bad_signature",
            Self::Certificate => "certificate",
            Self::Closed => "closed",
            Self::Expired => "expired",
            Self::Name => "name",
            Self::NoCertificate => "no_certificate",
            Self::NotReady => "not_ready",
            Self::NotYetValid => "not_yet_valid",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::TrustDomain => "trust_domain",
            Self::UnknownIssuer => "unknown_issuer",
            Self::WrongIdentity => "wrong_identity",
        }
    }

    /// The result that it is counted under.
    pub const fn result(self) -> HandshakeResult {
        match self {
            Self::Timeout => HandshakeResult::Timeout,
            Self::WrongIdentity => HandshakeResult::WrongIdentity,
            _ => HandshakeResult::Failed,
        }
    }
}

/// The counters of one direction.
pub(super) struct HandshakeCounters {
    results: [Counter; HandshakeResult::ALL.len()],
    faults: [Counter; HandshakeFault::ALL.len()],
}

impl HandshakeCounters {
    pub(super) fn new(recorder: &WeftRecorder, direction: Origin) -> Self {
        let direction = ("direction", direction.as_str());
        Self {
            results: HandshakeResult::ALL.map(|result| {
                let labels = [direction, ("result", result.as_str())];
                recorder.counter(&families::TLS_HANDSHAKES, &labels)
            }),
            faults: HandshakeFault::ALL.map(|fault| {
                let labels = [direction, ("reason", fault.as_str())];
                recorder.counter(&families::TLS_HANDSHAKE_FAILURES, &labels)
            }),
        }
    }

    pub(super) fn succeeded(&self) {
        self.results[HandshakeResult::Ok as usize].increment(1);
    }

    pub(super) fn failed(&self, fault: HandshakeFault) {
        self.results[fault.result() as usize].increment(1);
        self.faults[fault as usize].increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_order() {
        for (index, fault) in HandshakeFault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index);
        }
        for (index, result) in HandshakeResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, index);
        }
    }
}
