//! Whether a request that got no response may have been processed.

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, ErrorKind};

use super::super::body::{BodyError, h2_error};
use super::h1::Broken;
use crate::outcome::{Failure, Outcome};

/// What the connection knows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    /// Not a byte left since the request was handed over.
    pub(super) wrote_nothing: bool,
    /// The peer closed cleanly without a byte of an answer, and keeps the contract.
    pub(super) closed_cleanly: bool,
}

/// Makes the failure of an exchange that ended with `error` before its response. Where hyper gave the
/// request back `whole`, it was never begun.
pub(super) fn failure(error: hyper::Error, whole: bool, evidence: Evidence) -> Failure {
    let never = whole || evidence.is_proof() || peer_refused(&error);
    let said = if error.is_parse() {
        Some("the answer was not HTTP".into())
    } else if error.is_timeout() {
        Some("the connection answers no ping".into())
    } else {
        None
    };
    judge(error, said, never)
}

/// The same, of a connection that its exchange drove.
pub(super) fn of_line(broken: Broken, evidence: Evidence) -> Failure {
    let never = matches!(broken, Broken::BeforeRequest) || evidence.is_proof();
    let said = match &broken {
        Broken::Malformed(malformed) => Some(malformed.to_string().into()),
        _ => None,
    };
    judge(broken, said, never)
}

/// `said`: what is to be said of it, where that is known.
fn judge(
    error: impl Error + Send + Sync + 'static,
    said: Option<Cow<'static, str>>,
    never: bool,
) -> Failure {
    let (outcome, detail) = if broke_the_protocol(&error) {
        (
            Outcome::BadRequest,
            "the body of the request breaks its framing".into(),
        )
    } else if request_broke(&error) {
        (Outcome::ClientGone, "the request broke off".into())
    } else if let Some(said) = said {
        (Outcome::Reset, said)
    } else if never {
        (
            Outcome::Reset,
            "the connection closed before the request".into(),
        )
    } else {
        (
            Outcome::Reset,
            "the connection broke before the answer".into(),
        )
    };
    let failure = if never {
        Failure::never(outcome, detail)
    } else {
        Failure::maybe(outcome, detail)
    };
    failure.because(error)
}

impl Evidence {
    fn is_proof(self) -> bool {
        self.wrote_nothing || self.closed_cleanly
    }
}

/// REFUSED_STREAM, or a graceful GOAWAY that left this stream out (RFC 9113, 6.8 and 8.7).
fn peer_refused(error: &hyper::Error) -> bool {
    let Some(error) = h2_error(error) else {
        return false;
    };
    if !error.is_remote() {
        return false;
    }
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => error.is_reset(),
        Some(h2::Reason::NO_ERROR) => error.is_go_away(),
        _ => false,
    }
}

/// The peer wants the HTTP/2 connection to end, or it is broken.
pub(super) fn connection_is_ending(error: &hyper::Error) -> bool {
    h2_error(error).is_none_or(|error| error.is_go_away() || error.is_io())
}

/// The body that should have gone upstream is none: that is how its connection's framing, and the
/// guard before it, say so.
fn broke_the_protocol(error: &(dyn Error + 'static)) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut is_request = false;
    while let Some(error) = cause {
        is_request |= error.is::<BodyError>();
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let kind = error.kind();
            return is_request && matches!(kind, ErrorKind::InvalidData | ErrorKind::InvalidInput);
        }
        cause = error.source();
    }
    false
}

/// The body that should have gone upstream failed.
fn request_broke(error: &(dyn Error + 'static)) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<BodyError>() {
            return true;
        }
        cause = error.source();
    }
    h2_error(error)
        .is_some_and(|error| error.is_reset() && !error.is_remote() && !error.is_library())
}
