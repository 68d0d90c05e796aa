//! Polls of tests.

use serde_json::Value;

use super::{Filter, MAX_RATE, Poll, Settings, WHOLE};
use crate::telemetry::Telemetry;

/// A poll for everything.
pub(in crate::telemetry) fn poll(number: u64) -> Poll {
    Poll {
        session: "test".to_owned(),
        number,
        is_last: false,
        settings: Settings {
            filter: Filter::default(),
            rate: MAX_RATE,
            share: WHOLE,
            headers: false,
            show_query: false,
        },
    }
}

/// What a poll gets.
pub(in crate::telemetry) fn answer(telemetry: &Telemetry, poll: &Poll) -> Value {
    let answer = telemetry.watchers().tap().poll(poll.clone()).unwrap();
    serde_json::from_str(&answer).unwrap()
}

/// The records of it.
pub(in crate::telemetry) fn lines(telemetry: &Telemetry, poll: &Poll) -> Vec<Value> {
    answer(telemetry, poll)["records"]
        .as_array()
        .unwrap()
        .clone()
}
