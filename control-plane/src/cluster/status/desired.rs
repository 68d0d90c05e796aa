//! The status that an object should have, from everything that is known.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::policy::{self, Counted, Subject};
use super::schedule::Change;
use crate::cluster::events::{self, News};
use crate::index::{Judged, JudgedPolicy, Model, Name, Overlap};
use crate::policy::TrafficPolicyStatus;
use crate::route::RouteKind;
use crate::route::status::{self as route_status, RouteStatus};
use crate::serve::counts::Counts;
use crate::source::kubernetes::observed::{ObservedObject, Reading, Readings, StatusKind};

/// A model with what it was made of, and what follows from it for statuses.
pub(super) struct View {
    pub(super) model: Arc<Model>,
    pub(super) readings: Arc<Readings>,
    /// What policies share with other services, of those that were looked at.
    overlaps: HashMap<Name, Vec<Vec<Overlap>>>,
    /// Where each route's verdict is.
    routes: HashMap<(RouteKind, Name), usize>,
}

/// A status that is not as it should be.
#[derive(Debug)]
pub(super) struct Desired {
    /// The whole status; what is null is to be taken away.
    pub(super) status: Value,
    pub(super) change: Change,
    /// What is told as events once it is written.
    pub(super) news: Vec<News>,
}

impl View {
    pub(super) fn new(model: Arc<Model>, readings: Arc<Readings>) -> Self {
        let routes = model.judged_routes().iter().enumerate();
        let routes = routes.map(|(at, judged)| {
            let route = &judged.route;
            let name = Name::new(&*route.namespace, &*route.name);
            ((route.kind, name), at)
        });
        Self {
            routes: routes.collect(),
            overlaps: HashMap::new(),
            model,
            readings,
        }
    }

    /// `None` where nothing is to be written, or nothing is known about this version of the object.
    pub(super) fn desired(
        &mut self,
        kind: StatusKind,
        name: &Name,
        object: &ObservedObject,
        counts: &Counts,
        now: &str,
    ) -> Option<Desired> {
        let readings = Arc::clone(&self.readings);
        let reading = readings.objects.get(&(kind, name.clone()))?;
        if reading.uid != object.uid || reading.generation != object.generation {
            return None;
        }
        match kind {
            StatusKind::TrafficPolicy => self.of_policy(name, reading, object, counts, now),
            StatusKind::HttpRoute => self.of_route(RouteKind::Http, name, reading, object, now),
            StatusKind::GrpcRoute => self.of_route(RouteKind::Grpc, name, reading, object, now),
        }
    }

    fn of_policy(
        &mut self,
        name: &Name,
        reading: &Reading,
        object: &ObservedObject,
        counts: &Counts,
        now: &str,
    ) -> Option<Desired> {
        // What does not read as our own status is none, and is replaced.
        let before = TrafficPolicyStatus::deserialize(&object.status).unwrap_or_default();
        let refused = reading.refused.as_ref().map(|refused| {
            let problems = refused.violations.iter();
            let problems: Vec<_> = problems.map(ToString::to_string).collect();
            problems.join("; ")
        });
        let model = &self.model;
        let judged = judged_policy(model, name);
        let judged = judged.filter(|_| refused.is_none() || reading.last_good_stays);
        if judged.is_none() && refused.is_none() {
            return None;
        }
        let overlaps = self.overlaps.entry(name.clone()).or_insert_with(|| {
            let targets = judged.map_or(&[][..], |judged| &judged.targets);
            let overlaps = targets.iter();
            overlaps
                .map(|target| model.overlaps(&name.namespace, target))
                .collect()
        });
        let subject = Subject {
            generation: object.generation,
            refused: refused.as_deref(),
            judged,
            overlaps,
        };
        let known = counts.get(name);
        let current = known.filter(|count| {
            let compiled = count.generation;
            compiled.is_none_or(|compiled| compiled == object.generation)
        });
        let counted = match current.or(known) {
            Some(count) if current.is_some() || policy::is_counted(&before, object.generation) => {
                Counted::Sidecars(count)
            }
            None if policy::is_counted(&before, object.generation) => Counted::Nobody,
            _ => Counted::NotYet,
        };
        let next = policy::status(&subject, counted, &before, now)?;
        Some(Desired {
            news: events::of_policy(&before, &next.status),
            change: if next.at_once {
                Change::Verdict
            } else {
                Change::Counts
            },
            status: json!({
                "conditions": next.status.conditions,
                "ancestors": next.status.ancestors,
                "proxies": next.status.proxies,
            }),
        })
    }

    fn of_route(
        &self,
        kind: RouteKind,
        name: &Name,
        reading: &Reading,
        object: &ObservedObject,
        now: &str,
    ) -> Option<Desired> {
        // A status of a shape that is not known may hold what others say: it is let be.
        let before: Option<RouteStatus> = Deserialize::deserialize(&object.status).ok()?;
        let before = before.unwrap_or_default();
        let after = if let Some(refused) = &reading.refused {
            let (manifest, stays) = (&refused.manifest, reading.last_good_stays);
            route_status::of_refused(manifest, &refused.violations, stays, &before, now)
        } else {
            let at = *self.routes.get(&(kind, name.clone()))?;
            let Judged { route, verdicts } = &self.model.judged_routes()[at];
            route_status::status(route, verdicts, &before, now)
        }?;
        Some(Desired {
            news: events::of_route(&before, &after),
            change: Change::Verdict,
            status: json!({ "parents": after.parents }),
        })
    }
}

fn judged_policy<'a>(model: &'a Model, name: &Name) -> Option<&'a JudgedPolicy> {
    let judged = model.judged_policies();
    let at = judged
        .binary_search_by(|judged| judged.name.cmp(name))
        .ok()?;
    Some(&judged[at])
}
