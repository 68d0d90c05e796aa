//! Flagger's steps: one route of the service `NAME` to `NAME-primary` and `NAME-canary`, rewritten as a
//! whole at each step. A step whose route is not accepted as it is fails, and is tried again later.

use anyhow::Context as _;
use kube::Client;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::{Route, check_accepted, weights};

/// How requests are told apart.
#[derive(Clone, Debug)]
pub enum Analysis {
    /// By weight.
    Weights,
    /// By headers, each an `HTTPHeaderMatch`: who has all of them goes to the canary.
    Headers(Value),
    /// By weight, and whoever was at the canary once stays there, by this cookie and value.
    Affinity(String, String),
    /// Everything goes to the primary, with a copy to the canary.
    Mirror,
}

/// One canary of Flagger's.
pub struct Flagger {
    /// Its route.
    pub route: Route,
    namespace: String,
    name: String,
    port: u16,
    analysis: Analysis,
}

impl Flagger {
    /// For a service of this name.
    pub fn new(
        client: Client,
        namespace: &str,
        (name, port): (&str, u16),
        analysis: Analysis,
    ) -> Self {
        Self {
            route: Route::new(client, namespace, name),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port,
            analysis,
        }
    }

    /// Begins: everything goes to the primary.
    ///
    /// # Errors
    /// What the server says against it.
    pub async fn initialize(&self) -> anyhow::Result<()> {
        // `core` is what its guide writes for a service's group.
        let parent = json!({
            "group": "core", "kind": "Service", "name": self.name, "namespace": self.namespace,
            "port": self.port,
        });
        // Without a step to make, it is the plain route.
        let rules = [self.rule([100, 0])];
        let spec = json!({"parentRefs": [parent], "rules": rules});
        self.route.create(&spec).await
    }

    /// What primary and canary get.
    ///
    /// # Errors
    /// The route is not accepted as it is.
    pub async fn weights(&self) -> anyhow::Result<[u64; 2]> {
        let route = self.route.read().await?;
        check_accepted(&route)?;
        let rules = route.data["spec"]["rules"].as_array();
        let rule = rules.and_then(|rules| rules.last()).context("no rule")?;
        weights(rule, [&self.primary(), &self.canary()])
    }

    /// A step: the weights of primary and canary, as the analysis has it.
    ///
    /// # Errors
    /// The route is not accepted as it is, or somebody else wrote it.
    pub async fn step(&self, [primary, canary]: [u64; 2]) -> anyhow::Result<()> {
        let rules = self.rules([primary, canary]);
        let write = |route: &mut DynamicObject| {
            check_accepted(route)?;
            route.data["spec"]["rules"] = rules;
            Ok(())
        };
        self.route.update(write).await
    }

    fn primary(&self) -> String {
        format!("{}-primary", self.name)
    }

    fn canary(&self) -> String {
        format!("{}-canary", self.name)
    }

    fn backend(&self, name: &str, weight: u64) -> Value {
        json!({"group": "", "kind": "Service", "name": name, "port": self.port, "weight": weight})
    }

    fn rule(&self, [primary, canary]: [u64; 2]) -> Value {
        json!({
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            "backendRefs": [
                self.backend(&self.primary(), primary), self.backend(&self.canary(), canary),
            ],
        })
    }

    fn rules(&self, [primary, canary]: [u64; 2]) -> Value {
        let mut all = self.rule([primary, canary]);
        match &self.analysis {
            Analysis::Headers(_) | Analysis::Affinity(..) if canary == 0 => json!([all]),
            Analysis::Weights => json!([all]),
            Analysis::Headers(headers) => {
                let mut chosen = self.rule([0, 100]);
                chosen["matches"][0]["headers"] = headers.clone();
                json!([chosen, self.rule([100, 0])])
            }
            Analysis::Affinity(name, value) => {
                let set = json!([{"name": "Set-Cookie", "value": format!("{name}={value}; Max-Age=86400")}]);
                let filter = json!([{
                    "type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": set},
                }]);
                all["backendRefs"][1]["filters"] = filter;
                let mut known = self.rule([0, 100]);
                known["matches"][0]["headers"] = json!([{
                    "type": "RegularExpression", "name": "Cookie",
                    "value": format!(".*{name}.*{value}.*"),
                }]);
                json!([known, all])
            }
            Analysis::Mirror => {
                if canary > 0 {
                    let to = json!({"group": "", "kind": "Service", "name": self.canary(), "port": self.port});
                    all = self.rule([100, 0]);
                    all["filters"] = json!([{
                        "type": "RequestMirror", "requestMirror": {"backendRef": to},
                    }]);
                }
                json!([all])
            }
        }
    }
}
