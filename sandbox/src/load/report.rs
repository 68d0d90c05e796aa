//! What came of a load.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Different texts of failures that are told apart; the rest is `others`.
const MAX_FAILURES: usize = 64;
/// Records that are kept; later ones are counted only.
const MAX_RECORDS: usize = 1_000_000;
/// Bounds of the latency histogram, in microseconds, and its significant digits.
const LATENCY_MAX_US: u64 = 600_000_000;
const DIGITS: u8 = 3;

/// What came of a load, or of a part of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Requests that were begun.
    pub sent: u64,
    /// Answers that came to their end.
    pub answered: u64,
    /// Requests without a whole answer.
    pub failed: u64,
    /// Connections that were replaced because the server had closed them between exchanges.
    pub reconnects: u64,
    /// Requests that a server's GOAWAY left out, and that went over another connection.
    pub left_out: u64,
    /// Connections that were refused, and tried again.
    pub refused: u64,
    /// The longest time from when a request was due to its begin: what its clients waited is not in
    /// it, that none was free is.
    pub late: Duration,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers by `x-weft-outcome`, those that the mesh made itself.
    pub outcomes: BTreeMap<String, u64>,
    /// Failures by text.
    pub failures: BTreeMap<String, u64>,
    /// Answers by the application that gave them.
    pub served_by: BTreeMap<String, u64>,
    /// Answers by the application's version.
    pub versions: BTreeMap<String, u64>,
    /// One by one, in the order of their ends; the first million.
    pub records: Vec<Record>,
    latency: Histogram<u64>,
}

/// One exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number; its id is the load's prefix, a dash and this.
    pub number: u64,
    /// Its method.
    pub method: http::Method,
    /// The status; 0 for a failure.
    pub status: u16,
    /// The mesh's word, where it answered itself.
    pub outcome: Option<Box<str>>,
    /// The application that answered.
    pub served_by: Option<Box<str>>,
    /// From when it was due to the end of the answer.
    pub took: Duration,
}

impl Report {
    /// Share of the requests that ended with a status below 500, in percent; 100 without any.
    pub fn success_percent(&self) -> f64 {
        let ended = self.answered + self.failed;
        if ended == 0 {
            return 100.0;
        }
        let bad: u64 = self.statuses.range(500..).map(|(_, count)| count).sum();
        (self.answered - bad) as f64 * 100.0 / ended as f64
    }

    /// Answers with this status.
    pub fn status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Answers with any other status than 200, and failures.
    pub fn not_ok(&self) -> u64 {
        self.answered + self.failed - self.status(200)
    }

    /// Latency at a quantile, 0.0 to 1.0; of answers only.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(quantile))
    }

    /// Share of the answers that this application gave, in percent.
    pub fn share_percent(&self, served_by: &str) -> f64 {
        let all: u64 = self.served_by.values().sum();
        let its = self.served_by.get(served_by).copied().unwrap_or(0);
        if all == 0 {
            return 0.0;
        }
        its as f64 * 100.0 / all as f64
    }

    /// The longest run of answers in a row for which `side` gives the same value.
    pub fn longest_run<S: PartialEq>(&self, side: impl Fn(&Record) -> S) -> usize {
        self.records
            .chunk_by(|a, b| side(a) == side(b))
            .map(<[Record]>::len)
            .max()
            .unwrap_or(0)
    }

    pub(super) fn answered(&mut self, record: Record, version: Option<&str>) {
        self.answered += 1;
        *self.statuses.entry(record.status).or_default() += 1;
        if let Some(outcome) = &record.outcome {
            *self.outcomes.entry(outcome.to_string()).or_default() += 1;
        }
        if let Some(name) = &record.served_by {
            *self.served_by.entry(name.to_string()).or_default() += 1;
        }
        if let Some(version) = version {
            *self.versions.entry(version.to_owned()).or_default() += 1;
        }
        self.latency
            .saturating_record(record.took.as_micros() as u64);
        self.keep(record);
    }

    pub(super) fn failed(&mut self, record: Record, why: String) {
        self.failed += 1;
        let known = self.failures.contains_key(&why) || self.failures.len() < MAX_FAILURES;
        let why = if known { why } else { "others".to_owned() };
        *self.failures.entry(why).or_default() += 1;
        self.keep(record);
    }

    fn keep(&mut self, record: Record) {
        if self.records.len() < MAX_RECORDS {
            self.records.push(record);
        }
    }
}

impl Default for Report {
    fn default() -> Self {
        Self {
            sent: 0,
            answered: 0,
            failed: 0,
            reconnects: 0,
            left_out: 0,
            refused: 0,
            late: Duration::ZERO,
            statuses: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            failures: BTreeMap::new(),
            served_by: BTreeMap::new(),
            versions: BTreeMap::new(),
            records: Vec::new(),
            latency: Histogram::new_with_max(LATENCY_MAX_US, DIGITS)
                .expect("the bounds are in hdrhistogram's range"),
        }
    }
}
