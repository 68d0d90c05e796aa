use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::rules::{Scale, parse};
use super::{Counts, find, missing};

const STEP: Duration = Duration::from_millis(250);

fn minutes_to_seconds() -> Scale {
    Scale::new(60, STEP)
}

#[test]
fn a_missing_program_names_its_package() {
    let absent = missing(&["sh", "weft-has-no-such-program"]);
    let [absent] = &absent[..] else {
        panic!("{absent:?}");
    };
    assert_eq!(
        absent.to_string(),
        "there is no weft-has-no-such-program here: `apt-get install weft-has-no-such-program` brings it"
    );
    assert_eq!(super::package("psql"), "postgresql-client");
    assert!(find("sh").is_some_and(|file| file.is_absolute()));
}

#[test]
fn ranges_subqueries_and_offsets_become_shorter() {
    for (text, wanted) in [
        ("rate(x_total[5m])", "rate(x_total[5s])"),
        ("rate(x[1h30m])", "rate(x[90s])"),
        // Not below four steps.
        ("rate(x[30s])", "rate(x[1s])"),
        (
            "max_over_time(rate(x[5m])[1h:1m])",
            "max_over_time(rate(x[5s])[60s:1s])",
        ),
        ("max_over_time(x[1h:])", "max_over_time(x[60s:])"),
        ("x offset 1h - y", "x offset 60s - y"),
        ("x offset -5m", "x offset -5s"),
        // What only looks like it.
        (
            "job:x:rate5m{le=\"[5m]\"} > 5 # [5m]",
            "job:x:rate5m{le=\"[5m]\"} > 5 # [5m]",
        ),
        ("x{a='it\\'s [5m]'}[10m]", "x{a='it\\'s [5m]'}[10s]"),
        ("offsets[5m] > 0.05", "offsets[5s] > 0.05"),
    ] {
        assert_eq!(minutes_to_seconds().expression(text), wanted, "{text}");
    }
}

#[test]
fn files_of_rules_become_shorter_whole() {
    let groups = "groups:\n- name: a\n  interval: 30s\n  rules:\n  - alert: High\n    expr: rate(x[5m]) > 0.05\n    \
        for: 5m\n    labels: {severity: warning}\n  - {record: y, expr: x}\n  - {alert: Now, expr: x, for: 0s}\n";
    let rules: Value = serde_json::from_str(&minutes_to_seconds().rules(groups).unwrap()).unwrap();
    let group = &rules["groups"][0];
    assert_eq!(group["interval"], "500ms");
    assert_eq!(group["rules"][0]["for"], "5s");
    assert_eq!(group["rules"][0]["expr"], "rate(x[5s]) > 0.05");
    assert_eq!(group["rules"][0]["labels"]["severity"], "warning");
    assert_eq!(group["rules"][2]["for"], "0s");
    let indented = groups.replace('\n', "\n  ");
    let of_operator = format!("kind: PrometheusRule\nspec:\n  {indented}");
    let same: Value =
        serde_json::from_str(&minutes_to_seconds().rules(&of_operator).unwrap()).unwrap();
    assert_eq!(same, rules);
    for wrong in [
        "a: b",
        "groups: [{name: a, rules: [{alert: A, expr: x, for: soon}]}]",
    ] {
        assert!(minutes_to_seconds().rules(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn by_one_nothing_changes() {
    let scale = Scale::new(1, Duration::from_secs(10));
    assert_eq!(scale.expression("rate(x[30s])"), "rate(x[30s])");
    assert_eq!(
        scale.duration(Duration::from_secs(1)),
        Duration::from_secs(1)
    );
}

#[test]
fn counts_are_of_all_clones() {
    let counts = Counts::default();
    counts.connects();
    assert!(counts.is_connected());
    counts.clone().does("a");
    counts.does("a");
    counts.loses(&anyhow::anyhow!("gone"));
    assert_eq!(
        (counts.done(), counts.connected(), counts.lost()),
        (2, 1, 1)
    );
    assert_eq!(counts.messages().get("a"), Some(&2));
    assert_eq!(
        (counts.errors(), counts.is_connected()),
        (vec!["gone".to_owned()], false)
    );
}

proptest! {
    #[test]
    fn whatever_is_written_is_read(text in "\\PC{0,60}") {
        // Neither panics, nor loses what is no time.
        let scaled = minutes_to_seconds().expression(&text);
        if !text.contains(['[', '"', '\'', '`', '#']) && !text.contains("offset") {
            prop_assert_eq!(scaled, text);
        }
    }

    #[test]
    fn durations_are_sums_of_their_parts(hours in 0_u64..100, minutes in 0_u64..100, millis in 0_u64..5000) {
        let text = format!("{hours}h{minutes}m{millis}ms");
        let wanted = Duration::from_millis(hours * 3_600_000 + minutes * 60_000 + millis);
        prop_assert_eq!(parse(&text), Some(wanted));
    }
}
