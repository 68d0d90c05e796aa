//! A split in a cluster: its object is changed where it is still what was looked at.

use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use weft_proto::names::{API_VERSION, TRAFFIC_POLICY_KIND};

use super::model::{Canary, Endpoint, State};
use super::plan::Plan;
use super::{Of, Told, Trouble, policy};
use crate::cluster::{ClusterArgs, described};

/// How often the policy is looked at while sidecars are waited for.
const POLL: Duration = Duration::from_millis(300);
/// Objects of one answer at most.
const PAGE: u32 = 500;
const GATEWAY: &str = "gateway.networking.k8s.io";
/// Kinds of routes that hold weights, with their plurals.
const ROUTES: [(&str, &str); 2] = [("HTTPRoute", "httproutes"), ("GRPCRoute", "grpcroutes")];
/// Who changes the policy, for those who look at its managed fields.
const MANAGER: &str = "weft-canary";

/// A namespace of a cluster.
pub(super) struct Cluster {
    client: Client,
    namespace: String,
}

/// A policy in a cluster.
pub(super) struct Found {
    pub(super) canary: Canary,
    resource_version: String,
    generation: i64,
    /// As they are written, with all that is written of them.
    backends: Vec<Value>,
}

impl Cluster {
    pub(super) async fn of(args: &ClusterArgs, namespace: &str) -> Result<Self, Trouble> {
        let client = args.client().await;
        Ok(Self {
            client: client.map_err(|error| Trouble::Unreachable(error.to_string()))?,
            namespace: namespace.to_owned(),
        })
    }

    /// The policy with the split of the service.
    pub(super) async fn find(&self, of: &Of) -> Result<Found, Trouble> {
        let mut found = Vec::new();
        let policies = self.list(&self.policies()).await;
        for object in policies.map_err(|error| unread("TrafficPolicies", &error))? {
            let name = object.metadata.name.clone().unwrap_or_default();
            // Another one that is wrong is no matter here.
            let Ok(Some(mut canary)) = policy::canary(of, &name, &object.data["spec"]) else {
                continue;
            };
            let generation = object.metadata.generation.unwrap_or_default();
            (canary.proxies, canary.programmed) = policy::said(&object.data["status"], generation);
            let backends = object.data["spec"]["split"]["backends"].as_array();
            found.push(Found {
                canary,
                resource_version: object.metadata.resource_version.unwrap_or_default(),
                generation,
                backends: backends.cloned().unwrap_or_default(),
            });
        }
        let routes = self.routes(of).await?;
        let mut found = policy::only(of, found, |it| &it.canary.policy).map_err(|why| {
            Trouble::Refused(match routes.first() {
                Some(route) => format!("{why}; {route} holds its weights"),
                None => why,
            })
        })?;
        found.canary.routes = routes;
        for side in &mut found.canary.backends {
            side.endpoints = self.endpoints(&side.name).await?;
        }
        Ok(found)
    }

    /// Writes the weights: the generation that has them. `None` where somebody else was faster.
    pub(super) async fn write(&self, found: &Found, plan: &Plan) -> Result<Option<i64>, Trouble> {
        if !plan.changes() {
            return Ok(Some(found.generation));
        }
        let mut backends = found.backends.clone();
        for (side, weight) in backends.iter_mut().zip(&plan.after) {
            side["weight"] = (*weight).into();
        }
        let patch = json!({
            // Where it is another one by now, the API server refuses.
            "metadata": {"resourceVersion": found.resource_version},
            "spec": {"split": {"backends": backends}},
        });
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let name = &found.canary.policy;
        let (policies, patch) = (self.policies(), Patch::Merge(&patch));
        match policies.patch(name, &params, &patch).await {
            Ok(object) => Ok(Some(object.metadata.generation.unwrap_or_default())),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(kube::Error::Api(status)) => Err(Trouble::Refused(format!(
                "the API server refuses the policy {name}: {}",
                status.message
            ))),
            Err(error) => Err(Trouble::Unreachable(described(&error))),
        }
    }

    /// Waits until every sidecar has this generation of a policy: whether they have, in time.
    pub(super) async fn wait(
        &self,
        name: &str,
        generation: i64,
        until: Instant,
        told: &mut Told,
    ) -> Result<bool, Trouble> {
        loop {
            // An API server that is away for a moment is asked again.
            if let Ok(object) = self.policies().get(name).await {
                let (proxies, programmed) = policy::said(&object.data["status"], generation);
                told.progress(proxies);
                match programmed.map(|programmed| programmed.state) {
                    Some(State::Everywhere | State::NoSidecars) => return Ok(true),
                    Some(State::Refused) => return Ok(false),
                    Some(State::OnItsWay) | None => {}
                }
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            sleep(POLL).await;
        }
    }

    /// What holds the weights of the service instead of a policy.
    async fn routes(&self, of: &Of) -> Result<Vec<String>, Trouble> {
        let mut names = Vec::new();
        for (kind, plural) in ROUTES {
            let gvk = GroupVersionKind::gvk(GATEWAY, "v1", kind);
            let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
            let api = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            let routes = match self.list(&api).await {
                Ok(routes) => routes,
                // The Gateway API is not installed.
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                Err(error) => return Err(unread(plural, &error)),
            };
            for route in routes {
                if policy::holds(of, &self.namespace, &route.data) {
                    let name = route.metadata.name.unwrap_or_default();
                    names.push(format!("{kind} {name}"));
                }
            }
        }
        Ok(names)
    }

    /// What stands behind a service; nothing where the user may not know.
    async fn endpoints(&self, service: &str) -> Result<Option<Vec<Endpoint>>, Trouble> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let label = format!("kubernetes.io/service-name={service}");
        let found = slices.list(&ListParams::default().labels(&label)).await;
        let slices = match found {
            Ok(slices) => slices.items,
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(None),
            Err(error) => return Err(unread("EndpointSlices", &error)),
        };
        let mut all: Vec<Endpoint> = Vec::new();
        for endpoint in slices.into_iter().flat_map(|slice| slice.endpoints) {
            let name = endpoint.target_ref.and_then(|target| target.name);
            let Some(name) = name.or_else(|| endpoint.addresses.first().cloned()) else {
                continue;
            };
            let ready = endpoint.conditions.and_then(|it| it.ready).unwrap_or(true);
            // One with addresses of both families is in two slices.
            if !all.iter().any(|known| known.name == name) {
                all.push(Endpoint { name, ready });
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Some(all))
    }

    fn policies(&self) -> Api<DynamicObject> {
        let (group, version) = API_VERSION.split_once('/').unwrap_or_default();
        let gvk = GroupVersionKind::gvk(group, version, TRAFFIC_POLICY_KIND);
        let resource = ApiResource::from_gvk_with_plural(&gvk, "trafficpolicies");
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Every object of a kind in the namespace, page by page.
    async fn list(&self, api: &Api<DynamicObject>) -> kube::Result<Vec<DynamicObject>> {
        let mut params = ListParams::default().limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = api.list(&params).await?;
            all.extend(page.items);
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => params = params.continue_token(&next),
                _ => return Ok(all),
            }
        }
    }
}

fn unread(what: &str, error: &kube::Error) -> Trouble {
    let why = match error {
        kube::Error::Api(status) => {
            format!("the API server says {}: {}", status.code, status.message)
        }
        error => described(error),
    };
    Trouble::Unreachable(format!("{what} cannot be read: {why}"))
}
