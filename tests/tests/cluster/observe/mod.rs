//! What dashboards and alerts ask for, asked of a real Prometheus that scrapes a mesh under load: the chart's
//! files as they are, with the labels that its monitors give. And each alert by itself, with `promtool`.

mod asked;
mod prometheus;
mod rules;
mod scene;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weft_sandbox::Mesh;
use weft_sandbox::programs::prometheus::Prometheus;
use weft_tests::counts::wait_for;
use weft_tests::promql;

use crate::common::Cx;
use crate::{Needs, Suite};
use asked::{Asker, Query};
use prometheus::{INJECTOR_PORT, TARGET_LABELS};
use scene::{Injector, Traffic, WORKLOADS};
use table::Rows;

/// How long what happens may take until it shows: some scrapes and an evaluation, on a busy machine.
const SHOWN: Duration = Duration::from_secs(40);
/// Fewer queries are not all.
const LEAST_QUERIES: usize = 60;
/// What shows nothing here, and why. Everything else is to have data.
const QUIET: &[(&str, &str)] = &[];
/// Selectors of alerts that find nothing here, and why.
const UNSEEN: &[(&str, &str)] = &[];

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs {
        server: true,
        prometheus: true,
        ..Needs::default()
    };
    suite.add("observe::everything_asked_for_is_there", needs, everything);
    suite.add("observe::rules_are_well_formed", needs, rules::well_formed);
    suite.add(
        "observe::each_alert_fires_and_does_not",
        needs,
        rules::alerts,
    );
}

/// One mesh, in which everything happens: no query fails, none names what no program has, and all that are
/// to have data have it. The table of metrics is what the programs show.
async fn everything(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, scene::builder(), async |mesh| {
        let pod = mesh.stranger("prometheus")?;
        let _injector = Injector::start(&cluster, mesh.dir(), (&pod, INJECTOR_PORT)).await?;
        let traffic = Traffic::start(mesh).await?;
        let injector = pod.get_local(INJECTOR_PORT, "/metrics").await?.text();
        let prometheus = prometheus::start(mesh, &pod).await?;
        let rows = tables(mesh, &injector).await?;
        let begin = Instant::now();
        let queries = all_queries(&prometheus).await?;
        assert_found(&prometheus, &rows).await?;
        let mut wrong = unnamed(&prometheus, &queries, &rows).await?;
        wrong.extend(until_shown(&prometheus, &queries).await?);
        wrong.extend(unfollowed(&prometheus, &queries).await?);
        wrong.extend(failed(&prometheus).await?);
        assert!(
            wrong.is_empty(),
            "{} wrong:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        cx.measured(format!(
            "{} queries within {:.1?}",
            queries.len(),
            begin.elapsed()
        ));
        traffic.stop().await
    })
    .await
}

/// Every metric of every program with its labels, and the page that has them.
async fn tables(mesh: &Mesh, injector: &str) -> anyhow::Result<Rows> {
    for workload in WORKLOADS {
        table::assert_page_of_sidecar(&mesh.metrics(workload).await?);
    }
    let control_plane = table::of_page(&mesh.control_plane_get("/metrics").await?.text());
    let injector = table::of_page(injector);
    let sidecar = table::of_sidecar();
    table::assert_current([
        ("Sidecar", &sidecar),
        ("Control plane", &control_plane),
        ("Injector", &injector),
    ])?;
    let mut all = sidecar;
    for (name, row) in control_plane.into_iter().chain(injector) {
        match all.get_mut(&name) {
            Some(known) => known.labels.extend(row.labels),
            None => drop(all.insert(name, row)),
        }
    }
    Ok(all)
}

/// Once the variables of all dashboards have values.
async fn all_queries(prometheus: &Prometheus) -> anyhow::Result<Vec<Query>> {
    let mut last = None;
    let found = wait_for(
        "values of variables",
        SHOWN,
        async || match asked::queries(prometheus).await {
            Ok(queries) => Ok(Some(queries)),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        },
    )
    .await;
    let queries = match (found, last) {
        (Err(_), Some(why)) => return Err(why),
        (found, _) => found?,
    };
    assert!(queries.len() >= LEAST_QUERIES, "only {}", queries.len());
    Ok(queries)
}

/// What names a metric or a label that no program has and no rule records.
async fn unnamed(
    prometheus: &Prometheus,
    queries: &[Query],
    rows: &Rows,
) -> anyhow::Result<Vec<String>> {
    let mut recorded: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for query in queries.iter().filter(|it| it.asker == Asker::Record) {
        let name = query.place.trim_start_matches("record ").to_owned();
        let labels = wait_for(&name, SHOWN, async || {
            let labels = prometheus.labels(&name).await?;
            Ok((!labels.is_empty()).then_some(labels))
        });
        let labels = labels.await?;
        recorded.insert(name, labels);
    }
    let labels = |metric: &str| -> Option<BTreeSet<String>> {
        if let Some(labels) = recorded.get(metric) {
            return Some(labels.clone());
        }
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| rows.get(metric.strip_suffix(suffix)?));
        let row = rows.get(metric).or(base)?;
        let mut labels = row.labels.clone();
        labels.extend(TARGET_LABELS.map(str::to_owned));
        labels.insert("le".to_owned());
        Some(labels)
    };
    let mut wrong = Vec::new();
    for Query { place, text, .. } in queries {
        let named = promql::named(text);
        if named.selectors.is_empty() {
            wrong.push(format!("{place} names no metric: {text}"));
        }
        let mut all = BTreeSet::new();
        for ((_, metric), matched) in named.selectors.iter().zip(&named.matched) {
            let Some(labels) = labels(metric) else {
                wrong.push(format!("{place}: no program has {metric}"));
                continue;
            };
            for label in matched.iter().filter(|label| !labels.contains(*label)) {
                wrong.push(format!("{place}: {metric} has no label {label}"));
            }
            all.extend(labels);
        }
        for label in named.grouped.iter().filter(|label| !all.contains(*label)) {
            wrong.push(format!("{place}: none of its metrics has a label {label}"));
        }
    }
    Ok(wrong)
}

/// What is misspelled is found.
async fn assert_found(prometheus: &Prometheus, rows: &Rows) -> anyhow::Result<()> {
    let text = "sum by (pier) (rate(weft_requests_total{rout=\"a\"}[5m])) / weft_request_total";
    let query = Query {
        place: "here".to_owned(),
        asker: Asker::Panel,
        text: text.to_owned(),
    };
    let found = unnamed(prometheus, &[query], rows).await?;
    let wanted = [
        "here: weft_requests_total has no label rout",
        "here: no program has weft_request_total",
        "here: none of its metrics has a label pier",
    ];
    assert_eq!(found, wanted);
    Ok(())
}

/// Waits until every query that is to have data has some; what has none at the end, or is wrongly said to
/// have none. A query that Prometheus refuses is an error at once.
async fn until_shown(prometheus: &Prometheus, queries: &[Query]) -> anyhow::Result<Vec<String>> {
    let is_quiet = |query: &Query| QUIET.iter().any(|(place, _)| *place == query.place);
    let until = Instant::now() + SHOWN;
    let mut wrong: Vec<String> = QUIET
        .iter()
        .filter(|(place, _)| !queries.iter().any(|query| query.place == *place))
        .map(|(place, _)| format!("{place} is said to be quiet, and is not there"))
        .collect();
    let mut open: Vec<&Query> = queries.iter().collect();
    loop {
        let mut empty = Vec::new();
        for query in open {
            let found = prometheus.query(&query.text).await;
            let found = found.map_err(|error| error.context(query.place.clone()))?;
            let may_be_empty = query.asker == Asker::Alert || is_quiet(query);
            if found.is_empty() && !may_be_empty {
                empty.push(query);
            } else if !found.is_empty() && is_quiet(query) {
                wrong.push(format!("{} is said to be quiet: {found:?}", query.place));
            }
        }
        if empty.is_empty() || Instant::now() > until {
            let silent = empty.iter();
            wrong.extend(silent.map(|it| format!("{} has no data: {}", it.place, it.text)));
            return Ok(wrong);
        }
        open = empty;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Selectors of alerts that find no series.
async fn unfollowed(prometheus: &Prometheus, queries: &[Query]) -> anyhow::Result<Vec<String>> {
    let mut selectors = BTreeSet::new();
    for query in queries.iter().filter(|it| it.asker == Asker::Alert) {
        let named = promql::named(&query.text).selectors;
        selectors.extend(named.into_iter().map(|(selector, _)| selector));
    }
    let mut wrong = Vec::new();
    for selector in &selectors {
        let is_there = !prometheus.series(selector).await?.is_empty();
        let why = UNSEEN.iter().find(|(unseen, _)| unseen == selector);
        match (is_there, why) {
            (false, None) => wrong.push(format!("an alert asks for {selector}: nothing")),
            (true, Some(_)) => wrong.push(format!("{selector} is said to find nothing")),
            _ => (),
        }
    }
    let gone = UNSEEN
        .iter()
        .filter(|(selector, _)| !selectors.contains(*selector));
    wrong.extend(gone.map(|(selector, _)| format!("no alert asks for {selector}")));
    Ok(wrong)
}

/// Rules that Prometheus could not evaluate, and annotations that it could not fill in.
async fn failed(prometheus: &Prometheus) -> anyhow::Result<Vec<String>> {
    let rules = wait_for("evaluated rules", SHOWN, async || {
        let rules = prometheus.rules().await?;
        let is_done = rules.iter().all(|rule| rule["health"] != "unknown");
        Ok(is_done.then_some(rules))
    })
    .await?;
    assert_eq!(
        rules.len(),
        asked::rules()?.len(),
        "rules that Prometheus has"
    );
    let mut wrong = Vec::new();
    for rule in rules {
        if rule["health"] != "ok" {
            wrong.push(format!("{}: {}", rule["name"], rule["lastError"]));
        }
        for alert in rule["alerts"].as_array().into_iter().flatten() {
            let annotations = alert["annotations"].to_string();
            if annotations.contains("<error") || annotations.contains("<no value>") {
                wrong.push(format!("{}: {annotations}", rule["name"]));
            }
        }
    }
    Ok(wrong)
}
