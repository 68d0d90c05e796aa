//! The process's limits, and the page about them.

use std::path::Path;

use super::*;
use crate::app::settings::limits::{ROWS, Row};
use crate::bounds::Bounds;
use crate::outcome::Origin;
use crate::testing::telemetry;

/// One row of the page.
#[derive(Debug)]
struct Documented {
    variable: String,
    default: String,
    least: String,
    most: String,
    metrics: Vec<String>,
}

fn documented() -> Vec<Documented> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/process-limits.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `WEFT_"));
    let of_row = |row: &str| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, variable, default, least, most, _, metrics, _] = cells[..] else {
            panic!("{row}");
        };
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        let metrics = metrics.split(", ").filter(|metric| *metric != "none");
        Documented {
            variable: plain(variable),
            default: plain(default),
            least: plain(least),
            most: plain(most),
            metrics: metrics.map(plain).collect(),
        }
    };
    rows.map(of_row).collect()
}

#[test]
fn the_page_has_every_limit_with_its_bounds() {
    let rows: Vec<_> = documented();
    let shown = rows
        .iter()
        .map(|row| (&*row.variable, &*row.least, &*row.most));
    let mut shown: Vec<_> = shown.collect();
    let mut known: Vec<_> = ROWS.iter().map(Row::bounds).collect();
    shown.sort_unstable();
    known.sort_unstable();
    assert_eq!(shown, known);
}

#[test]
fn the_pages_defaults_are_the_defaults() {
    let without = read(&[]).unwrap();
    assert_eq!(without.limits, ProcessLimits::DEFAULT);
    for row in documented() {
        let said = read(&[(&row.variable, &row.default)]).unwrap();
        assert_eq!(said, without, "{row:?}");
        // And they are read at all: the least is another setting.
        if row.least != row.default {
            let least = if row.variable == env::HTTP2_CONNECTION_WINDOW {
                "32Mi"
            } else {
                &row.least
            };
            let changed = read(&[(&row.variable, least)]).unwrap();
            assert_ne!(changed, without, "{row:?}");
        }
    }
}

#[test]
fn the_pages_metrics_are_there_before_they_are_hit() {
    let telemetry = telemetry();
    for direction in [Origin::Inbound, Origin::Outbound] {
        Bounds::new(ProcessLimits::DEFAULT, direction, 1, &telemetry);
    }
    let rendered = telemetry.render();
    // Counted where connections are accepted and where frames are.
    let elsewhere = ["connections", "http2_floods"];
    for metric in documented().into_iter().flat_map(|row| row.metrics) {
        let sample = format!("weft_limit_hits_total{{limit=\"{metric}\"}} 0\n");
        assert!(
            elsewhere.contains(&&*metric) || rendered.contains(&sample),
            "{metric} in {rendered}"
        );
    }
    let counted = rendered.matches("weft_limit_hits_total{").count();
    let names: std::collections::BTreeSet<_> = documented()
        .into_iter()
        .flat_map(|row| row.metrics)
        .collect();
    assert_eq!(counted, names.len() - elsewhere.len(), "none is left out");
}

#[test]
fn limits_have_bounds() {
    for row in ROWS {
        let (variable, least, most) = row.bounds();
        for good in [least, most] {
            let mut said = vec![(variable, good)];
            if variable == env::HTTP2_CONNECTION_WINDOW {
                said.push((env::HTTP2_STREAM_WINDOW, "64Ki"));
            }
            assert!(read(&said).is_ok(), "{variable}={good}");
        }
        for bad in [
            "-1",
            "1.5",
            "many",
            "99999999999999999999",
            "100000000Gi",
            "1000h",
            "10X",
            "Ki",
        ] {
            let errors = read(&[(variable, bad)]).unwrap_err().to_string();
            assert!(
                errors.contains(&format!("from {least} to {most}")),
                "{errors}"
            );
            assert!(errors.contains("leave it out for the default"), "{errors}");
        }
    }
    for (variable, bad) in [
        (env::MAX_CONNECTIONS, "0"),
        (env::MAX_CONNECTIONS, "1Ki"),
        (env::MAX_HEADER_BYTES, "8191"),
        (env::HEADER_TIMEOUT, "99ms"),
        (env::HEADER_TIMEOUT, "10"),
        (env::IDLE_TIMEOUT, "25h"),
    ] {
        assert_eq!(wrong(&[(variable, bad)]), [variable], "{variable}={bad}");
    }
}

#[test]
fn a_connections_window_holds_a_streams() {
    let windows = [
        (env::HTTP2_STREAM_WINDOW, "2Mi"),
        (env::HTTP2_CONNECTION_WINDOW, "1Mi"),
    ];
    assert_eq!(wrong(&windows), [env::HTTP2_CONNECTION_WINDOW]);
    let errors = read(&windows).unwrap_err().to_string();
    assert!(
        errors.contains("WEFT_HTTP2_CONNECTION_WINDOW=\"1Mi\""),
        "{errors}"
    );
}

#[test]
fn sizes_and_times() {
    let settings = read(&[
        (env::MAX_HEADER_BYTES, "16384"),
        (env::BODY_BUFFER, "1Gi"),
        (env::IDLE_TIMEOUT, "90m"),
    ])
    .unwrap();
    assert_eq!(settings.limits.header_bytes, 16 << 10);
    assert_eq!(settings.limits.body_buffer, 1 << 30);
    assert_eq!(settings.limits.idle_timeout, Duration::from_secs(90 * 60));
}
