//! Why a handshake failed, as one of the reasons that are counted.
//!
//! The order of checks decides where a peer is wrong in several ways: the TLS library looks at the chain
//! first, and the names in the leaf come last.

use std::io;

use rustls::{AlertDescription, CertificateError, OtherError};

use super::tls::Refusal;
use super::verify::IdentityError;
use crate::outcome::{Failure, Outcome};
use crate::telemetry::HandshakeFault as Fault;

/// The reason behind a failure of [`Identity::connect`](super::Identity::connect) or
/// [`Identity::accept`](super::Identity::accept), or of the wait for one of them.
pub fn fault_of(failure: &Failure) -> Fault {
    if failure.outcome != Outcome::TlsFailed {
        return Fault::Timeout;
    }
    let source = failure.source.as_ref();
    match source.and_then(|source| source.downcast_ref::<Refusal>()) {
        // Only a handshake that was never begun has no refusal behind it.
        None => Fault::NotReady,
        Some(Refusal::Alpn) => Fault::Alpn,
        Some(Refusal::Handshake(error)) => of_io(error),
        Some(Refusal::Identity(error)) => of_identity(error),
        Some(Refusal::WrongPeer { .. }) => Fault::WrongIdentity,
    }
}

fn of_io(error: &io::Error) -> Fault {
    let source = error.get_ref();
    match source.and_then(|source| source.downcast_ref::<rustls::Error>()) {
        Some(error) => of_tls(error),
        None => Fault::Closed,
    }
}

fn of_tls(error: &rustls::Error) -> Fault {
    match error {
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | rustls::Error::NoApplicationProtocol => Fault::Alpn,
        rustls::Error::AlertReceived(_) => Fault::Alert,
        rustls::Error::InvalidCertificate(error) => of_certificate(error),
        rustls::Error::NoCertificatesPresented => Fault::NoCertificate,
        _ => Fault::Tls,
    }
}

fn of_certificate(error: &CertificateError) -> Fault {
    match error {
        CertificateError::BadSignature => Fault::BadSignature,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Fault::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Fault::NotYetValid
        }
        CertificateError::UnknownIssuer => Fault::UnknownIssuer,
        CertificateError::Other(OtherError(source)) => {
            let ours = source.downcast_ref::<IdentityError>();
            ours.map_or(Fault::Certificate, of_identity)
        }
        _ => Fault::Certificate,
    }
}

fn of_identity(error: &IdentityError) -> Fault {
    match error {
        IdentityError::Chain(error) => of_tls(error),
        IdentityError::ForeignTrustDomain(_) => Fault::TrustDomain,
        IdentityError::NoCertificate => Fault::NoCertificate,
        IdentityError::NumberOfUris(_) | IdentityError::SpiffeId(_) => Fault::Name,
        _ => Fault::Certificate,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn tls(error: rustls::Error) -> Fault {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        fault_of(&Refusal::Handshake(error).into_failure())
    }

    #[test]
    fn failures_have_reasons() {
        let none = Failure::never(Outcome::TlsFailed, "no certificate yet");
        assert_eq!(fault_of(&none), Fault::NotReady);
        let slow = Failure::never(Outcome::IdleTimeout, "slow");
        assert_eq!(fault_of(&slow), Fault::Timeout);
        let gone = io::Error::from(io::ErrorKind::UnexpectedEof);
        let gone = Refusal::Handshake(gone).into_failure();
        assert_eq!(fault_of(&gone), Fault::Closed);
        assert_eq!(fault_of(&Refusal::Alpn.into_failure()), Fault::Alpn);
        let peer = Refusal::WrongPeer {
            expected: "spiffe://a/ns/b/sa/c".parse().unwrap(),
            found: "spiffe://a/ns/b/sa/d".parse().unwrap(),
        };
        assert_eq!(fault_of(&peer.into_failure()), Fault::WrongIdentity);

        assert_eq!(tls(rustls::Error::DecryptError), Fault::Tls);
        let alert = |description| tls(rustls::Error::AlertReceived(description));
        assert_eq!(alert(AlertDescription::UnknownCA), Fault::Alert);
        assert_eq!(alert(AlertDescription::NoApplicationProtocol), Fault::Alpn);
        assert_eq!(
            tls(CertificateError::UnknownIssuer.into()),
            Fault::UnknownIssuer
        );
        // What this module's verifiers say goes through the TLS library, and comes back whole.
        let ours = OtherError(Arc::new(IdentityError::ForeignTrustDomain("a".into())));
        assert_eq!(
            tls(CertificateError::Other(ours).into()),
            Fault::TrustDomain
        );
        let theirs = OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity));
        assert_eq!(
            tls(CertificateError::Other(theirs).into()),
            Fault::Certificate
        );
    }
}
