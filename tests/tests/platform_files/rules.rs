//! Prometheus' part: rules and queries are well formed and ask for series that sidecars have, and each
//! alert has series by which it fires and series by which it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use weft_tests::promql::selectors;

use super::{PLATFORMS, Platform, documents, list, promtool, read, repository, text};

/// Labels that whoever scrapes adds, and that of buckets.
const ADDED: [&str; 4] = ["namespace", "pod", "workload", "le"];
/// Fewer selectors than this in all files are not all of them.
const LEAST_SELECTORS: usize = 50;

fn file(platform: Platform) -> PathBuf {
    platform.folder().join("prometheus/rules.yaml")
}

fn rules(platform: Platform) -> Vec<Value> {
    let document = documents(&file(platform)).remove(0);
    let groups = list(&document["groups"]).iter();
    groups
        .flat_map(|group| list(&group["rules"]).to_vec())
        .collect()
}

fn alerts(platform: Platform) -> Vec<Value> {
    let mut rules = rules(platform);
    rules.retain(|rule| rule["alert"].is_string());
    rules
}

fn queries(platform: Platform) -> Vec<Value> {
    let document = documents(&platform.folder().join("prometheus/queries.yaml")).remove(0);
    list(&document).to_vec()
}

/// Series by which alerts fire and do not, and by which queries have an answer.
fn tests(platform: Platform) -> PathBuf {
    repository().join(format!("tests/platforms/alerts/{}.yaml", platform.name))
}

/// Everything that is looked for in these series.
fn looks(platform: Platform) -> Vec<Value> {
    let document = documents(&tests(platform)).remove(0);
    let tests = list(&document["tests"]).iter();
    tests
        .flat_map(|test| list(&test["promql_expr_test"]).to_vec())
        .collect()
}

#[test]
fn promtool_finds_nothing_wrong() {
    let home = tempfile::tempdir().expect("a directory");
    for platform in PLATFORMS {
        promtool(&["check", "rules"], &[file(platform)]);
        // A query is checked where promtool checks expressions: in a rule.
        let queries = queries(platform);
        assert!(queries.len() >= 3, "{}", platform.name);
        let rules: Vec<_> = queries
            .iter()
            .enumerate()
            .map(|(number, it)| json!({"record": format!("query:{number}"), "expr": it["query"]}))
            .collect();
        let all = json!({"groups": [{"name": "queries", "rules": rules}]});
        let copy = home.path().join(format!("{}.yaml", platform.name));
        fs::write(&copy, all.to_string()).expect("written");
        promtool(&["check", "rules"], &[copy]);
    }
}

#[test]
fn the_names_that_the_guides_ask_for_are_recorded() {
    for platform in PLATFORMS {
        let rules = rules(platform);
        let recorded: BTreeSet<_> = rules
            .iter()
            .filter_map(|it| it["record"].as_str())
            .collect();
        for name in [
            "http_requests_total",
            "http_request_duration_seconds_bucket",
            "http_request_duration_seconds_sum",
            "http_request_duration_seconds_count",
        ] {
            assert!(recorded.contains(name), "{}: no {name}", platform.name);
        }
        // Where a query asks for a name that is none of ours, it is one of these.
        for query in queries(platform) {
            let query = text(&query["query"]);
            let known = query.contains("weft_") || recorded.iter().any(|name| query.contains(name));
            assert!(known, "{}: {query}", platform.name);
        }
    }
    for (name, platform) in [
        ("circuit_breaker_state", PLATFORMS[0]),
        ("circuit_breaker_state", PLATFORMS[3]),
        ("database_connections_active", PLATFORMS[3]),
    ] {
        let rules = rules(platform);
        let is_there = rules.iter().any(|it| it["record"] == name);
        assert!(is_there, "{}: no {name}", platform.name);
    }
}

/// Every metric of a sidecar with its labels, as the page about them has them.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let page = read(&repository().join("docs/metrics.md"));
    let (_, page) = page.split_once("## Sidecar").expect("the part");
    let page = page.split("\n## ").next().expect("its end");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    cells
        .map(|cells| {
            let labels = cells[4].split('`').skip(1).step_by(2);
            (
                cells[1].trim_matches('`').to_owned(),
                labels.map(str::to_owned).collect(),
            )
        })
        .collect()
}

#[test]
fn every_series_asked_for_is_one_that_sidecars_have() {
    let metrics = metrics();
    assert!(metrics.len() >= 30, "only {}", metrics.len());
    let mut checked = 0;
    for platform in PLATFORMS {
        for part in ["rules.yaml", "queries.yaml"] {
            let path = platform.folder().join("prometheus").join(part);
            for selector in selectors(&read(&path)) {
                let name = selector.name.as_str();
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end))
                    .filter(|family| metrics.contains_key(*family))
                    .unwrap_or(name);
                let labels = metrics.get(family);
                let labels = labels.unwrap_or_else(|| panic!("{}: {name}", path.display()));
                for matcher in &selector.matchers {
                    let label = &*matcher.label;
                    let is_known = labels.contains(label) || ADDED.contains(&label);
                    assert!(is_known, "{}: no {label} in {name}", path.display());
                }
                checked += 1;
            }
        }
    }
    assert!(checked >= LEAST_SELECTORS, "only {checked} selectors");
}

#[test]
fn every_alert_fires_and_does_not() {
    for platform in PLATFORMS {
        let looks = looks(platform);
        let alerts = alerts(platform);
        assert!(alerts.len() >= 4, "{}", platform.name);
        for alert in &alerts {
            let name = text(&alert["alert"]);
            assert!(!text(&alert["annotations"]["summary"]).is_empty(), "{name}");
            let wanted = format!("ALERTS{{alertname=\"{name}\",alertstate=\"firing\"}}");
            let of_it: Vec<_> = looks
                .iter()
                .filter(|look| text(&look["expr"]).contains(&wanted))
                .collect();
            let fires = |look: &&Value| !list(&look["exp_samples"]).is_empty();
            let firing = of_it.iter().filter(|look| fires(look)).count();
            let at = format!("{} {name}", platform.name);
            assert!(
                firing > 0 && of_it.len() > firing,
                "{at}: {firing} of {}",
                of_it.len()
            );
        }
        promtool(&["test", "rules"], &[tests(platform)]);
    }
}

#[test]
fn every_query_has_an_answer() {
    for platform in PLATFORMS {
        let looks = looks(platform);
        for query in queries(platform) {
            let query = text(&query["query"]);
            let is_asked = |look: &&Value| text(&look["expr"]).contains(query);
            let answered = looks.iter().find(is_asked);
            let answered = answered.unwrap_or_else(|| panic!("{}: {query}", platform.name));
            assert!(!list(&answered["exp_samples"]).is_empty(), "{query}");
        }
    }
}

/// What the guides say of when to tell somebody: the alert, the threshold in its expression, how long.
#[test]
fn alerts_have_the_guides_thresholds() {
    let wanted = [
        ("rent-to-own", "HighErrorRate", "> 0.05", None),
        ("rent-to-own", "SlowResponses", "> 1", None),
        ("rent-to-own", "HighCpuUsage", "> 0.8", None),
        ("rent-to-own", "HighMemoryUsage", "> 0.85", None),
        ("rent-to-own", "MessageQueueDepth", "> 1000", None),
        ("ecommerce", "HighErrorRate", "> 0.05", Some("5m")),
        ("ecommerce", "HighLatency", "> 1", Some("5m")),
        ("ecommerce", "CallersSeeErrors", "> 0.05", Some("5m")),
        ("ecommerce", "PodCrashLooping", "> 0", None),
        ("dotmac", "PlatformDown", "", Some("1m")),
        ("dotmac", "HighErrorRate", "> 0.1", Some("2m")),
        ("dotmac", "HighLatency", "> 1", Some("5m")),
        ("dotmac", "HighCpuUsage", "> 0.8", None),
        ("dotmac", "HighMemoryUsage", "> 0.9", None),
    ];
    for (platform, name, threshold, lasting) in wanted {
        let platform = PLATFORMS.into_iter().find(|it| it.name == platform);
        let alerts = alerts(platform.expect("the platform"));
        let alert = alerts.iter().find(|it| it["alert"] == name);
        let alert = alert.unwrap_or_else(|| panic!("no {name}"));
        let expression = text(&alert["expr"]).trim_end();
        assert!(expression.ends_with(threshold), "{name}: {expression}");
        assert_eq!(alert["for"].as_str(), lasting, "{name}");
    }
}
