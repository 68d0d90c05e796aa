//! The control plane, its lease, and the webhook.

use serde_json::Value;
use weft_proto::names::{CONTROL_PLANE_SERVICE_ACCOUNT, cluster};

use super::facts::{After, Common, decoded, full_name, label, list, name, namespace};
use super::line::{Check, Line, counted};
use super::time::{moment, span};

const PODS: Check = Check("control plane", "pods");
const SERVICE: Check = Check("control plane", "service");
const LEASE: Check = Check("control plane", "lease");
const WEBHOOK: Check = Check("webhook", "configuration");
const BUNDLE: Check = Check("webhook", "ca-bundle");
const ENDPOINTS: Check = Check("webhook", "endpoints");

/// The label that names a slice's service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(super) fn check(common: &Common, after: &After) -> Vec<Line> {
    vec![
        pods(common, after),
        service(common, after),
        lease(common, after),
        webhook(common),
        ca_bundle(common, after),
        endpoints(common, after),
    ]
}

/// The pods that run as the control plane, by the account that its identity is made of.
pub(super) fn own_pods<'a>(common: &Common, pods: &'a [Value]) -> Vec<&'a Value> {
    let own = pods.iter().filter(|pod| {
        namespace(pod) == common.namespace
            && pod["spec"]["serviceAccountName"] == CONTROL_PLANE_SERVICE_ACCOUNT
            && !is_over(pod)
    });
    own.collect()
}

/// Whether a pod has ended and only its object is left.
pub(super) fn is_over(pod: &Value) -> bool {
    ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default())
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = list(&pod["status"]["conditions"]);
    conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
}

fn pods(common: &Common, after: &After) -> Line {
    let all = match &after.pods {
        Ok(pods) => own_pods(common, pods),
        Err(trouble) => return PODS.untold("pods", trouble),
    };
    let namespace = &common.namespace;
    if all.is_empty() {
        return PODS.failed(
            format!(
                "no pod runs as service account {CONTROL_PLANE_SERVICE_ACCOUNT} in namespace \
                 {namespace}"
            ),
            "is Weft installed there? Another namespace is said by -n",
        );
    }
    let waiting: Vec<_> = all.iter().filter(|pod| !is_ready(pod)).collect();
    let ready = all.len() - waiting.len();
    let what = format!(
        "{ready} of {} ready",
        counted(all.len(), "pod is", "pods are")
    );
    let hint = format!(
        "kubectl -n {namespace} describe pod NAME; what it waits for is at /ready of its admin port"
    );
    let names = waiting.iter().map(|pod| name(pod).to_owned());
    match ready {
        0 => PODS.failed(what, hint).listing(names),
        _ if !waiting.is_empty() => PODS.warning(what, hint).listing(names),
        _ => PODS.ok(what),
    }
}

/// How many endpoints of a service of the control plane's namespace are ready.
fn ready_endpoints(slices: &[Value], service: &str) -> usize {
    let slices = slices
        .iter()
        .filter(|slice| label(slice, SERVICE_NAME) == service);
    let endpoints = slices.flat_map(|slice| list(&slice["endpoints"]));
    endpoints
        .filter(|it| it["conditions"]["ready"] != false)
        .count()
}

fn service(common: &Common, after: &After) -> Line {
    let service = format!("{}/{}", common.namespace, cluster::CONTROL_PLANE_SERVICE);
    match after.slices.as_deref().map(|it| ready_endpoints(it, cluster::CONTROL_PLANE_SERVICE)) {
        Ok(0) => SERVICE.failed(
            format!("Service {service} has no ready endpoint: sidecars keep what they have"),
            "compare its selector with the labels of the control plane's pods, and see above whether \
             they are ready",
        ),
        Ok(count) => SERVICE.ok(format!(
            "Service {service} has {}",
            counted(count, "ready endpoint", "ready endpoints")
        )),
        Err(trouble) => SERVICE.untold("EndpointSlices of the control plane", trouble),
    }
}

fn lease(common: &Common, after: &After) -> Line {
    let lease = format!("Lease {}/{}", common.namespace, cluster::LEASE);
    let spec = match &after.lease {
        Ok(Some(object)) => &object["spec"],
        Ok(None) => {
            return LEASE.failed(
                format!("{lease} is not there: nobody writes statuses and certificates"),
                "see above whether the control plane runs, and whether weft-control-plane \
                 --print-rbac is what it may do",
            );
        }
        Err(trouble) => return LEASE.untold(&lease, trouble),
    };
    let holder = spec["holderIdentity"].as_str().unwrap_or_default();
    let renewed = moment(&spec["renewTime"]);
    let lasts = spec["leaseDurationSeconds"].as_i64().unwrap_or_default();
    let (Some(renewed), false) = (renewed, holder.is_empty()) else {
        return LEASE.failed(
            format!("{lease} is held by nobody: nobody writes statuses and certificates"),
            "a replica takes it within seconds where one runs: see above",
        );
    };
    let age = common.now - renewed;
    if age > lasts {
        return LEASE.failed(
            format!(
                "{lease} was last renewed {} ago, by {holder}, and lasts {lasts} s",
                span(age)
            ),
            "see above whether the control plane runs; or is the clock of this machine wrong?",
        );
    }
    LEASE.ok(format!("{holder} holds the lease"))
}

fn configuration(common: &Common) -> Option<&Value> {
    let mut all = common.webhooks.as_deref().unwrap_or_default().iter();
    all.find(|it| name(it) == cluster::WEBHOOK_CONFIGURATION)
}

fn webhook(common: &Common) -> Line {
    if let Err(trouble) = &common.webhooks {
        return WEBHOOK.untold("MutatingWebhookConfigurations", trouble);
    }
    let named = cluster::WEBHOOK_CONFIGURATION;
    match configuration(common) {
        Some(found) if list(&found["webhooks"]).next().is_some() => {
            WEBHOOK.ok(format!("MutatingWebhookConfiguration {named} is there"))
        }
        Some(_) => WEBHOOK.failed(
            format!("MutatingWebhookConfiguration {named} has no webhook: no pod gets a sidecar"),
            "install Weft's chart again",
        ),
        None => WEBHOOK.failed(
            format!("there is no MutatingWebhookConfiguration {named}: no pod gets a sidecar"),
            "install Weft's chart again",
        ),
    }
}

fn ca_bundle(common: &Common, after: &After) -> Line {
    let secret = format!("Secret {}/{}", common.namespace, cluster::WEBHOOK_SECRET);
    let Some(configuration) = configuration(common) else {
        return BUNDLE.skipped(
            "no webhook is known whose caBundle could be compared: see above",
            "",
        );
    };
    let held = match &after.webhook_secret {
        Ok(Some(held)) => held,
        Ok(None) => {
            return BUNDLE.failed(
                format!("{secret} is not there: the webhook cannot prove who it is"),
                "the control plane makes it where it leads: see above whether one does",
            );
        }
        Err(trouble) => return BUNDLE.untold(&secret, trouble),
    };
    let ca = decoded(&held["data"]["ca.crt"]);
    let trusts = |webhook: &Value| {
        let bundle = decoded(&webhook["clientConfig"]["caBundle"]);
        match (&bundle, &ca) {
            // While it is renewed, there are two.
            (Some(bundle), Some(ca)) => contains(bundle.trim_ascii(), ca.trim_ascii()),
            _ => false,
        }
    };
    let distrusting: Vec<_> = list(&configuration["webhooks"])
        .filter(|webhook| !trusts(webhook))
        .map(|webhook| webhook["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    if distrusting.is_empty() {
        return BUNDLE.ok("its caBundle has the authority of the webhook's certificate");
    }
    BUNDLE
        .failed(
            format!(
                "the caBundle is not ca.crt of {secret}: pods of namespaces that want sidecars are \
                 refused"
            ),
            "the control plane writes it where it leads: see above whether one does, and whether it \
             may patch the configuration",
        )
        .listing(distrusting)
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && all.windows(part.len()).any(|window| window == part)
}

fn endpoints(common: &Common, after: &After) -> Line {
    if configuration(common).is_none() {
        return ENDPOINTS.skipped("no webhook is known that could be reached: see above", "");
    }
    let service = format!("{}/{}", common.namespace, cluster::WEBHOOK_SERVICE);
    match after.slices.as_deref().map(|it| ready_endpoints(it, cluster::WEBHOOK_SERVICE)) {
        Ok(0) => ENDPOINTS.failed(
            format!(
                "Service {service} has no ready endpoint: no pod can be made in namespaces that want \
                 sidecars"
            ),
            format!("kubectl -n {} get pods, and describe the injector's", common.namespace),
        ),
        Ok(count) => ENDPOINTS.ok(format!(
            "Service {service} has {}",
            counted(count, "ready endpoint", "ready endpoints")
        )),
        Err(trouble) => ENDPOINTS.untold("EndpointSlices of the webhook", trouble),
    }
}

/// Pods by full name, for lists.
pub(super) fn names<'a>(pods: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    pods.into_iter().map(full_name).collect()
}
