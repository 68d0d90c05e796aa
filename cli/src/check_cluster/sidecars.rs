//! Pods: those that should have a sidecar and have none, and those with one of another version.

use std::collections::BTreeMap;

use serde_json::Value;
use weft_proto::names::{INJECT_DISABLED, INJECT_ENABLED, INJECT_LABEL, PROXY_CONTAINER};

use super::control_plane::{is_over, names};
use super::facts::{After, Common, full_name, label, list, namespace};
use super::line::{Check, Line, counted};

const MISSING: Check = Check("sidecars", "injected");
const VERSIONS: Check = Check("sidecars", "versions");

pub(super) fn check(common: &Common, after: &After) -> Vec<Line> {
    vec![missing(common, after), versions(after)]
}

fn sidecar(pod: &Value) -> Option<&Value> {
    let spec = &pod["spec"];
    let mut all = list(&spec["initContainers"]).chain(list(&spec["containers"]));
    all.find(|container| container["name"] == PROXY_CONTAINER)
}

/// Whether the webhook gives a pod a sidecar: the pod's own word wins.
fn wants_sidecar(pod: &Value, injected: &[&str]) -> bool {
    if pod["spec"]["hostNetwork"] == true || is_over(pod) {
        return false;
    }
    match label(pod, INJECT_LABEL) {
        INJECT_ENABLED => true,
        INJECT_DISABLED => false,
        _ => injected.contains(&namespace(pod)),
    }
}

fn missing(common: &Common, after: &After) -> Line {
    let pods = match (&after.pods, &common.namespaces) {
        (Ok(pods), Ok(_)) => pods,
        (Err(trouble), _) => return MISSING.untold("pods", trouble),
        (_, Err(trouble)) => return MISSING.untold("namespaces", trouble),
    };
    let injected = common.injected();
    let wanting: Vec<_> = pods
        .iter()
        .filter(|pod| wants_sidecar(pod, &injected))
        .collect();
    let without: Vec<_> = wanting
        .iter()
        .filter(|pod| sidecar(pod).is_none())
        .copied()
        .collect();
    if without.is_empty() {
        return MISSING.ok(match wanting.len() {
            0 => "no pod is to have a sidecar".to_owned(),
            1 => "the one pod that is to have a sidecar has one".to_owned(),
            count => format!("all {count} pods that are to have a sidecar have one"),
        });
    }
    MISSING
        .warning(
            format!(
                "{} to have a sidecar and {} none: nothing is enforced for them",
                counted(without.len(), "pod is", "pods are"),
                if without.len() == 1 { "has" } else { "have" },
            ),
            "pods get one when they are made: kubectl -n NAMESPACE rollout restart deployment; where \
             that does not help, see the webhook above",
        )
        .listing(names(without))
}

/// What an image's tag says; empty where it says nothing.
fn tag(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    let file = image.rsplit('/').next().unwrap_or_default();
    file.split_once(':').map_or("", |(_, tag)| tag)
}

fn versions(after: &After) -> Line {
    let pods = match &after.pods {
        Ok(pods) => pods,
        Err(trouble) => return VERSIONS.untold("pods", trouble),
    };
    const OWN: &str = env!("CARGO_PKG_VERSION");
    let mut others: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    let mut same = 0;
    for pod in pods.iter().filter(|pod| !is_over(pod)) {
        let Some(sidecar) = sidecar(pod) else {
            continue;
        };
        match tag(sidecar["image"].as_str().unwrap_or_default()) {
            tag if tag.trim_start_matches('v') == OWN => same += 1,
            tag => others.entry(tag).or_default().push(pod),
        }
    }
    if others.is_empty() {
        return VERSIONS.ok(match same {
            0 => "no sidecar runs".to_owned(),
            1 => format!("the one sidecar is of version {OWN}"),
            count => format!("all {count} sidecars are of version {OWN}"),
        });
    }
    let count = others.values().map(Vec::len).sum();
    let listed = others.into_iter().flat_map(|(tag, pods)| {
        let tag = if tag.is_empty() { "no tag" } else { tag };
        pods.into_iter()
            .map(move |pod| format!("{}: {tag}", full_name(pod)))
    });
    VERSIONS
        .warning(
            format!(
                "{} not of version {OWN}, which this program is of",
                counted(count, "sidecar is", "sidecars are")
            ),
            "restart their pods; up to two minor versions older ones work until then",
        )
        .listing(listed)
}
