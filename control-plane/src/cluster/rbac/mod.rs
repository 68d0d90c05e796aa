//! What the control plane may do in a cluster: one list, which is printed, put into the chart, asked
//! for at start, and compared with what a whole run really does.
//!
//! * Nothing here is a wildcard, and no Secret outside of the control plane's namespace can be read.
//! * Whatever is written under a name of ours is allowed under that name only. `create` is the
//!   exception: the API server does not know the name of what is not there yet.
//! * Discovery and reviews of oneself are everybody's (`system:discovery`, `system:basic-user`) and not
//!   listed.
//! * A permission that is missing ends nothing: what needs it says so by itself, and [`ask`] names it
//!   once, in the log, in `/ready` while that blocks, and as a metric.

mod ask;
mod manifests;
mod operators;
#[cfg(test)]
mod tests;

use weft_proto::names::{API_GROUP, cluster};

pub use ask::ask;
pub use manifests::{ROLE, manifests, print, with_service_account};
pub use operators::operators;

/// Where a permission holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// In the whole cluster.
    Cluster,
    /// In the control plane's own namespace.
    Own,
}

/// One rule, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it holds.
    pub scope: Scope,
    /// The API group; empty for the core.
    pub group: &'static str,
    /// Plurals, with the subresource behind a slash.
    pub resources: &'static [&'static str],
    /// The only objects that it holds for; all where it is empty.
    pub names: &'static [&'static str],
    /// What may be done.
    pub verbs: &'static [&'static str],
    /// What for, in a line.
    pub why: &'static str,
}

/// One verb on one resource, as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// Where it holds.
    pub scope: Scope,
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The plural, with the subresource behind a slash.
    pub resource: &'static str,
    /// The only object that it holds for; all where it is empty.
    pub name: &'static str,
    /// What may be done.
    pub verb: &'static str,
}

impl Permission {
    /// The resource with its group, as `httproutes/status.gateway.networking.k8s.io`.
    pub fn resource_and_group(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }
}

const GATEWAY: &str = "gateway.networking.k8s.io";
/// What keeps up with a kind of object.
const FOLLOW: &[&str] = &["list", "watch"];

/// Everything that the control plane needs.
pub const RULES: &[Rule] = &[
    Rule {
        scope: Scope::Cluster,
        group: "",
        resources: &["services", "pods", "namespaces"],
        names: &[],
        verbs: FOLLOW,
        why: "what the mesh is made of, and which namespaces want sidecars",
    },
    Rule {
        scope: Scope::Cluster,
        group: "discovery.k8s.io",
        resources: &["endpointslices"],
        names: &[],
        verbs: FOLLOW,
        why: "what stands behind each service",
    },
    Rule {
        scope: Scope::Cluster,
        group: API_GROUP,
        resources: &["trafficpolicies"],
        names: &[],
        verbs: FOLLOW,
        why: "what sidecars are to enforce",
    },
    Rule {
        scope: Scope::Cluster,
        group: API_GROUP,
        resources: &["trafficpolicies/status"],
        names: &[],
        verbs: &["patch"],
        why: "tells the authors of policies what became of them",
    },
    Rule {
        scope: Scope::Cluster,
        group: GATEWAY,
        resources: &["httproutes", "grpcroutes", "referencegrants"],
        names: &[],
        verbs: FOLLOW,
        why: "routes of services, where the Gateway API is installed",
    },
    Rule {
        scope: Scope::Cluster,
        group: GATEWAY,
        resources: &["httproutes/status", "grpcroutes/status"],
        names: &[],
        verbs: &["patch"],
        why: "tells the authors of routes what became of them, which canary tools wait for",
    },
    Rule {
        scope: Scope::Cluster,
        group: "authentication.k8s.io",
        resources: &["tokenreviews"],
        names: &[],
        verbs: &["create"],
        why: "asks whose token it is that a sidecar shows, or who looks into the mesh",
    },
    Rule {
        scope: Scope::Cluster,
        group: "authorization.k8s.io",
        resources: &["subjectaccessreviews"],
        names: &[],
        verbs: &["create"],
        why: "asks whether somebody may look into the mesh, or operate it",
    },
    Rule {
        scope: Scope::Cluster,
        group: "",
        resources: &["configmaps"],
        names: &[],
        verbs: &["create"],
        why: "makes the trust bundle's ConfigMap in namespaces with sidecars; cannot be limited by name",
    },
    Rule {
        scope: Scope::Cluster,
        group: "",
        resources: &["configmaps"],
        names: &[cluster::TRUST_BUNDLE],
        verbs: &["list", "get", "patch", "delete"],
        why: "keeps the trust bundle up to date, and takes it away with the namespace's label",
    },
    Rule {
        scope: Scope::Cluster,
        group: "admissionregistration.k8s.io",
        resources: &["mutatingwebhookconfigurations"],
        names: &[cluster::WEBHOOK_CONFIGURATION],
        verbs: &["get", "patch"],
        why: "keeps the caBundle by which the API server trusts the webhook",
    },
    Rule {
        scope: Scope::Cluster,
        group: "",
        resources: &["events"],
        names: &[],
        verbs: &["create"],
        why: "says on objects what went wrong with them",
    },
    Rule {
        scope: Scope::Own,
        group: "coordination.k8s.io",
        resources: &["leases"],
        names: &[],
        verbs: &["create"],
        why: "makes the lease of the replica that writes; cannot be limited by name",
    },
    Rule {
        scope: Scope::Own,
        group: "coordination.k8s.io",
        resources: &["leases"],
        names: &[cluster::LEASE],
        verbs: &["get", "update"],
        why: "decides which replica writes",
    },
    Rule {
        scope: Scope::Own,
        group: "",
        resources: &["secrets"],
        names: &[],
        verbs: &["create"],
        why: "makes the Secrets of the next rules at the first start; cannot be limited by name",
    },
    Rule {
        scope: Scope::Own,
        group: "",
        resources: &["secrets"],
        names: &[cluster::AUTHORITY_SECRET],
        verbs: &["get", "update"],
        why: "the certificate authority's state, which rotations change",
    },
    Rule {
        scope: Scope::Own,
        group: "",
        resources: &["secrets"],
        names: &[cluster::ISSUER_SECRET],
        verbs: &["get"],
        why: "an issuer that somebody else makes, as cert-manager, where there is one",
    },
    Rule {
        scope: Scope::Own,
        group: "",
        resources: &["secrets"],
        names: &[cluster::WEBHOOK_SECRET],
        verbs: &["get", "update"],
        why: "the webhook's certificate, which is renewed",
    },
];

/// Every verb of every rule, one by one.
pub fn permissions() -> impl Iterator<Item = Permission> {
    RULES.iter().flat_map(|rule| {
        let all = if rule.names.is_empty() {
            &[""][..]
        } else {
            rule.names
        };
        let pairs = rule
            .resources
            .iter()
            .flat_map(move |resource| all.iter().map(move |name| (*resource, *name)));
        pairs.flat_map(move |(resource, name)| {
            rule.verbs.iter().map(move |verb| Permission {
                scope: rule.scope,
                group: rule.group,
                resource,
                name,
                verb,
            })
        })
    })
}
