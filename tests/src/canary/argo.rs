//! Steps of Argo Rollouts: a route that its owner wrote, whose backends `stable` and `canary` get weights in
//! every rule but the managed ones, which are put in front for headers. Which pods the two services mean is
//! changed in their selectors.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{Route, weights};

/// Label of a route while a rollout goes on.
const IN_PROGRESS: (&str, &str) = ("rollouts.argoproj.io/gatewayapi-canary", "in-progress");
/// What the two services select their pods by.
pub const HASH: &str = "rollouts-pod-template-hash";

/// One rollout.
pub struct Rollout {
    /// Its route.
    pub route: Route,
    services: Api<Service>,
    stable: String,
    canary: String,
    /// The beginning of the names of the rules that it makes.
    managed: String,
}

impl Rollout {
    /// That uses this route and these services.
    pub fn new(client: Client, namespace: &str, route: &str, [stable, canary]: [&str; 2]) -> Self {
        Self {
            route: Route::new(client.clone(), namespace, route),
            services: Api::namespaced(client, namespace),
            stable: stable.to_owned(),
            canary: canary.to_owned(),
            managed: "managed".to_owned(),
        }
    }

    /// The owner's route.
    ///
    /// # Errors
    /// What the server says against it.
    pub async fn create_route(&self, parent: &Value, port: u16) -> anyhow::Result<()> {
        let backend = |name: &str| json!({"name": name, "port": port});
        let backends = [backend(&self.stable), backend(&self.canary)];
        let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": backends}]});
        self.route.create(&spec).await
    }

    /// What stable and canary get in the owner's rules.
    ///
    /// # Errors
    /// There is no such backend.
    pub async fn weights(&self) -> anyhow::Result<[u64; 2]> {
        let route = self.route.read().await?;
        let rules = route.data["spec"]["rules"].as_array();
        let rules = rules.context("no rules")?.iter();
        let mut own = rules.filter(|rule| !self.manages(rule));
        weights(own.next().context("no rule")?, [&self.stable, &self.canary])
    }

    /// Step `setWeight`.
    ///
    /// # Errors
    /// A rule has not both backends, or somebody else wrote the route.
    pub async fn set_weight(&self, canary: u64) -> anyhow::Result<()> {
        let write = |route: &mut DynamicObject| {
            for rule in rules(route)?.iter_mut().filter(|rule| !self.manages(rule)) {
                weights(rule, [&self.stable, &self.canary])?;
                for backend in rule["backendRefs"].as_array_mut().into_iter().flatten() {
                    if backend["name"] == self.canary {
                        backend["weight"] = canary.into();
                    } else if backend["name"] == self.stable {
                        backend["weight"] = (100 - canary).into();
                    }
                }
            }
            let labels = route.metadata.labels.get_or_insert_default();
            let (label, value) = IN_PROGRESS;
            if canary == 0 {
                labels.remove(label);
            } else {
                labels.insert(label.to_owned(), value.to_owned());
            }
            Ok(())
        };
        self.route.update(write).await
    }

    /// Step `setHeaderRoute`: whoever has these headers, each an `HTTPHeaderMatch`, goes to the canary.
    ///
    /// # Errors
    /// The route has no rule to copy from, or somebody else wrote it.
    pub async fn set_header_route(&self, headers: &Value) -> anyhow::Result<()> {
        let write = |route: &mut DynamicObject| {
            let rules = rules(route)?;
            let own = rules.iter().filter(|rule| !self.manages(rule));
            let mut made = Vec::new();
            for (number, rule) in own.enumerate() {
                let mut rule = rule.clone();
                let backends = rule["backendRefs"].as_array().context("no backendRefs")?;
                let canary = backends.iter().find(|it| it["name"] == self.canary);
                let mut canary = canary.context("no canary")?.clone();
                // The one backend of a rule needs no weight.
                canary.as_object_mut().map(|canary| canary.remove("weight"));
                rule["backendRefs"] = json!([canary]);
                rule["name"] = match number {
                    0 => self.managed.clone().into(),
                    number => format!("{}-{number}", self.managed).into(),
                };
                if rule["matches"].as_array().is_none_or(Vec::is_empty) {
                    rule["matches"] = json!([{}]);
                }
                for one in rule["matches"].as_array_mut().into_iter().flatten() {
                    one["headers"] = headers.clone();
                }
                made.push(rule);
            }
            rules.extend(made);
            Ok(())
        };
        self.route.update(write).await
    }

    /// Takes the rules away that it made.
    ///
    /// # Errors
    /// Somebody else wrote the route.
    pub async fn remove_managed_routes(&self) -> anyhow::Result<()> {
        let write = |route: &mut DynamicObject| {
            rules(route)?.retain(|rule| !self.manages(rule));
            Ok(())
        };
        self.route.update(write).await
    }

    /// Makes a service mean the pods of a template.
    ///
    /// # Errors
    /// There is no such service.
    pub async fn select(&self, service: &str, hash: &str) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"spec": {"selector": {HASH: hash}}}));
        let params = PatchParams::default();
        self.services.patch(service, &params, &patch).await?;
        Ok(())
    }

    fn manages(&self, rule: &Value) -> bool {
        let name = rule["name"].as_str();
        name.is_some_and(|name| name.starts_with(&self.managed))
    }
}

fn rules(route: &mut DynamicObject) -> anyhow::Result<&mut Vec<Value>> {
    let rules = route.data["spec"]["rules"].as_array_mut();
    rules.context("a route without rules")
}
