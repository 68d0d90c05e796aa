//! What the control plane asks this sidecar to do once.

use std::net::SocketAddr;
use std::time::Duration;

use weft_proto::discovery as wire;
use weft_proto::discovery::command::Kind;

use crate::outcome::{Origin, Outcome};
use crate::policy::{ServiceRef, decode};
use crate::telemetry::tap;
use crate::telemetry::traffic::TrafficQuery;

/// Something to do once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Change breakers.
    Breaker {
        /// Of which backend; `None` for all.
        backend: Option<ServiceRef>,
        /// Which endpoint; `None` for all of the backend's.
        endpoint: Option<SocketAddr>,
        /// What to do.
        action: BreakerAction,
    },
    /// Tell every breaker and its state, as `/circuit-breakers` shows them.
    BreakerList,
    /// Tell the sidecar's state, as `/config` shows it.
    ConfigDump,
    /// Change the log level to this, or leave it where this is empty; the answer is the level before.
    LogLevel(String),
    /// Tell the sidecar's metrics, as `/metrics` shows them.
    MetricsDump,
    /// Tell the exchanges that ended since the last poll.
    Tap(Box<tap::Poll>),
    /// Tell sums of the traffic that passed.
    Traffic(TrafficQuery),
}

/// What people do to breakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerAction {
    /// Closed until released.
    ForceClosed,
    /// Open until released.
    ForceOpen,
    /// Closed, with nothing remembered.
    Reset,
}

/// Does commands. Called on the control thread, so it must be quick.
pub trait CommandHandler: Send + Sync {
    /// Does `command` and answers with JSON, or says why not.
    fn handle(&self, command: Command) -> Result<String, String>;
}

impl Command {
    pub(super) fn from_wire(message: wire::Command) -> Result<Self, String> {
        match message.kind {
            None => Err("unknown command".to_owned()),
            Some(Kind::BreakerList(_)) => Ok(Self::BreakerList),
            Some(Kind::ConfigDump(_)) => Ok(Self::ConfigDump),
            Some(Kind::MetricsDump(_)) => Ok(Self::MetricsDump),
            Some(Kind::LogLevel(level)) => Ok(Self::LogLevel(level)),
            Some(Kind::TapPoll(poll)) => Self::tap(poll),
            Some(Kind::Traffic(query)) => Self::traffic(query).map_err(|e| e.to_string()),
            Some(Kind::Breaker(breaker)) => Self::breaker(&breaker).map_err(|e| e.to_string()),
        }
    }

    fn traffic(message: wire::TrafficQuery) -> Result<Self, decode::DecodeError> {
        let named = |name: String| (!name.is_empty()).then_some(name);
        let seconds = u64::from(message.window_seconds);
        Ok(Self::Traffic(TrafficQuery {
            direction: match decode::known("direction", message.direction)? {
                wire::TrafficDirection::Any => None,
                wire::TrafficDirection::Inbound => Some(Origin::Inbound),
                wire::TrafficDirection::Outbound => Some(Origin::Outbound),
            },
            namespace: named(message.namespace),
            service: named(message.service),
            window: (seconds > 0).then(|| Duration::from_secs(seconds)),
        }))
    }

    fn breaker(message: &wire::BreakerCommand) -> Result<Self, decode::DecodeError> {
        Ok(Self::Breaker {
            backend: message
                .backend
                .as_ref()
                .map(decode::service_ref)
                .transpose()?,
            endpoint: message
                .endpoint
                .as_ref()
                .map(decode::socket_address)
                .transpose()?,
            action: match decode::known("action", message.action)? {
                wire::BreakerAction::Reset => BreakerAction::Reset,
                wire::BreakerAction::ForceOpen => BreakerAction::ForceOpen,
                wire::BreakerAction::ForceClosed => BreakerAction::ForceClosed,
            },
        })
    }

    fn tap(message: wire::TapPoll) -> Result<Self, String> {
        let filter = filter(message.filter.unwrap_or_default())?;
        let or = |value: u32, none: u32| if value == 0 { none } else { value };
        Ok(Self::Tap(Box::new(tap::Poll {
            session: message.session,
            number: message.number,
            is_last: message.last,
            settings: tap::Settings {
                filter,
                rate: or(message.rate, tap::DEFAULT_RATE).min(tap::MAX_RATE),
                share: or(message.share, tap::WHOLE),
                headers: message.headers,
                show_query: message.show_query,
            },
        })))
    }
}

/// What is not known is no filter that lets everything pass, but an error.
fn filter(message: wire::TapFilter) -> Result<tap::Filter, String> {
    let unknown = |what: &str, word: &str| format!("no such {what}: {word}");
    let direction = match &*message.direction {
        "" => None,
        "inbound" => Some(Origin::Inbound),
        "outbound" => Some(Origin::Outbound),
        word => return Err(unknown("direction", word)),
    };
    let method = match &*message.method {
        "" => None,
        word => Some(word.parse().map_err(|_| unknown("method", word))?),
    };
    let outcome = match &*message.outcome {
        "" => None,
        word => {
            let known = Outcome::from_word(word.as_bytes());
            Some(known.ok_or_else(|| unknown("outcome", word))?)
        }
    };
    let status = match (message.status_from, message.status_to) {
        (0, 0) => None,
        (from, to) => {
            let code =
                |code: u32| u16::try_from(code).map_err(|_| unknown("status", &code.to_string()));
            Some(code(from)?..=code(to)?)
        }
    };
    let set = |text: String| (!text.is_empty()).then_some(text);
    Ok(tap::Filter {
        direction,
        method,
        path: set(message.path),
        authority: set(message.authority),
        service: set(message.service),
        route: set(message.route),
        peer: set(message.peer),
        status,
        outcome,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(poll: wire::TapPoll) -> Result<tap::Poll, String> {
        let kind = Some(Kind::TapPoll(poll));
        match Command::from_wire(wire::Command { id: 1, kind })? {
            Command::Tap(poll) => Ok(*poll),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn polls_are_read() {
        let poll = read(wire::TapPoll::default()).expect("a poll");
        assert_eq!(
            (poll.settings.rate, poll.settings.share),
            (tap::DEFAULT_RATE, tap::WHOLE)
        );
        assert_eq!(poll.settings.filter, tap::Filter::default());
        let poll = read(wire::TapPoll {
            rate: 1_000_000,
            filter: Some(wire::TapFilter {
                direction: "inbound".to_owned(),
                method: "GET".to_owned(),
                path: "/a".to_owned(),
                status_from: 500,
                status_to: 599,
                outcome: "circuit_open".to_owned(),
                ..wire::TapFilter::default()
            }),
            ..wire::TapPoll::default()
        })
        .expect("a poll");
        assert_eq!(poll.settings.rate, tap::MAX_RATE);
        let wanted = tap::Filter {
            direction: Some(Origin::Inbound),
            method: Some(::http::Method::GET),
            path: Some("/a".to_owned()),
            status: Some(500..=599),
            outcome: Some(Outcome::CircuitOpen),
            ..tap::Filter::default()
        };
        assert_eq!(poll.settings.filter, wanted);
    }

    #[test]
    fn what_is_unknown_is_refused() {
        let of = |filter| {
            let filter = Some(filter);
            read(wire::TapPoll {
                filter,
                ..wire::TapPoll::default()
            })
            .expect_err("unknown")
        };
        let none = wire::TapFilter::default;
        let words = "sideways".to_owned();
        let direction = of(wire::TapFilter {
            direction: words.clone(),
            ..none()
        });
        assert_eq!(direction, "no such direction: sideways");
        let outcome = of(wire::TapFilter {
            outcome: words,
            ..none()
        });
        assert_eq!(outcome, "no such outcome: sideways");
        let method = of(wire::TapFilter {
            method: "G T".to_owned(),
            ..none()
        });
        assert_eq!(method, "no such method: G T");
        let status = of(wire::TapFilter {
            status_to: 70_000,
            ..none()
        });
        assert_eq!(status, "no such status: 70000");
    }
}
