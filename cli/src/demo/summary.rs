//! Everything that was measured, for people and for machines.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_sandbox::Mode;
use weft_sandbox::load::Report;

use super::check::{self, Check};
use super::pace::Pace;
use super::screen::Paint;
use super::story::Story;
use super::text::grouped;

/// Reasons for failed requests that are told; more are counted only.
const MAX_REASONS: usize = 20;

/// Requests by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Begun.
    pub(super) sent: u64,
    /// Answered to the end.
    pub(super) answered: u64,
    /// Without a whole answer.
    pub(super) failed: u64,
    /// Answered with something else than 200, or failed.
    pub(super) not_ok: u64,
}

/// What the demo found out so far.
#[derive(Debug)]
pub(super) struct Summary {
    story: &'static Story,
    pace: Pace,
    begun: Instant,
    mode: Mode,
    checks: Vec<Check>,
    traffic: Tally,
    /// Why requests failed, with how many did so.
    reasons: BTreeMap<String, u64>,
    /// An object for each service.
    steady_state: Vec<Value>,
    /// What kept the story from its end.
    error: Option<String>,
}

impl Tally {
    /// Counts a report in.
    pub(super) fn add(&mut self, report: &Report) {
        *self = self.plus(Self {
            sent: report.sent,
            answered: report.answered,
            failed: report.failed,
            not_ok: report.not_ok(),
        });
    }

    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            answered: self.answered + other.answered,
            failed: self.failed + other.failed,
            not_ok: self.not_ok + other.not_ok,
        }
    }

    /// Share of what has ended that ended in 200; 100 without any.
    pub(super) fn success_percent(self) -> f64 {
        let ended = self.answered + self.failed;
        if ended == 0 {
            return 100.0;
        }
        (ended - self.not_ok) as f64 * 100.0 / ended as f64
    }
}

impl Summary {
    /// Nothing is measured yet; time runs.
    pub(super) fn new(story: &'static Story, pace: Pace, mode: &Mode) -> Self {
        Self {
            story,
            pace,
            begun: Instant::now(),
            mode: mode.clone(),
            checks: Vec::new(),
            traffic: Tally::default(),
            reasons: BTreeMap::new(),
            steady_state: Vec::new(),
            error: None,
        }
    }

    /// Since the demo began.
    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Adds what was measured.
    pub(super) fn push(&mut self, check: Check) {
        self.checks.push(check);
    }

    /// What the services were like before anything happened.
    pub(super) fn set_steady_state(&mut self, services: Vec<Value>) {
        self.steady_state = services;
    }

    /// Adds a part of the traffic.
    pub(super) fn add(&mut self, report: &Report) {
        self.traffic.add(report);
        let statuses = report.statuses.iter().filter(|(status, _)| **status != 200);
        let statuses = statuses.map(|(status, count)| (format!("answered with {status}"), *count));
        let outcomes = report.outcomes.iter();
        let outcomes = outcomes.map(|(word, count)| (format!("outcome {word}"), *count));
        let failures = report.failures.iter();
        let failures = failures.map(|(why, count)| (why.clone(), *count));
        for (reason, count) in statuses.chain(outcomes).chain(failures) {
            if self.reasons.len() < MAX_REASONS || self.reasons.contains_key(&reason) {
                *self.reasons.entry(reason).or_default() += count;
            }
        }
    }

    /// All traffic of the story.
    pub(super) fn traffic(&self) -> Tally {
        self.traffic
    }

    /// Why requests failed, a line each.
    pub(super) fn reasons(&self) -> impl Iterator<Item = String> {
        let reasons = self.reasons.iter();
        reasons.map(|(reason, count)| format!("{} × {reason}", grouped(*count)))
    }

    /// The story could not go on.
    pub(super) fn fail(&mut self, error: &anyhow::Error) {
        self.error = Some(format!("{error:#}"));
    }

    /// Whether the story came to its end and everything was as expected.
    pub(super) fn is_ok(&self) -> bool {
        self.error.is_none() && !self.checks.is_empty() && self.checks.iter().all(Check::is_ok)
    }

    /// Whether the story came to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.error.is_none()
    }

    /// The lines for people.
    pub(super) fn table(&self, paint: Paint) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.checks.is_empty() {
            lines.push(check::head(paint));
        }
        let mut act = "";
        for check in &self.checks {
            if check.act != act {
                act = check.act;
                lines.push(paint.strong(act));
            }
            lines.push(check.line(paint));
        }
        let failed = self.checks.iter().filter(|check| !check.is_ok()).count();
        let took = self.elapsed().as_secs_f64();
        let verdict = match (&self.error, failed) {
            (Some(error), _) => paint.bad(&format!("The story broke off: {error}.")),
            (None, 0) => paint.good(&format!(
                "All {} measurements are as expected.",
                self.checks.len()
            )),
            (None, failed) => paint.bad(&format!(
                "{failed} of {} measurements are not as expected.",
                self.checks.len()
            )),
        };
        lines.push(format!("\n{verdict} It took {took:.0} s."));
        lines
    }

    /// The object for machines.
    pub(super) fn json(&self) -> Value {
        let (mode, why) = match &self.mode {
            Mode::UserNamespaces => ("user-namespaces", ""),
            Mode::Root { why } => ("root", why.as_str()),
            Mode::Explicit { why } => ("explicit", why.as_str()),
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "platform": self.story.name,
            "dividedBy": self.pace.factor(),
            "ok": self.is_ok(),
            "error": self.error,
            "mode": mode,
            "why": why,
            "interception": if self.mode.has_namespaces() { "redirect" } else { "none" },
            "seconds": (self.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            "requests": {
                "sent": self.traffic.sent,
                "answered": self.traffic.answered,
                "failed": self.traffic.failed,
                "notOk": self.traffic.not_ok,
                "reasons": self.reasons,
            },
            "steadyState": self.steady_state,
            "checks": self.checks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{Expected, Unit};
    use super::super::quickstart;
    use super::*;

    fn check(act: &'static str, value: f64) -> Check {
        Check {
            act,
            what: "requests that failed".into(),
            of: None,
            value: Some(value),
            unit: Unit::Count,
            expected: Expected::exactly(0),
        }
    }

    #[test]
    fn one_failed_line_fails_everything() {
        let mut summary = Summary::new(&quickstart::STORY, Pace::REAL, &Mode::UserNamespaces);
        assert!(!summary.is_ok(), "nothing was measured");
        summary.push(check("one", 0.0));
        assert!(summary.is_ok());
        summary.push(check("two", 3.0));
        assert!(!summary.is_ok());
        let table = summary.table(Paint::plain());
        assert_eq!(table[1], "one");
        assert!(
            table[2].ends_with("ok") && table[4].ends_with("FAILED"),
            "{table:#?}"
        );
        assert!(table[5].contains("1 of 2 measurements are not as expected"));
    }

    #[test]
    fn a_story_that_broke_off_is_no_success() {
        let mut summary = Summary::new(&quickstart::STORY, Pace::REAL, &Mode::UserNamespaces);
        summary.push(check("one", 0.0));
        summary.fail(&anyhow::anyhow!("no room").context("starting"));
        assert!(!summary.is_ok() && !summary.is_whole());
        let table = summary.table(Paint::plain());
        assert!(table[3].contains("starting: no room"), "{table:#?}");
    }

    #[test]
    fn json_has_a_stable_shape() {
        let why = "not allowed".to_owned();
        let mut summary = Summary::new(&quickstart::STORY, Pace::REAL, &Mode::Root { why });
        let mut report = Report::default();
        (report.sent, report.answered, report.failed) = (3, 2, 1);
        report.statuses = BTreeMap::from([(200, 1), (504, 1)]);
        report.failures = BTreeMap::from([("reset".to_owned(), 1)]);
        summary.add(&report);
        summary.push(check("one", 0.0));
        let mut json = summary.json();
        assert!(json["seconds"].take().is_number());
        let expected = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "platform": null,
            "dividedBy": 1,
            "ok": true,
            "error": null,
            "mode": "root",
            "why": "not allowed",
            "interception": "redirect",
            "seconds": null,
            "requests": {
                "sent": 3, "answered": 2, "failed": 1, "notOk": 2,
                "reasons": {"answered with 504": 1, "reset": 1},
            },
            "steadyState": [],
            "checks": [{
                "act": "one", "what": "requests that failed", "of": null, "value": 0.0, "unit": "count",
                "least": 0.0, "most": 0.0, "ok": true,
            }],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn tallies_add_up() {
        let ended = Tally {
            sent: 4,
            answered: 3,
            failed: 1,
            not_ok: 2,
        };
        assert!((ended.plus(Tally::default()).success_percent() - 50.0).abs() < 1e-9);
        assert!((Tally::default().success_percent() - 100.0).abs() < 1e-9);
    }
}
