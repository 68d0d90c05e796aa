//! Weighted splits, and policy edits on disk that reach live traffic.

use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, Method};
use weft_sandbox::load::{Load, Report, Running, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{Mesh, Workload};

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_all_served_once, assert_no_failure, http_app, mesh, percent, policy, request,
    send, service, stats,
};

/// The header that keys are in.
const KEY: HeaderName = HeaderName::from_static("x-user");

pub(crate) fn register(suite: &mut Suite) {
    suite.add("split::ninety_ten_by_key", by_key);
    suite.add("split::ninety_ten_by_chance", by_chance);
    suite.add("split::keys_stay_as_the_canary_grows", keys_stay);
    suite.add("split::an_edit_on_disk_changes_live_traffic", edit_on_disk);
    suite.add("split::a_side_without_endpoints", when_empty);
    suite.add("split::forced_by_all_of_an_entry", forced);
}

/// "Split 90/10 over 10,000 seeded requests within ±1.5 points and no run of more than 150 on one
/// side": the requests' numbers are their keys, so that every run of this test draws the same.
async fn by_key(cx: Cx) -> anyhow::Result<()> {
    cx.on(canary("by-key", &split(90, 10, STICKY)), async |mesh| {
        let report = ten_thousand(mesh).await?;
        check_ninety_ten(&cx, &report);
        let seen = stats(mesh, ["v1-1", "v2-1"]).await?;
        assert_all_served_once(&report, &seen);
        Ok(())
    })
    .await
}

/// The same share without keys. (Five standard deviations; the length of runs is left to chance.)
async fn by_chance(cx: Cx) -> anyhow::Result<()> {
    cx.on(canary("by-chance", &split(90, 10, "")), async |mesh| {
        let report = ten_thousand(mesh).await?;
        let share = report.share_percent("v2-1");
        cx.measured(format!("{share:.2} % on the side of 10 %"));
        assert!((share - 10.0).abs() <= 1.5, "{share:.2} % instead of 10 %");
        let seen = stats(mesh, ["v1-1", "v2-1"]).await?;
        assert_all_served_once(&report, &seen);
        Ok(())
    })
    .await
}

/// "A user stays on the side that the hash of their key chose, and does not flip back as the weight
/// grows": who is on the canary at 10 % is there at 30 % too, and a second visit changes nothing.
async fn keys_stay(cx: Cx) -> anyhow::Result<()> {
    cx.on(canary("keys", &split(90, 10, STICKY)), async |mesh| {
        let load = || {
            Load::new(mesh.addr("shop", PORT))
                .clients(4)
                .requests(2_000)
                .number_in(KEY)
        };
        let first = load().id_prefix("a").run(&mesh.pod("client")).await;
        let again = load().id_prefix("b").run(&mesh.pod("client")).await;
        assert_no_failure(&first);
        assert_no_failure(&again);
        assert_eq!(canary_keys(&first), canary_keys(&again));

        mesh.apply_policy("shop", &split(70, 30, STICKY))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let grown = load().id_prefix("c").run(&mesh.pod("client")).await;
        assert_no_failure(&grown);
        let (before, after) = (canary_keys(&first), canary_keys(&grown));
        let flipped = before.iter().filter(|key| !after.contains(key)).count();
        assert_eq!(flipped, 0, "keys that went back from the canary");
        let share = percent(after.len() as u64, grown.sent);
        cx.measured(format!(
            "{} keys, then {} of 2000",
            before.len(),
            after.len()
        ));
        assert!((share - 30.0).abs() <= 4.0, "{share:.1} % instead of 30 %");
        Ok(())
    })
    .await
}

/// "A policy edit on disk changes live traffic in under one second without a failed request": ten
/// edits, each moving everything to the other version, under a steady load; each time the first
/// answer of the new version and the last one of the old come within a second.
async fn edit_on_disk(cx: Cx) -> anyhow::Result<()> {
    cx.on(canary("edit", &split(100, 0, "")), async |mesh| {
        let load = Load::new(mesh.addr("shop", PORT))
            .clients(8)
            .rate(400.0)
            .shot(Shot::get("/"))
            .shot(Shot::post("/orders", 100))
            .start(&mesh.pod("client"));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut slowest = Duration::ZERO;
        for round in 0..10 {
            let to_v2 = round % 2 == 0;
            let (text, old) = if to_v2 {
                (split(0, 100, ""), "v1-1")
            } else {
                (split(100, 0, ""), "v2-1")
            };
            mesh.apply_policy("shop", &text)?;
            let took = last_answer_of(&load, old, Duration::from_millis(1500)).await;
            slowest = slowest.max(took);
            assert!(
                took < Duration::from_secs(1),
                "{old} still answered {took:?} after edit {round}"
            );
        }
        // And a change of degree: what comes after the first second has the new shares.
        mesh.apply_policy("shop", &split(50, 50, ""))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = load.snapshot();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let report = load.stop().await;
        let later = |app: &str| count(&report, app) - count(&before, app);
        let share = percent(later("v2-1"), later("v1-1") + later("v2-1"));
        cx.measured(format!(
            "slowest of ten edits {slowest:.0?}, {} requests, {} failed; {share:.1} % after 50/50",
            report.sent,
            report.not_ok()
        ));
        assert!((share - 50.0).abs() <= 8.0, "{share:.1} % instead of 50 %");
        let seen = stats(mesh, ["v1-1", "v2-1"]).await?;
        assert_all_served_once(&report, &seen);
        Ok(())
    })
    .await
}

/// `whenEmpty`: requests of a side without endpoints fail, and tell so, or go to the next one.
async fn when_empty(cx: Cx) -> anyhow::Result<()> {
    let text = |more: &str| split(50, 50, more);
    let builder = canary("empty", &text(", whenEmpty: NextBackend"));
    cx.on(builder, async |mesh| {
        mesh.set_endpoints::<&str>("shop-v2", [])?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let load = |prefix: &str| {
            Load::new(mesh.addr("shop", PORT))
                .requests(200)
                .id_prefix(prefix)
        };
        let next = load("next").run(&mesh.pod("client")).await;
        assert_all_served_once(&next, &stats(mesh, ["v1-1"]).await?);

        mesh.apply_policy("shop", &text(", whenEmpty: Fail"))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        mesh.app("v1-1").reset_stats().await?;
        let fail = load("fail").run(&mesh.pod("client")).await;
        assert_eq!(fail.outcomes.get("no_endpoints"), Some(&fail.status(503)));
        assert_eq!(fail.status(200) + fail.status(503), 200);
        let share = percent(fail.status(503), 200);
        assert!((share - 50.0).abs() <= 18.0, "{share:.1} % instead of 50 %");
        let seen = stats(mesh, ["v1-1", "v2-1"]).await?;
        assert_eq!(seen.requests, fail.status(200), "seen by servers");
        Ok(())
    })
    .await
}

/// Requests that are forced to a side which gets nothing by weight: by all headers and cookies of one
/// entry, and by any entry.
async fn forced(cx: Cx) -> anyhow::Result<()> {
    const SPLIT: &str = "split: {backends: [{name: shop-v1}, {name: shop-v2, weight: 0, matches: [\
        {headers: [{name: x-team, value: red}, {name: x-beta, type: Present}], \
         cookies: [{name: side, value: canary}, {name: seen}]}, \
        {cookies: [{name: tester}]}, \
        {headers: [{name: x-canary, type: Prefix, value: al}]}]}]}";
    // Headers of a request, and whether it is forced.
    let cases: &[(&[(&str, &str)], bool)] = &[
        (&[], false),
        (&[("x-canary", "always")], true),
        (&[("x-canary", "never")], false),
        (&[("cookie", "tester=")], true),
        (&[("cookie", "a=b; tester=1")], true),
        (&[("cookie", "a=b"), ("cookie", "tester=1")], true),
        (&[("cookie", "atester=1; a=tester")], false),
        (&[("x-team", "red"), ("x-beta", "")], false),
        (&[("cookie", "side=canary; seen=1")], false),
        (
            &[
                ("x-team", "red"),
                ("x-beta", "1"),
                ("cookie", "seen=1; side=canary"),
            ],
            true,
        ),
        (
            &[
                ("x-team", "red"),
                ("x-beta", ""),
                ("cookie", "side=\"canary\""),
                ("cookie", "seen="),
            ],
            true,
        ),
        (
            &[
                ("x-team", "red"),
                ("x-beta", ""),
                ("cookie", "side=other; seen=1"),
            ],
            false,
        ),
        (
            &[
                ("x-team", "blue"),
                ("x-beta", ""),
                ("cookie", "side=canary; seen=1"),
            ],
            false,
        ),
        (
            &[("x-team", "red"), ("cookie", "side=canary; seen=1")],
            false,
        ),
    ];
    let manifest = policy("shop", "shop", SPLIT);
    cx.on(canary("forced", &manifest), async |mesh| {
        let (client, to) = (mesh.pod("client"), mesh.addr("shop", PORT));
        for (number, (headers, _)) in cases.iter().enumerate() {
            let mut call = request(Method::GET, "/", &format!("case-{number}"), "");
            for (name, value) in *headers {
                let name = HeaderName::from_static(name);
                call.headers_mut()
                    .append(name, HeaderValue::from_static(value));
            }
            assert_eq!(send(&client, to, call).await?.status, 200);
        }
        let (stable, forced) = (stats(mesh, ["v1-1"]).await?, stats(mesh, ["v2-1"]).await?);
        for (number, (headers, is_forced)) in cases.iter().enumerate() {
            let id = format!("case-{number}");
            let seen = (stable.ids.contains_key(&id), forced.ids.contains_key(&id));
            assert_eq!(seen, (!is_forced, *is_forced), "{headers:?}");
        }
        assert_eq!(stable.requests + forced.requests, cases.len() as u64);
        Ok(())
    })
    .await
}

const STICKY: &str = ", sticky: {type: Header, name: x-user}";

fn split(v1: u32, v2: u32, sticky: &str) -> String {
    let stanza = format!(
        "split: {{backends: [{{name: shop-v1, weight: {v1}}}, {{name: shop-v2, weight: {v2}}}]{sticky}}}"
    );
    policy("shop", "shop", &stanza)
}

/// A service with two versions behind it.
fn canary(name: &str, manifest: &str) -> Builder {
    mesh(name)
        .workload(Workload::new("client"))
        .workload(http_app("v1-1"))
        .workload(http_app("v2-1").version("v2"))
        .service(service("shop", ["v1-1", "v2-1"]))
        .service(service("shop-v1", ["v1-1"]))
        .service(service("shop-v2", ["v2-1"]))
        .named_policy("shop", manifest)
}

async fn ten_thousand(mesh: &Mesh) -> anyhow::Result<Report> {
    let load = Load::new(mesh.addr("shop", PORT))
        .clients(8)
        .requests(10_000)
        .number_in(KEY);
    Ok(load.run(&mesh.pod("client")).await)
}

fn check_ninety_ten(cx: &Cx, report: &Report) {
    let share = report.share_percent("v2-1");
    // By number, which is the order of sending: with several clients, answers overtake each other.
    let mut report = report.clone();
    report.records.sort_unstable_by_key(|record| record.number);
    let run = report.longest_run(|record| record.served_by.clone());
    cx.measured(format!(
        "{share:.2} % on the side of 10 %, longest run on one side {run}"
    ));
    assert!((share - 10.0).abs() <= 1.5, "{share:.2} % instead of 10 %");
    assert!(run <= 150, "a run of {run} on one side");
}

/// The numbers of the requests that the canary answered, sorted.
fn canary_keys(report: &Report) -> Vec<u64> {
    let mut keys: Vec<_> = report
        .records
        .iter()
        .filter(|record| record.served_by.as_deref() == Some("v2-1"))
        .map(|record| record.number)
        .collect();
    keys.sort_unstable();
    keys
}

/// How long after now an application gave its last answer of the next `span`.
async fn last_answer_of(load: &Running, app: &str, span: Duration) -> Duration {
    let begin = Instant::now();
    let mut last = Duration::ZERO;
    let mut answers = load.look(|report| count(report, app));
    while begin.elapsed() < span {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = load.look(|report| count(report, app));
        if now > answers {
            answers = now;
            last = begin.elapsed();
        }
    }
    last
}

fn count(report: &Report, app: &str) -> u64 {
    report.served_by.get(app).copied().unwrap_or(0)
}
