//! What was measured, and what had been expected of it.

use std::borrow::Cow;

use serde::Serialize;
use serde::ser::{SerializeStruct as _, Serializer};

use super::screen::Paint;
use super::text::grouped;

/// Widths of the columns of a line, which with its indent and gaps fits into 100.
const WHAT_WIDTH: usize = 56;
const MEASURED_WIDTH: usize = 10;
const EXPECTED_WIDTH: usize = 16;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Unit {
    /// Things, by the piece.
    Count,
    /// Milliseconds.
    Milliseconds,
    /// A share in hundredths.
    Percent,
    /// Seconds.
    Seconds,
}

/// The numbers that are as expected, bounds included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Expected {
    /// The least, where there is one.
    pub(super) least: Option<f64>,
    /// The most, where there is one.
    pub(super) most: Option<f64>,
}

/// One measured line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Check {
    /// The act that it belongs to.
    pub(super) act: &'static str,
    /// What was measured.
    pub(super) what: Cow<'static, str>,
    /// Out of how many of what, where that says something.
    pub(super) of: Option<(u64, &'static str)>,
    /// The number; `None` where what was waited for did not come.
    pub(super) value: Option<f64>,
    /// What the number counts.
    pub(super) unit: Unit,
    /// What was expected of it.
    pub(super) expected: Expected,
}

impl Expected {
    /// This number.
    pub(super) fn exactly(number: impl Into<f64>) -> Self {
        let number = Some(number.into());
        Self {
            least: number,
            most: number,
        }
    }

    /// This number or more.
    pub(super) fn at_least(least: impl Into<f64>) -> Self {
        Self {
            least: Some(least.into()),
            most: None,
        }
    }

    /// This number or less.
    pub(super) fn at_most(most: impl Into<f64>) -> Self {
        Self {
            least: None,
            most: Some(most.into()),
        }
    }

    /// A number between these, or one of them.
    pub(super) fn between(least: impl Into<f64>, most: impl Into<f64>) -> Self {
        Self {
            least: Some(least.into()),
            most: Some(most.into()),
        }
    }

    /// A share of `percent` as `answers` random choices show it: within four standard deviations,
    /// which chance leaves once in 16,000 times.
    pub(super) fn share(percent: f64, answers: u64) -> Self {
        let share = percent / 100.0;
        let deviation = (share * (1.0 - share) / answers.max(1) as f64).sqrt();
        let room = 400.0 * deviation;
        Self::between((percent - room).max(0.0), (percent + room).min(100.0))
    }

    fn holds(self, value: f64) -> bool {
        self.least.is_none_or(|least| value >= least) && self.most.is_none_or(|most| value <= most)
    }

    fn text(self, unit: Unit) -> String {
        match (self.least, self.most) {
            (Some(least), Some(most)) if least.total_cmp(&most).is_eq() => unit.text(least),
            (Some(least), Some(most)) => format!("{} to {}", unit.number(least), unit.text(most)),
            (Some(least), None) => format!("at least {}", unit.text(least)),
            (None, Some(most)) => format!("at most {}", unit.text(most)),
            (None, None) => "anything".to_owned(),
        }
    }
}

impl Unit {
    fn number(self, value: f64) -> String {
        match self {
            Self::Count | Self::Milliseconds => grouped(value.round().max(0.0) as u64),
            Self::Percent if value >= 100.0 || value <= 0.0 => format!("{value:.0}"),
            // A share that is not whole must not read as if it were.
            Self::Percent => format!("{:.1}", value.clamp(0.1, 99.9)),
            Self::Seconds => format!("{value:.2}"),
        }
    }

    fn text(self, value: f64) -> String {
        let unit = match self {
            Self::Count => "",
            Self::Milliseconds => " ms",
            Self::Percent => " %",
            Self::Seconds => " s",
        };
        self.number(value) + unit
    }
}

impl Check {
    /// Whether it is as expected.
    pub(super) fn is_ok(&self) -> bool {
        self.value.is_some_and(|value| self.expected.holds(value))
    }

    /// The number in words.
    pub(super) fn measured(&self) -> String {
        match self.value {
            Some(value) => self.unit.text(value),
            None => "never seen".to_owned(),
        }
    }

    /// What was expected, in words.
    pub(super) fn expectation(&self) -> String {
        self.expected.text(self.unit)
    }

    fn subject(&self) -> String {
        match self.of {
            Some((count, things)) => format!("{}, of {} {things}", self.what, grouped(count)),
            None => self.what.to_string(),
        }
    }

    /// The line for people.
    pub(super) fn line(&self, paint: Paint) -> String {
        let verdict = if self.is_ok() {
            paint.good("ok")
        } else {
            paint.bad("FAILED")
        };
        format!(
            "  {:WHAT_WIDTH$}  {:>MEASURED_WIDTH$}  {:EXPECTED_WIDTH$}  {verdict}",
            self.subject(),
            self.measured(),
            self.expectation(),
        )
    }
}

/// The head over lines of [`Check::line`].
pub(super) fn head(paint: Paint) -> String {
    paint.faint(&format!(
        "  {:WHAT_WIDTH$}  {:>MEASURED_WIDTH$}  {:EXPECTED_WIDTH$}",
        "", "measured", "expected"
    ))
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Check", 8)?;
        object.serialize_field("act", self.act)?;
        object.serialize_field("what", &self.what)?;
        object.serialize_field("of", &self.of.map(|(count, _)| count))?;
        object.serialize_field("value", &self.value)?;
        object.serialize_field("unit", &self.unit)?;
        object.serialize_field("least", &self.expected.least)?;
        object.serialize_field("most", &self.expected.most)?;
        object.serialize_field("ok", &self.is_ok())?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: Option<f64>, unit: Unit, expected: Expected) -> Check {
        Check {
            act: "steady state",
            what: "not answered with 200".into(),
            of: Some((2_500, "requests")),
            value,
            unit,
            expected,
        }
    }

    #[test]
    fn bounds_belong_to_what_is_expected() {
        let cases = [
            (Expected::exactly(0), 0.0, true),
            (Expected::exactly(0), 1.0, false),
            (Expected::at_least(4), 4.0, true),
            (Expected::at_least(4), 3.9, false),
            (Expected::at_most(1), 1.0, true),
            (Expected::at_most(1), 1.1, false),
            (Expected::between(1, 2), 1.5, true),
            (Expected::between(1, 2), 2.5, false),
            (Expected::at_most(1), f64::NAN, false),
        ];
        for (expected, value, ok) in cases {
            let check = check(Some(value), Unit::Count, expected);
            assert_eq!(check.is_ok(), ok, "{check:?}");
        }
        assert!(!check(None, Unit::Seconds, Expected::at_most(1)).is_ok());
    }

    #[test]
    fn a_share_has_the_room_that_chance_needs() {
        let expected = Expected::share(10.0, 2_500);
        assert_eq!(expected.least.map(f64::round), Some(8.0));
        assert_eq!(expected.most.map(f64::round), Some(12.0));
        assert_eq!(Expected::share(100.0, 10), Expected::between(100, 100));
        assert_eq!(Expected::share(10.0, 0), Expected::between(0, 100));
    }

    #[test]
    fn lines_say_what_is_meant() {
        let paint = Paint::plain();
        let line = check(Some(0.0), Unit::Count, Expected::exactly(0)).line(paint);
        assert_eq!(
            line,
            "  not answered with 200, of 2,500 requests                           0  0                 ok"
        );
        let line = check(None, Unit::Seconds, Expected::at_most(1.5)).line(paint);
        assert!(
            line.ends_with("never seen  at most 1.50 s    FAILED"),
            "{line}"
        );
        assert!(line.len() <= 100);
        let shares = check(Some(99.97), Unit::Percent, Expected::between(7.52, 12.48));
        assert_eq!(
            (shares.measured(), shares.expectation()),
            ("99.9 %".into(), "7.5 to 12.5 %".into())
        );
    }

    #[test]
    fn json_has_the_numbers_and_the_verdict() {
        let check = check(Some(420.0), Unit::Milliseconds, Expected::at_most(650));
        let json = serde_json::to_value(check).expect("strings and numbers only");
        let expected = serde_json::json!({
            "act": "steady state",
            "what": "not answered with 200",
            "of": 2_500,
            "value": 420.0,
            "unit": "milliseconds",
            "least": null,
            "most": 650.0,
            "ok": true,
        });
        assert_eq!(json, expected);
    }
}
