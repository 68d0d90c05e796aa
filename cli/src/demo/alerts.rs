//! The guide's alerts and queries in a real Prometheus beside the mesh, where the machine has one.
//!
//! It scrapes the story's sidecars and has the platform's own rules, whose minutes are seconds here
//! ([`FACTOR`], whatever the story's pace). An alert has fired in an act where it was seen firing since the
//! act began; ranges reach back into the act before, so that an act that says what has *not* fired begins
//! when its predecessor's troubles are over.
//!
//! Where there is no Prometheus, a story says so and has no checks of alerts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Deserialize;
use weft_sandbox::Mesh;
use weft_sandbox::programs::prometheus::{NEEDS, Prometheus, Settings};
use weft_sandbox::programs::{missing, rules::Scale};

use super::check::Expected;
use super::stage::Stage;
use super::world::World;

/// What times of rules and queries are divided by.
const FACTOR: u32 = 60;
/// How often it scrapes and evaluates.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long an alert may take to fire, or to end. A range of five minutes is five seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a platform's guide asks of Prometheus.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    /// The file of rules.
    pub(super) rules: &'static str,
    /// The file of queries: a list of names and queries.
    pub(super) queries: &'static str,
}

/// One entry of a file of queries.
#[derive(Debug, Deserialize)]
struct Query {
    name: String,
    query: String,
}

/// The Prometheus of a story. Ends when dropped.
#[derive(Debug)]
pub(super) struct Watch {
    prometheus: Prometheus,
    queries: Vec<Query>,
    /// Every alert that there is.
    alerts: BTreeSet<String>,
}

/// What `watched` would need and this machine does not have, in words for people.
pub(super) fn lacking() -> Option<String> {
    let missing = missing(&NEEDS).into_iter().next()?;
    Some(format!("Alerts are not looked at: {missing}."))
}

impl Watch {
    /// Starts it in a pod of its own and waits until it has scraped every sidecar; nothing where the
    /// machine has none.
    ///
    /// # Errors
    /// When it refuses its rules, or does not become ready.
    pub(super) async fn start(mesh: &Mesh, watched: Watched) -> anyhow::Result<Option<Self>> {
        if lacking().is_some() {
            return Ok(None);
        }
        let scale = Scale::new(FACTOR, INTERVAL);
        let queries: Vec<Query> =
            serde_saphyr::from_str(watched.queries).context("reading the platform's queries")?;
        let queries = queries.into_iter().map(|query| Query {
            query: scale.expression(&query.query),
            ..query
        });
        let rules = scale
            .rules(watched.rules)
            .context("reading the platform's rules")?;
        let prometheus = Settings::new(INTERVAL)
            .rules("platform", rules)
            .all_sidecars(mesh)
            .start(&mesh.stranger("prometheus")?, mesh.dir())
            .await
            .context("starting Prometheus")?;
        let rules = prometheus.rules().await?;
        let alerts = rules.iter().filter(|rule| rule["type"] == "alerting");
        let alerts = alerts.filter_map(|rule| Some(rule["name"].as_str()?.to_owned()));
        Ok(Some(Self {
            alerts: alerts.collect(),
            queries: queries.collect(),
            prometheus,
        }))
    }

    /// Names of the alerts that were seen firing since then.
    async fn fired_since(&self, begun: Instant) -> anyhow::Result<BTreeSet<String>> {
        let seconds = begun.elapsed().as_secs().max(1);
        let expression = format!(
            r#"count by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}[{seconds}s]))"#
        );
        let series = self.prometheus.query(&expression).await?;
        let names = series.iter().map(|one| one["metric"]["alertname"].as_str());
        Ok(names.flatten().map(str::to_owned).collect())
    }
}

impl Stage {
    /// The guide's queries find series. Ask when there has been trouble: a query for errors finds none
    /// before.
    pub(super) async fn check_queries(&mut self) -> anyhow::Result<()> {
        let world = std::rc::Rc::clone(&self.world);
        let Some(watch) = &world.watch else {
            return Ok(());
        };
        let mut found = 0;
        for Query { name, query } in &watch.queries {
            let series = self.during(watch.prometheus.query(query)).await;
            if series
                .with_context(|| format!("the query {name}"))?
                .is_empty()
            {
                self.say(&format!("the query finds nothing: {name}"));
                continue;
            }
            found += 1;
        }
        let all = watch.queries.len() as u64;
        let what = "the guide's queries find series";
        self.check_count(what, (all, "queries"), found, Expected::exactly(all as f64));
        Ok(())
    }

    /// These alerts fire in this act, and of the others none but those that `may`.
    pub(super) async fn check_alerts(&mut self, fire: &[&str], may: &[&str]) -> anyhow::Result<()> {
        let world = std::rc::Rc::clone(&self.world);
        let (Some(watch), begun) = (&world.watch, self.begun()) else {
            return Ok(());
        };
        let mut fired = BTreeSet::new();
        self.until(PATIENCE, async |_: &World| {
            // One that does not answer now is asked again.
            fired = watch.fired_since(begun).await.unwrap_or_default();
            fire.iter().all(|name| fired.contains(*name))
        })
        .await;
        for name in fire {
            let count = u64::from(fired.contains(*name));
            let what = format!("alert {name} fires");
            self.check_count(what, (1, "alert"), count, Expected::exactly(1));
        }
        let others = watch.alerts.iter().filter(|name| {
            let name = name.as_str();
            !fire.contains(&name) && !may.contains(&name)
        });
        let others: Vec<_> = others.collect();
        let wrong = others.iter().filter(|name| fired.contains(name.as_str()));
        let wrong: Vec<_> = wrong.map(|name| name.as_str()).collect();
        if !wrong.is_empty() {
            self.say(&format!("these fire: {}", wrong.join(", ")));
        }
        self.check_count(
            "other alerts that fire",
            (others.len() as u64, "alerts"),
            wrong.len() as u64,
            Expected::exactly(0),
        );
        Ok(())
    }

    /// Waits until no alert fires any more, and tells how many still do.
    pub(super) async fn check_silence(&mut self) {
        let world = std::rc::Rc::clone(&self.world);
        let Some(watch) = &world.watch else {
            return;
        };
        let all = watch.alerts.len() as u64;
        let mut firing = all;
        self.until(PATIENCE, async |_: &World| {
            let names = watch.prometheus.firing().await;
            firing = names.map_or(all, |names| names.len() as u64);
            firing == 0
        })
        .await;
        let what = "alerts that still fire";
        self.check_count(what, (all, "alerts"), firing, Expected::exactly(0));
    }
}
