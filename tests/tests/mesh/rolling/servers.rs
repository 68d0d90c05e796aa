//! Servers are replaced, and close connections that rest.

use std::time::Duration;

use weft_sandbox::app::{KeepAlive, Stats};
use weft_sandbox::{Mesh, Workload};
use weft_tests::counts::last_stats;

use super::traffic::{BURST_WORK, Traffic, patient};
use crate::common::{Cx, add, http_app, mesh, service};

/// The servers at the start.
const APPS: [&str; 3] = ["api-1", "api-2", "api-3"];
/// How long a server looks at nothing before it closes, as one whose event loop is busy: requests that
/// come by then are destroyed.
const BLIND: Duration = Duration::from_millis(25);
/// How long a sidecar keeps a connection to its application that announces nothing, and how far below
/// an announced limit it stays; and what may pass between its clock and the server's.
const UNANNOUNCED: Duration = Duration::from_secs(3);
const MARGIN: Duration = Duration::from_secs(1);
const CLOCKS: Duration = Duration::from_millis(500);
/// A whole round of replacements takes about so long.
const ROUND: Duration = Duration::from_secs(12);

/// Every server is replaced, most by a new one beside the old one and the last in its place, while they
/// close connections that rest for `seconds`: some say so in their answers, others do not. Bursts come
/// in distances around that limit, so that the race is met.
pub(super) async fn are_replaced(cx: Cx, seconds: u64) -> anyhow::Result<()> {
    let limit = Duration::from_secs(seconds);
    let mut builder = mesh(&format!("close{seconds}"))
        .workload(Workload::new("client").service_account("client"));
    for app in APPS {
        builder = builder.workload(server(app, limit));
    }
    let mesh = patient(builder.service(service("api", APPS)));
    cx.on(mesh, async |mesh| {
        let pauses = pauses(limit);
        let traffic = Traffic::start(&cx, mesh, &APPS, &pauses, Duration::ZERO).await?;
        let mut serving = APPS.map(str::to_owned);
        let mut ended = Vec::new();
        let mut rounds = 0;
        loop {
            replace_all(mesh, &mut serving, rounds, limit, &mut ended).await?;
            rounds += 1;
            if !traffic.has_time_for(ROUND) {
                break;
            }
        }
        let outcome = traffic.end().await;
        let mut seen = Stats::default();
        for stats in &ended {
            add(&mut seen, stats);
        }
        for app in &serving {
            add(&mut seen, &mesh.app(app).stats().await?);
        }
        outcome.say(&cx);
        cx.measured(format!(
            "{} servers replaced; {} connections closed at rest, {} over a request; used again after \
             (ms: times) {:?}",
            ended.len(),
            seen.closed_at_rest,
            seen.closed_over_requests,
            seen.used_again
        ));
        outcome.assert_nothing_lost(&seen);
        assert_eq!(ended.len(), rounds * APPS.len());
        assert_raced(&seen, limit);
        Ok(())
    })
    .await
}

/// One after the other; `ended` gets what those that are gone had seen.
async fn replace_all(
    mesh: &Mesh,
    serving: &mut [String; 3],
    round: usize,
    limit: Duration,
    ended: &mut Vec<Stats>,
) -> anyhow::Result<()> {
    for number in 0..serving.len() {
        let old = serving[number].clone();
        let app = mesh.app_process(&old)?;
        let in_place = number + 1 == serving.len();
        if in_place {
            mesh.remove_workload(&old).await?;
            ended.push(last_stats(&app)?);
            mesh.add_workload(server(&old, limit)).await?;
        } else {
            let new = format!("{}-{}", APPS[number], round + 2);
            mesh.add_workload(server(&new, limit)).await?;
            serving[number] = new;
            // The new one beside the old one, which then goes.
            let both = serving.iter().chain([&old]).map(String::as_str);
            mesh.set_endpoints("api", both)?;
            mesh.remove_workload(&old).await?;
            ended.push(last_stats(&app)?);
        }
        mesh.set_endpoints("api", serving.iter().map(String::as_str))?;
    }
    Ok(())
}

/// A server that closes connections at rest; the second of three announces it.
fn server(name: &str, limit: Duration) -> Workload {
    let keep_alive = if announces(name) {
        KeepAlive::announced(limit)
    } else {
        KeepAlive::silent(limit)
    };
    http_app(name).keep_alive(keep_alive.blind(BLIND))
}

fn announces(name: &str) -> bool {
    name.starts_with("api-2")
}

/// Between bursts: around the limit, and where a sidecar's own limits are below it, around those.
fn pauses(limit: Duration) -> Vec<Duration> {
    let millis = Duration::from_millis;
    let around = |at: Duration| {
        // A connection rests from the end of one burst's work to the begin of the next.
        let steps = [0, 15, 30].map(move |after| at + BURST_WORK + millis(after));
        let before = [10, 25].map(move |before| at + BURST_WORK.saturating_sub(millis(before)));
        steps.into_iter().chain(before)
    };
    if limit < UNANNOUNCED {
        return around(limit).collect();
    }
    let own = around(UNANNOUNCED).step_by(4);
    own.chain(around(limit.saturating_sub(MARGIN)).step_by(4))
        .collect()
}

/// The race took place where it can: servers closed what rested, over requests too. Where the sidecar's
/// limits are below the server's it has no occasion to: nothing is used again that is older.
fn assert_raced(seen: &Stats, limit: Duration) {
    let oldest = seen.used_again.keys().next_back().copied().unwrap_or(0);
    let oldest = Duration::from_millis(oldest);
    if limit < UNANNOUNCED {
        assert!(seen.closed_at_rest > 0, "no connection was closed at rest");
        assert!(seen.closed_over_requests > 0, "the race was never met");
        assert!(oldest < limit + CLOCKS, "used again after {oldest:?}");
    } else {
        let most = UNANNOUNCED.max(limit.saturating_sub(MARGIN));
        assert!(oldest < most + CLOCKS, "used again after {oldest:?}");
        assert_eq!(seen.closed_over_requests, 0, "a sidecar used what was old");
    }
}
