//! Polls of taps. What words mean is the sidecars' to say; here only lengths and numbers are looked at.

use serde::Deserialize;
use weft_proto::discovery::{TapFilter, TapPoll};

/// Longest word of a filter, in bytes.
const MAX_WORD: usize = 1_024;
/// Longest name of a session, in bytes.
const MAX_SESSION: usize = 64;
/// Most records per second.
const MAX_RATE: u32 = 1_000;
/// All of a share.
const WHOLE: u32 = 10_000;

/// A session is opened, or goes on.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Posted {
    session: String,
    /// Counted from 1.
    number: u64,
    #[serde(default)]
    last: bool,
    #[serde(default)]
    filter: Filter,
    /// Records per second of each sidecar; 0 for its default.
    #[serde(default)]
    rate: u32,
    /// In ten-thousandths; 0 for all.
    #[serde(default)]
    share: u32,
    #[serde(default)]
    headers: bool,
    #[serde(default)]
    show_query: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Filter {
    direction: String,
    method: String,
    path: String,
    authority: String,
    service: String,
    route: String,
    peer: String,
    outcome: String,
    status_from: u16,
    status_to: u16,
}

impl Posted {
    pub(super) fn to_wire(&self) -> Result<TapPoll, String> {
        if self.session.is_empty() || self.session.len() > MAX_SESSION {
            return Err(format!("a session's name has 1 to {MAX_SESSION} bytes"));
        }
        if self.number == 0 {
            return Err("polls are counted from 1".to_owned());
        }
        if self.rate > MAX_RATE {
            return Err(format!("at most {MAX_RATE} records per second"));
        }
        if self.share > WHOLE {
            return Err(format!("a share is at most {WHOLE}"));
        }
        Ok(TapPoll {
            session: self.session.clone(),
            number: self.number,
            last: self.last,
            filter: Some(self.filter.to_wire()?),
            rate: self.rate,
            share: self.share,
            headers: self.headers,
            show_query: self.show_query,
        })
    }
}

impl Filter {
    fn to_wire(&self) -> Result<TapFilter, String> {
        let words = [
            &self.direction,
            &self.method,
            &self.path,
            &self.authority,
            &self.service,
            &self.route,
            &self.peer,
            &self.outcome,
        ];
        if words.iter().any(|word| word.len() > MAX_WORD) {
            return Err(format!("a word of the filter is longer than {MAX_WORD}"));
        }
        if self.status_from > self.status_to {
            return Err("no status is between these".to_owned());
        }
        Ok(TapFilter {
            direction: self.direction.clone(),
            method: self.method.clone(),
            path: self.path.clone(),
            authority: self.authority.clone(),
            service: self.service.clone(),
            route: self.route.clone(),
            peer: self.peer.clone(),
            status_from: self.status_from.into(),
            status_to: self.status_to.into(),
            outcome: self.outcome.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn polls_are_read() {
        let posted: Posted = serde_json::from_value(json!({
            "session": "a", "number": 2, "last": true, "rate": 5, "headers": true,
            "filter": {"peer": "shop/web", "statusFrom": 500, "statusTo": 599},
        }))
        .expect("a poll");
        let wanted = TapPoll {
            session: "a".to_owned(),
            number: 2,
            last: true,
            filter: Some(TapFilter {
                peer: "shop/web".to_owned(),
                status_from: 500,
                status_to: 599,
                ..TapFilter::default()
            }),
            rate: 5,
            share: 0,
            headers: true,
            show_query: false,
        };
        assert_eq!(posted.to_wire(), Ok(wanted));
    }

    #[test]
    fn what_is_no_poll_is_refused() {
        for (poll, words) in [
            (json!({"session": "", "number": 1}), "1 to 64 bytes"),
            (
                json!({"session": "s".repeat(65), "number": 1}),
                "1 to 64 bytes",
            ),
            (json!({"session": "a", "number": 0}), "from 1"),
            (
                json!({"session": "a", "number": 1, "rate": 1_001}),
                "1000 records",
            ),
            (
                json!({"session": "a", "number": 1, "share": 10_001}),
                "10000",
            ),
            (
                json!({"session": "a", "number": 1, "filter": {"path": "p".repeat(1_025)}}),
                "longer than 1024",
            ),
            (
                json!({"session": "a", "number": 1, "filter": {"statusFrom": 500}}),
                "no status",
            ),
        ] {
            let posted: Posted = serde_json::from_value(poll.clone()).expect("the form is right");
            let error = posted.to_wire().expect_err("no poll");
            assert!(error.contains(words), "{poll}: {error}");
        }
        let unknown = json!({"session": "a", "number": 1, "filter": {"pear": "x"}});
        assert!(serde_json::from_value::<Posted>(unknown).is_err());
    }
}
