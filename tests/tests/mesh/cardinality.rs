//! What clients make up does not become memory, and what is shown costs traffic nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use weft_sandbox::Mesh;
use weft_sandbox::load::{Load, Shot};
use weft_tests::threads;

use crate::Suite;
use crate::common::{Cx, PORT, client_and, service, stats};
use crate::crowds::memory;

/// Different values of everything that a client chooses.
const HOSTILE: usize = 10_000;
/// What a sidecar may grow by once it has seen them all, in bytes.
const GROWTH: f64 = (1 << 20) as f64;
/// Series of a sidecar that is scraped, at least; and what a scrape may cost, with optimisation and
/// without.
const SERIES: usize = 5_000;
const SCRAPE: Duration = Duration::from_millis(if cfg!(debug_assertions) { 20 } else { 5 });
/// Where everything runs that is not traffic.
const CONTROL_THREAD: &str = "weft-control";
const SIDECARS: [&str; 2] = ["client", "api-1"];

pub(crate) fn register(suite: &mut Suite) {
    suite.add("cardinality::hostile_values_are_no_memory", hostile);
    suite.add("cardinality::a_scrape_is_cheap_and_no_data_threads", scrape);
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

/// A sidecar that calls many services shows thousands of series: a scrape of them takes little time, of
/// the control thread alone.
async fn scrape(cx: Cx) -> anyhow::Result<()> {
    const SERVICES: usize = 100;
    const STATUSES: u64 = 13;
    const SCRAPES: u32 = 100;
    let mut builder = client_and("scrape", ["api-1"]);
    for number in 0..SERVICES {
        builder = builder.service(service(&format!("s{number}"), ["api-1"]));
    }
    cx.on(builder, async |mesh| {
        for number in 0..SERVICES {
            let to = mesh.addr(&format!("s{number}"), PORT);
            let load = (200..200 + STATUSES)
                .map(|status| Shot::get(&format!("/?status={status}")))
                .fold(Load::new(to), Load::shot);
            let report = load.requests(STATUSES).run(&mesh.pod("client")).await;
            assert_eq!(report.answered, STATUSES, "{:?}", report.failures);
        }
        let series = names(mesh).await?[0].len();
        assert!(series >= SERIES, "{series} series");

        let place = threads::place_of(mesh.sidecar("client")?.id())?;
        let before = threads::times(&place)?;
        for _ in 0..SCRAPES {
            mesh.metrics("client").await?;
        }
        let after = threads::times(&place)?;
        let used = |name: &str| after[name].saturating_sub(before[name]);
        let others: Duration = after
            .keys()
            .filter(|name| *name != CONTROL_THREAD)
            .map(|name| used(name))
            .sum();
        let each = used(CONTROL_THREAD) / SCRAPES;
        cx.measured(format!(
            "{SCRAPES} scrapes of {series} series: {each:.2?} CPU each of the control thread, connection \
             and all; {others:.2?} in all of every other one"
        ));
        assert!(each < SCRAPE, "{each:?}");
        // Timers of its own tick meanwhile.
        assert!(others < SCRAPE, "{others:?} of {after:#?}");
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
