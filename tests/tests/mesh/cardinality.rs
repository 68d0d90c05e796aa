//! What clients make up does not become memory.

use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue, Method};
use weft_sandbox::Mesh;
use weft_sandbox::load::{Load, Shot};

use crate::Suite;
use crate::common::{Cx, PORT, client_and, stats};
use crate::crowds::memory;

/// Different values of everything that a client chooses.
const HOSTILE: usize = 10_000;
/// What a sidecar may grow by once it has seen them all, in bytes.
const GROWTH: f64 = (1 << 20) as f64;
const SIDECARS: [&str; 2] = ["client", "api-1"];

pub(crate) fn register(suite: &mut Suite) {
    suite.add("cardinality::hostile_values_are_no_memory", hostile);
}

/// Methods, paths, and headers that sidecars look at or pass on, each in 10,000 forms: the series are
/// the same after many times all of them as after the first time, and the memory is as well.
async fn hostile(cx: Cx) -> anyhow::Result<()> {
    let requests: u64 = cx.pick(20_000, 1_000_000);
    cx.on(client_and("cardinality", ["api-1"]), async |mesh| {
        let addr = mesh.addr("api", PORT);
        let load = (0..HOSTILE).map(shot).fold(Load::new(addr), Load::shot);
        let pod = mesh.pod("client");
        let load = load.clients(4);
        let first = load.clone().requests(HOSTILE as u64).run(&pod).await;
        let known = names(mesh).await?;
        let before = memory(mesh, SIDECARS).await?;
        let report = load.requests(requests).run(&pod).await;
        let after = memory(mesh, SIDECARS).await?;
        let now = names(mesh).await?;

        let sent = first.sent + report.sent;
        let answered = first.status(200) + report.status(200);
        let seen = stats(mesh, ["api-1"]).await?.requests;
        assert_eq!((answered, seen), (sent, sent), "{:?}", report.failures);
        let growth = [0, 1].map(|i| after[i] - before[i]);
        cx.measured(format!(
            "{requests} requests with {HOSTILE} values each of method, path and {} headers: {} KiB more \
             at the client's sidecar, {} KiB at the server's; {} and {} series",
            HEADERS.len(),
            growth[0] / 1024.0,
            growth[1] / 1024.0,
            now[0].len(),
            now[1].len(),
        ));
        let new: Vec<_> = (0..2).flat_map(|i| now[i].difference(&known[i])).collect();
        assert!(new.is_empty(), "{new:#?}");
        assert!(growth.iter().all(|bytes| *bytes < GROWTH), "{growth:?}");
        Ok(())
    })
    .await
}

const HEADERS: [&str; 12] = [
    "user-agent",
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "cookie",
    "referer",
    "x-forwarded-for",
    "x-tenant",
    "accept-language",
    "x-weft-outcome",
    "x-weft-attempt",
];

fn shot(number: usize) -> Shot {
    let method = Method::from_bytes(format!("M{number}").as_bytes()).expect("a token");
    let shot = Shot::new(method, &format!("/{number}/a\\b?{number}=%0a"));
    HEADERS.into_iter().fold(shot, |shot, name| {
        let value = match name {
            // Half of them believable.
            "traceparent" => format!("00-{:032x}-{:016x}-01", number / 2 + 1, number + 1),
            "x-forwarded-for" => format!("10.{}.{}.1", number / 250, number % 250),
            _ => format!("{number}\"}} 1 \\n {}", "x".repeat(number % 100)),
        };
        let value = HeaderValue::try_from(value).expect("visible");
        shot.header(HeaderName::from_static(name), value)
    })
}

/// The names and labels of every series of both sidecars.
async fn names(mesh: &Mesh) -> anyhow::Result<[BTreeSet<String>; 2]> {
    let mut all = [BTreeSet::new(), BTreeSet::new()];
    for (names, workload) in all.iter_mut().zip(SIDECARS) {
        let page = mesh.metrics(workload).await?;
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        names.extend(lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())));
    }
    Ok(all)
}
