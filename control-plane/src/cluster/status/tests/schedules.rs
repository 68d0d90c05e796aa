//! When statuses are written: the schedule under hand-made times.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::super::schedule::{COUNTS_EVERY, Change, MAX_WRITES, Outcome, Schedule, Turn};

const SECOND: Duration = Duration::from_secs(1);

fn write(schedule: &mut Schedule<u32>, key: u32, version: &str, outcome: Outcome, now: Instant) {
    schedule.begun(&key, version);
    schedule.ended(&key, outcome, 1.0, now);
}

#[test]
fn counts_are_coalesced_and_verdicts_are_not() {
    let start = Instant::now();
    let mut schedule = Schedule::new();
    assert_eq!(schedule.turn(&1, "v1", Change::Verdict, start), Turn::Write);
    write(&mut schedule, 1, "v1", Outcome::Written, start);

    let soon = start + SECOND;
    let due = soon + COUNTS_EVERY;
    let waits = Turn::Wait(due);
    assert_eq!(schedule.turn(&1, "v2", Change::Counts, soon), waits);
    // They change again.
    let later = soon + SECOND;
    assert_eq!(schedule.turn(&1, "v2", Change::Counts, later), waits);
    assert_eq!(schedule.turn(&1, "v2", Change::Verdict, later), Turn::Write);
    write(&mut schedule, 1, "v2", Outcome::Written, later);
    // The counts went with it.
    let due = later + COUNTS_EVERY;
    let waits = Turn::Wait(due);
    assert_eq!(schedule.turn(&1, "v3", Change::Counts, later), waits);
    assert_eq!(schedule.turn(&1, "v3", Change::Counts, due), Turn::Write);
}

#[test]
fn sidecars_may_come_before_anything_is_said_of_their_number() {
    let start = Instant::now();
    // Of a new leader.
    let mut schedule = Schedule::new();
    let waits = Turn::Wait(start + COUNTS_EVERY);
    assert_eq!(schedule.turn(&1, "v", Change::Counts, start), waits);
    assert_eq!(schedule.turn(&1, "v", Change::Verdict, start), Turn::Write);

    // And however long ago the last write was.
    write(&mut schedule, 1, "v", Outcome::Written, start);
    let gone = start + COUNTS_EVERY * 9;
    let waits = Turn::Wait(gone + COUNTS_EVERY);
    assert_eq!(schedule.turn(&1, "v", Change::Counts, gone), waits);
    schedule.is_right(&1);
    let gone = gone + COUNTS_EVERY / 2;
    let waits = Turn::Wait(gone + COUNTS_EVERY);
    assert_eq!(schedule.turn(&1, "v", Change::Counts, gone), waits);
}

#[test]
fn one_object_is_written_once_at_a_time_and_all_are_bounded() {
    let now = Instant::now();
    let mut schedule = Schedule::new();
    for key in 0..MAX_WRITES as u32 {
        assert_eq!(schedule.turn(&key, "v", Change::Verdict, now), Turn::Write);
        schedule.begun(&key, "v");
        assert_eq!(schedule.turn(&key, "w", Change::Verdict, now), Turn::Busy);
    }
    assert_eq!(schedule.turn(&99, "v", Change::Verdict, now), Turn::Busy);
    schedule.keep_only(|_| false);
    schedule.ended(&0, Outcome::Written, 0.0, now);
    assert_eq!(schedule.turn(&99, "v", Change::Verdict, now), Turn::Write);
}

#[test]
fn a_conflict_waits_for_what_the_watch_sees() {
    let now = Instant::now();
    let mut schedule = Schedule::new();
    write(&mut schedule, 1, "v1", Outcome::Conflict, now);
    assert!(matches!(
        schedule.turn(&1, "v1", Change::Verdict, now),
        Turn::Wait(_)
    ));
    assert_eq!(schedule.turn(&1, "v2", Change::Verdict, now), Turn::Write);
    // Others have nothing to do with it.
    assert_eq!(schedule.turn(&2, "v1", Change::Verdict, now), Turn::Write);
}

#[test]
fn what_is_refused_is_tried_again_ever_more_seldom() {
    let mut now = Instant::now();
    let mut schedule = Schedule::new();
    let mut waits = Vec::new();
    for _ in 0..9 {
        write(&mut schedule, 1, "v1", Outcome::Refused, now);
        let Turn::Wait(until) = schedule.turn(&1, "v2", Change::Verdict, now) else {
            panic!("it is tried again at once");
        };
        waits.push((until - now).as_millis());
        now = until;
        assert_eq!(schedule.turn(&1, "v2", Change::Verdict, now), Turn::Write);
    }
    assert_eq!(
        waits,
        [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]
    );
    write(&mut schedule, 1, "v2", Outcome::Written, now);
    assert_eq!(schedule.turn(&1, "v3", Change::Verdict, now), Turn::Write);
}

#[test]
fn an_api_server_that_is_away_pauses_all_writes() {
    let start = Instant::now();
    let mut schedule = Schedule::new();
    for key in 0..8 {
        schedule.begun(&key, "v");
    }
    for key in 0..8 {
        schedule.ended(&key, Outcome::Unreachable, 1.0, start);
    }
    // Eight that failed together are one outage.
    let until = start + Duration::from_millis(500);
    assert_eq!(
        schedule.turn(&99, "v", Change::Verdict, start),
        Turn::Wait(until)
    );
    assert!(schedule.is_paused());
    assert_eq!(schedule.turn(&99, "v", Change::Verdict, until), Turn::Write);
    write(&mut schedule, 1, "v", Outcome::Written, until);
    assert!(!schedule.is_paused());
    assert_eq!(schedule.turn(&2, "v", Change::Verdict, until), Turn::Write);
}

proptest! {
    /// However sidecars come and go, and however often it is looked.
    #[test]
    fn counts_alone_never_cause_more_than_one_write_in_ten_seconds(
        steps in prop::collection::vec((1_u64..4000, any::<bool>()), 1..200),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut schedule = Schedule::new();
        let mut writes = vec![start];
        for (step, is_right) in steps {
            now += Duration::from_millis(step);
            if is_right {
                schedule.is_right(&1);
                continue;
            }
            match schedule.turn(&1, "v", Change::Counts, now) {
                Turn::Write => {
                    write(&mut schedule, 1, "v", Outcome::Written, now);
                    writes.push(now);
                }
                Turn::Wait(until) => prop_assert!(until > now && until <= now + COUNTS_EVERY),
                Turn::Busy => prop_assert!(false, "nothing is on its way"),
            }
        }
        for pair in writes.windows(2) {
            prop_assert!(pair[1] - pair[0] >= COUNTS_EVERY);
        }
    }
}
