//! Which exchanges a session is about. Pure.
//!
//! What a request's head tells is asked when it comes, before anything is kept of it; the rest when it is
//! over.

use std::ops::RangeInclusive;

use http::Method;

use crate::outcome::{Origin, Outcome};
use crate::telemetry::record::{Asked, Place, Record};

/// All of what is set has to be so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Seen from the workload.
    pub direction: Option<Origin>,
    /// As the request has it.
    pub method: Option<Method>,
    /// What the path begins with, without query.
    pub path: Option<String>,
    /// A host, with its port or without, in whatever case.
    pub authority: Option<String>,
    /// `namespace/name:port`, or `namespace/name` for all its ports.
    pub service: Option<String>,
    /// As the label `route` has it.
    pub route: Option<String>,
    /// As the label `peer` has it.
    pub peer: Option<String>,
    /// From the lowest to the highest.
    pub status: Option<RangeInclusive<u16>>,
    /// The word for how it ended.
    pub outcome: Option<Outcome>,
}

impl Filter {
    /// Whether an exchange may be meant, as far as its begin tells.
    pub fn admits(&self, asked: Asked<'_>, place: Place<'_>) -> bool {
        // Whom a request goes to is known when it is there.
        let peer_is_known = place.direction == Origin::Inbound;
        is(self.direction.as_ref(), &place.direction)
            && is(self.method.as_ref(), asked.method)
            && self
                .path
                .as_ref()
                .is_none_or(|it| asked.path().starts_with(&**it))
            && self
                .authority
                .as_ref()
                .is_none_or(|it| is_authority(it, asked.authority()))
            && self
                .service
                .as_ref()
                .is_none_or(|it| is_service(it, place.service))
            && (!peer_is_known || self.peer.as_ref().is_none_or(|it| it == place.peer))
    }

    /// Whether one is meant that is over and that [`Self::admits`] let pass.
    pub fn matches(&self, record: &Record) -> bool {
        let end = &record.end;
        self.route.as_ref().is_none_or(|it| **it == *end.route)
            && self.peer.as_ref().is_none_or(|it| **it == *end.peer)
            && self
                .status
                .as_ref()
                .is_none_or(|it| it.contains(&end.status))
            && is(self.outcome.as_ref(), &end.outcome)
    }

    /// Whether only the end tells.
    pub fn waits_for_the_end(&self) -> bool {
        self.route.is_some()
            || self.peer.is_some()
            || self.status.is_some()
            || self.outcome.is_some()
    }
}

fn is<T: PartialEq>(wanted: Option<&T>, is: &T) -> bool {
    wanted.is_none_or(|wanted| wanted == is)
}

fn is_service(wanted: &str, label: &str) -> bool {
    let rest = label.strip_prefix(wanted);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

fn is_authority(wanted: &str, authority: &str) -> bool {
    if authority.eq_ignore_ascii_case(wanted) {
        return true;
    }
    let port = authority.rsplit_once(':');
    port.is_some_and(|(host, _)| host.eq_ignore_ascii_case(wanted))
}
