//! What canary tools do through the Kubernetes API, step by step: the reads, the waits for statuses and the
//! writes of Flagger (provider `gatewayapi:v1`) and of Argo Rollouts (its plugin for the Gateway API).
//!
//! Nothing here knows of Weft: only routes and services of a cluster are read and written, each time with a
//! Get and an Update that fails where somebody else wrote in between, as those tools do it.

pub mod argo;
pub mod flagger;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::{Api, Client};
use serde_json::Value;

use crate::gateway_crds::GROUP;

/// How often a status is looked at that a tool waits for. Theirs are seconds; what a test measures is the
/// mesh.
const POLL: Duration = Duration::from_millis(20);

/// One HTTPRoute, as a tool sees it.
#[derive(Clone)]
pub struct Route {
    api: Api<DynamicObject>,
    name: String,
}

impl Route {
    /// That of this name, which need not be there.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        let kind = GroupVersionKind::gvk(GROUP, "v1", "HTTPRoute");
        let kind = ApiResource::from_gvk_with_plural(&kind, "httproutes");
        Self {
            api: Api::namespaced_with(client, namespace, &kind),
            name: name.to_owned(),
        }
    }

    /// As the API server has it.
    ///
    /// # Errors
    /// It is not there, or the server is not.
    pub async fn read(&self) -> anyhow::Result<DynamicObject> {
        Ok(self.api.get(&self.name).await?)
    }

    /// Creates it.
    ///
    /// # Errors
    /// What the server says against it.
    pub async fn create(&self, spec: &Value) -> anyhow::Result<()> {
        let kind = GroupVersionKind::gvk(GROUP, "v1", "HTTPRoute");
        let kind = ApiResource::from_gvk_with_plural(&kind, "httproutes");
        let mut route = DynamicObject::new(&self.name, &kind);
        route.data["spec"] = spec.clone();
        self.api.create(&PostParams::default(), &route).await?;
        Ok(())
    }

    /// Reads, changes and writes it.
    ///
    /// # Errors
    /// What `change` says, or the server: that somebody else wrote it meanwhile, for one.
    pub async fn update(
        &self,
        change: impl FnOnce(&mut DynamicObject) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut route = self.read().await?;
        change(&mut route)?;
        let post = PostParams::default();
        self.api.replace(&self.name, &post, &route).await?;
        Ok(())
    }

    /// Waits until it is accepted as it is now: how long that took.
    ///
    /// # Errors
    /// What was missing when the patience ended.
    pub async fn accepted(&self, patience: Duration) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        loop {
            match check_accepted(&self.read().await?) {
                Ok(()) => return Ok(begin.elapsed()),
                Err(error) if begin.elapsed() > patience => return Err(error),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
}

/// Whether each of a route's parents is accepted in the route's present generation: somebody's status has
/// an entry whose `parentRef` is, field by field, the one of the spec.
///
/// # Errors
/// The parent that is not, and what is said of it.
pub fn check_accepted(route: &DynamicObject) -> anyhow::Result<()> {
    let generation = route.metadata.generation.unwrap_or_default();
    let parents = route.data["spec"]["parentRefs"].as_array();
    let parents = parents.context("a route without parents")?;
    anyhow::ensure!(!parents.is_empty(), "a route without parents");
    let entries = |list: &Value| list.as_array().cloned().unwrap_or_default();
    for parent in parents {
        let statuses = entries(&route.data["status"]["parents"]);
        let mut about = statuses.iter().filter(|it| it["parentRef"] == *parent);
        let is_accepted = about.any(|status| {
            entries(&status["conditions"]).iter().any(|condition| {
                condition["type"] == "Accepted"
                    && condition["status"] == "True"
                    && condition["observedGeneration"].as_i64() >= Some(generation)
            })
        });
        anyhow::ensure!(
            is_accepted,
            "generation {generation} is not accepted by {parent}: {}",
            route.data["status"]
        );
    }
    Ok(())
}

/// The weights of two backends in a rule, as numbers that a missing weight is 1 of.
fn weights(rule: &Value, backends: [&str; 2]) -> anyhow::Result<[u64; 2]> {
    let refs = rule["backendRefs"].as_array().context("no backendRefs")?;
    let weight = |name: &str| {
        let found = refs.iter().find(|backend| backend["name"] == name);
        let found = found.with_context(|| format!("no backendRef {name}"))?;
        anyhow::Ok(found["weight"].as_u64().unwrap_or(1))
    };
    Ok([weight(backends[0])?, weight(backends[1])?])
}
