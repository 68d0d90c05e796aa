//! How long callers of something slow wait: without end where nothing is said, with a limit no longer.

use std::time::Duration;

use weft_sandbox::load::Report;

use super::millis;
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// What callers waited.
#[derive(Clone, Copy, Debug)]
pub(in crate::demo::platforms) struct Waited {
    longest: Duration,
    median: Duration,
}

impl Waited {
    /// By all of these.
    pub(in crate::demo::platforms) fn all(report: &Report) -> Self {
        Self::longer_than(Duration::ZERO, report)
    }

    /// By those of them that waited longer.
    pub(in crate::demo::platforms) fn longer_than(least: Duration, report: &Report) -> Self {
        let waits = report.records.iter().map(|record| record.took);
        let mut waits: Vec<_> = waits.filter(|took| *took > least).collect();
        waits.sort_unstable();
        Self {
            longest: waits.last().copied().unwrap_or_default(),
            median: waits.get(waits.len() / 2).copied().unwrap_or_default(),
        }
    }
}

/// Before, callers hang for at least this long; after, it is as these two say.
pub(in crate::demo::platforms) fn check_waited(
    stage: &mut Stage,
    waited: BeforeAfter<Waited>,
    hung: Duration,
    longest: Expected,
    median: Expected,
) {
    for (what, waited, after) in [
        (
            "the longest that a caller waited",
            waited.map(|it| millis(it.longest)),
            longest,
        ),
        (
            "the median of what callers waited",
            waited.map(|it| millis(it.median)),
            median,
        ),
    ] {
        let expected = BeforeAfter {
            before: Expected::at_least(millis(hung)),
            after,
        };
        stage.check_both(what, waited, Unit::Milliseconds, expected);
    }
}
