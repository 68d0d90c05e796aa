//! What the cluster itself must be like, before Weft is there and afterwards.

use serde_json::Value;
use weft_control_plane::policy::schema;

use super::facts::{Before, Common, annotation, is_injected, label, list, name};
use super::line::{Check, Line, counted};

const SERVER: Check = Check("kubernetes", "api-server");
const VERSION: Check = Check("kubernetes", "version");
const PERMISSIONS: Check = Check("kubernetes", "permissions");
const SOCKETS: Check = Check("kubernetes", "socket-load-balancing");
const SECURITY: Check = Check("kubernetes", "pod-security");
const MESHES: Check = Check("kubernetes", "other-meshes");
const POLICIES: Check = Check("definitions", "traffic-policy");
const ROUTES: Check = Check("definitions", "gateway-api");

/// The oldest minor version of Kubernetes 1: the first in which native sidecars are on by default.
const OLDEST_MINOR: u32 = 29;
/// The version of TrafficPolicy that this program knows.
const POLICY_VERSION: &str = "v1alpha1";
/// The version of routes that the control plane reads.
const ROUTE_VERSION: &str = "v1";
const APPLY_CRD: &str = "weft internal crd | kubectl apply --server-side -f -";
/// Levels of pod security that forbid NET_ADMIN.
const FORBIDDING: [&str; 2] = ["baseline", "restricted"];
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// Beginnings of the names of other meshes' webhook configurations.
const OTHERS: [&str; 4] = ["istio-", "linkerd-", "kuma-", "consul-"];

/// What holds for both. Where the API server is not reached there is one line.
pub(super) fn check(facts: &Common, before: Option<&Before>) -> Vec<Line> {
    let (mut lines, reached) = server(facts);
    if !reached {
        return lines;
    }
    lines.extend(before.map(permissions));
    lines.push(socket_load_balancing(facts));
    lines.push(pod_security(facts));
    lines.push(other_meshes(facts, before.is_some()));
    lines.push(policies(facts, before.is_some()));
    lines.push(routes(facts));
    lines
}

fn server(facts: &Common) -> (Vec<Line>, bool) {
    let version = match &facts.version {
        Ok(version) => version,
        Err(trouble) => {
            let hint = "is this the right context (kubectl config current-context), and is the \
                         API server reachable from here?";
            let line = Line {
                hint: hint.to_owned(),
                ..SERVER.untold("the API server's version", trouble)
            };
            return (vec![line], false);
        }
    };
    let git = version["gitVersion"]
        .as_str()
        .unwrap_or("of unknown version");
    let answers = SERVER.ok(format!("the API server answers: {git}"));
    // Some say `29+`.
    let number = |part: &str| -> Option<u32> {
        let digits = version[part].as_str()?.trim_end_matches('+');
        digits.parse().ok()
    };
    let supported = match (number("major"), number("minor")) {
        (Some(1), Some(minor)) if minor < OLDEST_MINOR => VERSION.failed(
            format!("Kubernetes 1.{minor} has no native sidecars"),
            format!("upgrade to 1.{OLDEST_MINOR} or newer"),
        ),
        (Some(_), Some(_)) => {
            VERSION.ok(format!("at least 1.{OLDEST_MINOR}: native sidecars work"))
        }
        _ => VERSION.warning(
            "the API server's version is not understood",
            format!("make sure that it is 1.{OLDEST_MINOR} or newer"),
        ),
    };
    (vec![answers, supported], true)
}

fn permissions(before: &Before) -> Line {
    let all = before.creatable.len();
    let refused = before.creatable.iter().filter(|(_, may)| *may == Ok(false));
    let refused: Vec<_> = refused.map(|(what, _)| what.clone()).collect();
    let unknown = before
        .creatable
        .iter()
        .find_map(|(_, may)| may.as_ref().err());
    match (refused.len(), unknown) {
        (0, None) => PERMISSIONS.ok(format!(
            "you may create all {all} kinds that Weft is made of"
        )),
        (0, Some(trouble)) => PERMISSIONS.untold("what you may create", trouble),
        (count, _) => PERMISSIONS
            .failed(
                format!(
                    "you may not create {} that Weft is made of",
                    counted(count, "kind", "kinds")
                ),
                "install it as somebody who may, as a cluster's administrator",
            )
            .listing(refused),
    }
}

/// Where the address of a service is replaced in the pod's own `connect()`, a sidecar never sees it.
fn socket_load_balancing(facts: &Common) -> Line {
    let config = match &facts.cilium {
        Ok(Some(config)) => &config["data"],
        Ok(None) => return SOCKETS.ok("services' addresses are not replaced inside of pods"),
        Err(trouble) => return SOCKETS.untold("ConfigMap kube-system/cilium-config", trouble),
    };
    let is = |key: &str, words: &[&str]| {
        config[key]
            .as_str()
            .is_some_and(|value| words.contains(&value))
    };
    let replaces = is("kube-proxy-replacement", &["true", "strict"])
        || is("bpf-lb-sock", &["true"])
        || is("enable-host-reachable-services", &["true"]);
    let hosts_only = is("bpf-lb-sock-hostns-only", &["true"]);
    if replaces && !hosts_only {
        SOCKETS.failed(
            "Cilium replaces services' addresses inside of pods: sidecars see an endpoint instead of \
             the service, whose policies then do not hold",
            "helm upgrade cilium cilium/cilium -n kube-system --reuse-values --set \
             socketLB.hostNamespaceOnly=true, and restart Cilium's pods",
        )
    } else {
        SOCKETS.ok("Cilium leaves services' addresses alone inside of pods")
    }
}

fn pod_security(facts: &Common) -> Line {
    let namespaces = match &facts.namespaces {
        Ok(namespaces) => namespaces,
        Err(trouble) => return SECURITY.untold("namespaces", trouble),
    };
    let forbidding: Vec<_> = namespaces
        .iter()
        .filter(|it| is_injected(it) && FORBIDDING.contains(&label(it, ENFORCE)))
        .map(|it| format!("{}: enforces {}", name(it), label(it, ENFORCE)))
        .collect();
    if forbidding.is_empty() {
        return SECURITY.ok("no namespace that wants sidecars forbids NET_ADMIN");
    }
    SECURITY
        .failed(
            "pod security refuses pods with sidecars: their init container needs NET_ADMIN",
            format!("kubectl label namespace NAME --overwrite {ENFORCE}=privileged"),
        )
        .listing(forbidding)
}

/// What asks another mesh for its sidecars in a namespace.
fn other_mesh(namespace: &Value) -> Option<&'static str> {
    if label(namespace, "istio-injection") == "enabled"
        || !label(namespace, "istio.io/rev").is_empty()
        || label(namespace, "istio.io/dataplane-mode") == "ambient"
    {
        return Some("Istio");
    }
    if ["enabled", "ingress"].contains(&annotation(namespace, "linkerd.io/inject")) {
        return Some("Linkerd");
    }
    (label(namespace, "kuma.io/sidecar-injection") == "enabled").then_some("Kuma")
}

fn other_meshes(facts: &Common, is_before: bool) -> Line {
    let namespaces = match &facts.namespaces {
        Ok(namespaces) => namespaces,
        Err(trouble) => return MESHES.untold("namespaces", trouble),
    };
    let both: Vec<_> = namespaces
        .iter()
        .filter(|it| is_injected(it))
        .filter_map(|it| Some(format!("{}: {}", name(it), other_mesh(it)?)))
        .collect();
    if !both.is_empty() {
        return MESHES
            .warning(
                "namespaces want sidecars of two meshes: Weft leaves pods alone that have another's",
                "take the label or annotation of one of the two away, and restart the pods",
            )
            .listing(both);
    }
    let webhooks = facts
        .webhooks
        .as_deref()
        .unwrap_or_default()
        .iter()
        .map(name);
    let others: Vec<_> = webhooks
        .filter(|name| OTHERS.iter().any(|prefix| name.starts_with(prefix)))
        .map(str::to_owned)
        .collect();
    if is_before && !others.is_empty() {
        return MESHES
            .warning(
                "another mesh injects sidecars in this cluster",
                "both can live beside each other, as long as no namespace is labelled for both",
            )
            .listing(others);
    }
    MESHES.ok("no namespace wants sidecars of two meshes")
}

fn policies(facts: &Common, is_before: bool) -> Line {
    let crd = match &facts.policies {
        Ok(Some(crd)) => crd,
        Ok(None) if is_before => {
            return POLICIES.ok("TrafficPolicy is not defined yet: installing defines it");
        }
        Ok(None) => {
            return POLICIES.failed(
                "TrafficPolicy is not defined: no policy is in force",
                APPLY_CRD,
            );
        }
        Err(trouble) => return POLICIES.untold("the definition of TrafficPolicy", trouble),
    };
    let Some(served) = version(crd, POLICY_VERSION) else {
        return POLICIES.failed(
            format!("TrafficPolicy is defined, and {POLICY_VERSION} is not served"),
            APPLY_CRD,
        );
    };
    let ours: Value = serde_saphyr::from_str(&schema::crd()).expect("the definition is YAML");
    let ours = version(&ours, POLICY_VERSION).map(schema_of);
    if ours == Some(schema_of(served)) {
        POLICIES.ok(format!(
            "TrafficPolicy {POLICY_VERSION} is defined as this version knows it"
        ))
    } else {
        POLICIES.warning(
            "TrafficPolicy is defined by another version of Weft: fields may be refused or missing",
            APPLY_CRD,
        )
    }
}

fn routes(facts: &Common) -> Line {
    let mut without = Vec::new();
    for (kind, crd) in &facts.routes {
        match crd {
            Ok(Some(crd)) if version(crd, ROUTE_VERSION).is_some() => {}
            Ok(Some(_)) => without.push(format!("{kind}: {ROUTE_VERSION} is not served")),
            Ok(None) => without.push(format!("{kind}: not defined")),
            Err(trouble) => return ROUTES.untold("the Gateway API's definitions", trouble),
        }
    }
    if without.is_empty() {
        return ROUTES.ok("HTTPRoute and GRPCRoute are defined");
    }
    ROUTES
        .warning(
            "routes of these kinds are not read, nor can canary tools use them",
            "install the standard channel of the Gateway API, 1.1 or newer; the control plane picks \
             it up by itself",
        )
        .listing(without)
}

fn version<'a>(crd: &'a Value, name: &str) -> Option<&'a Value> {
    let mut versions = list(&crd["spec"]["versions"]);
    versions.find(|version| version["name"] == name && version["served"] == true)
}

/// The schema, without the forms in which the same may be written: an API server drops what is empty.
fn schema_of(version: &Value) -> Value {
    normal(&version["schema"]["openAPIV3Schema"])
}

fn normal(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, value)| (key.clone(), normal(value)));
            let is_something = |value: &Value| match value {
                Value::Null => false,
                Value::Object(fields) => !fields.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::String(text) => !text.is_empty(),
                _ => true,
            };
            fields.filter(|(_, value)| is_something(value)).collect()
        }
        Value::Array(items) => items.iter().map(normal).collect(),
        // 1 and 1.0 are one number to an API server.
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        other => other.clone(),
    }
}
