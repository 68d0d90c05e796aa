//! `accessLog`: a line for each request that a policy asks for, at both sidecars, and no more; a log that
//! nobody reads stops no request.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use rustix::fs::{CWD, FileType, Mode};
use serde_json::{Map, Value};
use weft_sandbox::Mesh;
use weft_sandbox::load::{Load, Shot};

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_accounted, assert_all_served_once, client_and, metrics, percent, policy,
    request, send, stats, wait_for,
};

const SIDES: [(&str, &str); 2] = [("client", "outbound"), ("api-1", "inbound")];
/// How soon a line is written, and a policy in force.
const SOON: Duration = Duration::from_secs(20);
/// What a line says of itself.
const OWN: [&str; 5] = ["timestamp", "level", "service", "message", "target"];

pub(crate) fn register(suite: &mut Suite) {
    suite.add(
        "access_log::lines_are_the_requests_that_were_asked_for",
        lines,
    );
    suite.add("access_log::a_log_that_nobody_reads_stops_nobody", unread);
}

type Line = Map<String, Value>;

/// The whole of a service's policy: what is not under /ok is forbidden, and /teapot never gets there.
fn logging(stanza: &str) -> String {
    let stanzas = format!(
        "accessLog: {{{stanza}}}, authorization: {{mode: Enforce, allow: [\
           {{principals: [{{serviceAccount: {{name: client}}}}], paths: [/ok]}}]}}, \
         rules: [{{name: teapot, matches: [{{path: {{value: /teapot}}}}], \
           faultInjection: {{abort: {{httpStatus: 418}}}}}}]"
    );
    policy("log", "api", &stanzas)
}

/// Lines about requests in a text.
fn parse(log: &str) -> anyhow::Result<Vec<Line>> {
    let lines = log.lines().filter(|line| line.contains("\"access\""));
    let lines = lines.map(|line| {
        serde_json::from_str::<Line>(line).with_context(|| format!("a line of the log: {line}"))
    });
    let lines: Vec<_> = lines.collect::<anyhow::Result<_>>()?;
    Ok(lines
        .into_iter()
        .filter(|line| line["target"] == "access")
        .collect())
}

fn access(mesh: &Mesh, workload: &str) -> anyhow::Result<Vec<Line>> {
    let log = mesh.sidecar_log(workload);
    // The last line may not be whole yet.
    let whole = log.rfind('\n').map_or("", |end| &log[..=end]);
    parse(whole)
}

/// What a line says about its request.
fn said(line: &Line) -> BTreeSet<&str> {
    let names = line.keys().map(String::as_str);
    names.filter(|name| !OWN.contains(name)).collect()
}

/// How soon a line is there.
const A_LINE: Duration = Duration::from_secs(2);

/// Puts a policy in force at both sides: one whose lines about a refused request say exactly `fields`.
async fn in_force(mesh: &Mesh, stanza: &str, fields: &[&str]) -> anyhow::Result<()> {
    mesh.apply_policy("log", &logging(stanza))?;
    let wanted: BTreeSet<_> = fields.iter().copied().collect();
    wait_for("the policy at both sides", SOON, async || {
        let before = [access(mesh, "client")?.len(), access(mesh, "api-1")?.len()];
        let probe = request(Method::GET, "/forbidden", "probe", "");
        let answer = send(&mesh.pod("client"), mesh.addr("api", PORT), probe).await?;
        if answer.status != 403 {
            return Ok(None);
        }
        for ((side, _), before) in SIDES.into_iter().zip(before) {
            let lines = wait_for("the probe's line", A_LINE, async || {
                let lines = access(mesh, side)?;
                Ok((lines.len() > before).then_some(lines))
            });
            // One that this side has seen before its policy has none.
            let Ok(lines) = lines.await else {
                return Ok(None);
            };
            if said(&lines[lines.len() - 1]) != wanted {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Lines by outcome.
fn by_outcome(lines: &[Line]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in lines {
        let outcome = line["outcome"].as_str().unwrap_or_default();
        *counts.entry(outcome.to_owned()).or_default() += 1;
    }
    counts
}

/// What a sidecar counted of one outcome.
async fn counted(mesh: &Mesh, at: (&str, &str), outcome: &str) -> anyhow::Result<f64> {
    let (side, direction) = at;
    let metrics = metrics(mesh, side).await?;
    let labels = [("direction", direction), ("outcome", outcome)];
    Ok(metrics.sum("weft_requests_total", &labels))
}

/// Sends requests of three kinds and holds their lines at both sides against what was sent, what the
/// server saw and what the sidecars counted. Without `successes` only failures have lines.
async fn account(cx: &Cx, mesh: &Mesh, successes: bool) -> anyhow::Result<()> {
    const OUTCOMES: [&str; 3] = ["ok", "unauthorized", "fault_injected"];
    let mut before = Vec::new();
    for at in SIDES {
        for outcome in OUTCOMES {
            before.push(counted(mesh, at, outcome).await?);
        }
    }
    let old = [access(mesh, "client")?.len(), access(mesh, "api-1")?.len()];
    mesh.app("api-1").reset_stats().await?;
    let report = Load::new(mesh.addr("api", PORT))
        .clients(4)
        .requests(cx.pick(1_500, 100_000))
        .shot(Shot::get("/ok/1?secret=1"))
        .shot(Shot::get("/forbidden"))
        .shot(Shot::get("/teapot"))
        .run(&mesh.pod("client"))
        .await;
    assert_accounted(&report);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let seen = stats(mesh, ["api-1"]).await?.requests;
    let of = |outcome: &str| report.outcomes.get(outcome).copied().unwrap_or(0);
    assert_eq!(
        report.sent,
        seen + of("unauthorized") + of("fault_injected")
    );
    assert!(seen > 0 && of("unauthorized") > 0 && of("fault_injected") > 0);

    let mut before = before.into_iter();
    for (at, old) in SIDES.into_iter().zip(old) {
        let mut wanted = BTreeMap::new();
        for outcome in OUTCOMES {
            let expected = match (outcome, at.0) {
                ("ok", _) => seen,
                ("fault_injected", "api-1") => 0,
                (failure, _) => of(failure),
            };
            let earlier = before.next().context("one for each")?;
            let now = counted(mesh, at, outcome).await? - earlier;
            assert_eq!(now, expected as f64, "{outcome} as {} counts", at.0);
            if expected > 0 && (successes || outcome != "ok") {
                wanted.insert(outcome.to_owned(), expected);
            }
        }
        let sum: u64 = wanted.values().sum();
        let lines = wait_for("all lines", SOON, async || {
            let lines = access(mesh, at.0)?.split_off(old);
            Ok((lines.len() as u64 >= sum).then_some(lines))
        });
        let lines = lines.await?;
        assert_eq!(by_outcome(&lines), wanted, "lines of {}", at.0);
        let ids: BTreeSet<_> = lines
            .iter()
            .map(|line| line["requestId"].as_str())
            .collect();
        assert_eq!(ids.len(), lines.len(), "a line for each request");
        for line in &lines {
            let path = line["path"].as_str().unwrap_or_default();
            assert!(
                ["/ok/1", "/forbidden", "/teapot"].contains(&path),
                "{line:?}"
            );
            assert_eq!(line["direction"], at.1);
        }
    }
    Ok(())
}

/// All, failures only, a share, none; each policy takes force while the sidecars run.
async fn lines(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and("access-log", ["api-1"]);
    cx.on(builder, async |mesh| {
        let fields = ["requestId", "direction", "path", "outcome", "status"];
        let chosen = format!("fields: [{}]", fields.join(", "));
        in_force(mesh, &format!("mode: All, {chosen}"), &fields).await?;
        account(&cx, mesh, true).await?;

        let fewer = &fields[..4];
        let stanza = format!("mode: Failures, fields: [{}]", fewer.join(", "));
        in_force(mesh, &stanza, fewer).await?;
        account(&cx, mesh, false).await?;

        // A tenth: both sides choose the same requests.
        in_force(mesh, &format!("mode: All, percent: 10, {chosen}"), &fields).await?;
        let old = [access(mesh, "client")?.len(), access(mesh, "api-1")?.len()];
        let before = stats(mesh, ["api-1"]).await?.requests;
        let load = Load::new(mesh.addr("api", PORT))
            .clients(4)
            .requests(cx.pick(4_000, 40_000))
            .shot(Shot::get("/ok"));
        let report = load.run(&mesh.pod("client")).await;
        assert_eq!(report.status(200), report.sent, "{:?}", report.statuses);
        assert_eq!(stats(mesh, ["api-1"]).await?.requests - before, report.sent);
        // What is refused always has a line: with it, what came before is written too.
        let last = request(Method::GET, "/forbidden", "last", "");
        let answer = send(&mesh.pod("client"), mesh.addr("api", PORT), last).await?;
        assert_eq!(answer.status, 403);
        let mut ids = Vec::new();
        for ((side, _), old) in SIDES.into_iter().zip(old) {
            let lines = wait_for("the last line", SOON, async || {
                let lines = access(mesh, side)?.split_off(old);
                let is_there = lines.iter().any(|line| line["outcome"] == "unauthorized");
                Ok(is_there.then_some(lines))
            });
            let lines = lines.await?;
            let share = percent(lines.len() as u64 - 1, report.sent);
            // 10 and six times the deviation of a fair draw of 4,000.
            assert!((7.1..12.9).contains(&share), "{share} % at {side}");
            cx.measured(format!("{share:.1} % of 10 % at {side}"));
            let of = |line: &Line| line["requestId"].as_str().map(str::to_owned);
            ids.push(lines.iter().map(of).collect::<BTreeSet<_>>());
        }
        assert_eq!(ids[0], ids[1], "requests with lines at both sides");

        // Without a policy there is no line.
        mesh.remove_policy("log")?;
        wait_for("silence", SOON, async || {
            let old = [access(mesh, "client")?.len(), access(mesh, "api-1")?.len()];
            let probe = request(Method::GET, "/teapot", "silent", "");
            let answer = send(&mesh.pod("client"), mesh.addr("api", PORT), probe).await?;
            let now = [access(mesh, "client")?.len(), access(mesh, "api-1")?.len()];
            Ok((answer.status == 200 && old == now).then_some(()))
        })
        .await
    })
    .await
}

/// The log of the client's sidecar is a pipe that nobody reads: all requests are answered, and when it is
/// read at last, lines and the lines that are said to be lost are the requests.
async fn unread(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and("unread", ["api-1"]).policy(&policy(
        "log",
        "api",
        "accessLog: {mode: All, fields: [path, authority, userAgent, requestId, method]}",
    ));
    cx.on(builder, async |mesh| {
        let log = mesh.sidecar("client")?.log_file().to_owned();
        mesh.stop_sidecar("client").await?;
        std::fs::remove_file(&log)?;
        rustix::fs::mknodat(CWD, &log, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        // Both ways, so that neither this nor the sidecar waits for the other.
        let pipe = Arc::new(File::options().read(true).write(true).open(&log)?);
        mesh.start_sidecar("client").await?;
        std::fs::remove_file(&log)?;

        // Enough to fill the pipe and what the sidecar keeps, several times.
        let path = format!("/{}", "a".repeat(900));
        let load = Load::new(mesh.addr("api", PORT))
            .clients(4)
            .requests(cx.pick(6_000, 30_000))
            .shot(Shot::get(&path));
        let report = load.run(&mesh.pod("client")).await;
        assert_all_served_once(&report, &stats(mesh, ["api-1"]).await?);
        let labels = [("limit", "access_log")];
        let lost = metrics(mesh, "client")
            .await?
            .sum("weft_limit_hits_total", &labels);
        assert!(lost > 0.0, "nothing was lost: the pipe was too large");

        // Whoever reads now gets the rest.
        rustix::io::ioctl_fionbio(pipe.as_fd(), true)?;
        let mut text = Vec::new();
        wait_for("the lost lines", SOON, async || {
            // Until there is nothing more for the moment.
            let _ = (&*pipe).read_to_end(&mut text);
            let text = String::from_utf8_lossy(&text);
            let told: u64 = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter(|line| line["target"] == "log")
                .filter_map(|line| line["lines"].as_u64())
                .sum();
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            let lines = parse(whole)?;
            let lines = lines.iter().filter(|line| line["path"] == *path).count() as u64;
            Ok((told as f64 >= lost && lines + told >= report.sent).then_some((told, lines)))
        })
        .await
        .map(|(told, lines)| {
            assert_eq!(told as f64, lost);
            assert_eq!(lines + told, report.sent);
            cx.measured(format!(
                "{lines} of {} lines kept, {told} told lost",
                report.sent
            ));
        })
    })
    .await
}
