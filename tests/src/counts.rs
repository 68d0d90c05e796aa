//! How every suite counts: at the server, and so that nothing that was sent is left out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use weft_sandbox::app::Stats;
use weft_sandbox::load::Report;

/// How often something is looked at that is waited for.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `look` gives a value.
pub async fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let until = Instant::now() + patience;
    loop {
        if let Some(value) = look().await? {
            return Ok(value);
        }
        anyhow::ensure!(Instant::now() < until, "{what}: not within {patience:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// Adds one application's stats to another's.
pub fn add(all: &mut Stats, one: &Stats) {
    all.connections += one.connections;
    all.requests += one.requests;
    all.read += one.read;
    all.open_connections += one.open_connections;
    all.in_flight += one.in_flight;
    all.cancelled += one.cancelled;
    // Of maxima the greatest: nobody knows whether they were reached at the same time.
    all.most_connections = all.most_connections.max(one.most_connections);
    all.most_in_flight = all.most_in_flight.max(one.most_in_flight);
    all.not_listed += one.not_listed;
    add_table(&mut all.routes, &one.routes);
    add_table(&mut all.statuses, &one.statuses);
    add_table(&mut all.ids, &one.ids);
    add_table(&mut all.bodies, &one.bodies);
    add_table(&mut all.copies, &one.copies);
    add_table(&mut all.kafka, &one.kafka);
    all.echoed += one.echoed;
    all.closed_at_rest += one.closed_at_rest;
    all.closed_over_requests += one.closed_over_requests;
    add_table(&mut all.used_again, &one.used_again);
}

fn add_table<K: Ord + Clone>(all: &mut BTreeMap<K, u64>, one: &BTreeMap<K, u64>) {
    for (key, count) in one {
        *all.entry(key.clone()).or_default() += count;
    }
}

/// The identity of every load, where nothing failed and nothing was to be tried twice: sent =
/// answered with 200 = seen by the servers, each id once.
pub fn assert_all_served_once(report: &Report, seen: &Stats) {
    assert_no_failure(report);
    assert_eq!(seen.not_listed, 0, "the servers' tables are too small");
    assert_eq!(seen.repeated_ids(), 0, "requests that servers saw twice");
    assert_eq!(seen.ids.len() as u64, report.sent, "ids that servers saw");
    assert_eq!(seen.requests, report.sent, "requests that servers saw");
}

/// Sent = answered, all with 200 and none by the mesh itself.
pub fn assert_no_failure(report: &Report) {
    assert_accounted(report);
    assert_eq!(
        report.not_ok(),
        0,
        "statuses {:?}, outcomes {:?}, failures {:?}",
        report.statuses,
        report.outcomes,
        report.failures
    );
    assert_eq!(report.outcomes.values().sum::<u64>(), 0);
}

/// Sent = answered + declared failures.
pub fn assert_accounted(report: &Report) {
    assert_eq!(report.sent, report.answered + report.failed);
    let declared: u64 = report.failures.values().sum();
    assert_eq!(report.failed, declared);
}

/// What an application that has ended had seen: the last line of its output.
pub fn last_stats(app: &weft_sandbox::process::Process) -> anyhow::Result<Stats> {
    let log = std::fs::read_to_string(app.log_file())?;
    let line = log.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("an application's last words: {line}"))
}
