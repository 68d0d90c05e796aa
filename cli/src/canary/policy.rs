//! A split out of a policy's manifest, and routes that hold weights instead.

use serde_json::Value;
use weft_control_plane::policy::{Split, StickyType, TargetKind, TrafficPolicySpec, WhenEmpty};

use super::Of;
use super::model::{Canary, Programmed, Proxies, Side, State};

/// The split of a manifest that targets the service; `None` where it has none or is for something else.
/// `Err` where it is no policy.
pub(super) fn canary(of: &Of, name: &str, spec: &Value) -> Result<Option<Canary>, String> {
    let spec: TrafficPolicySpec = serde_json::from_value(spec.clone())
        .map_err(|error| format!("the policy {name} is not one of this version: {error}"))?;
    let mut targets = spec.target_refs.iter();
    let target = targets.find(|it| it.kind == TargetKind::Service && it.name == of.service);
    let (Some(target), Some(split)) = (target, spec.split) else {
        return Ok(None);
    };
    if split.backends.is_empty() || of.policy.as_ref().is_some_and(|only| only != name) {
        return Ok(None);
    }
    Ok(Some(Canary {
        namespace: of.namespace.clone(),
        service: of.service.clone(),
        section: target.section_name.clone(),
        policy: name.to_owned(),
        place: None,
        sticky: sticky(&split),
        when_empty: match split.when_empty {
            WhenEmpty::Fail => "Fail",
            WhenEmpty::NextBackend => "NextBackend",
        }
        .to_owned(),
        mirror: split.mirror.map(|mirror| mirror.name),
        backends: split
            .backends
            .into_iter()
            .map(|side| Side {
                forced: !side.matches.is_empty(),
                name: side.name,
                weight: side.weight,
                endpoints: None,
            })
            .collect(),
        proxies: None,
        programmed: None,
        routes: Vec::new(),
    }))
}

fn sticky(split: &Split) -> Option<String> {
    let sticky = split.sticky.as_ref()?;
    let name = sticky.name.as_deref();
    Some(match sticky.kind {
        StickyType::Cookie => format!("cookie {}", name.unwrap_or("weft-canary")),
        StickyType::Header => format!("header {}", name.unwrap_or_default()),
        StickyType::ClientIdentity => "the calling workload".to_owned(),
    })
}

/// What the control plane says of a policy of this generation: how many sidecars have it, and how far it is.
/// Nothing where it has not said anything of this generation yet.
pub(super) fn said(status: &Value, generation: i64) -> (Option<Proxies>, Option<Programmed>) {
    let conditions = status["conditions"].as_array();
    let condition = |kind: &str| {
        let mut found = conditions.into_iter().flatten();
        found.find(|it| {
            let seen = it["observedGeneration"].as_i64();
            it["type"] == kind && seen.is_some_and(|seen| seen >= generation)
        })
    };
    // What is not accepted is programmed nowhere.
    let refused = condition("Accepted").filter(|it| it["status"] == "False");
    let Some(found) = refused.or_else(|| condition("Programmed")) else {
        return (None, None);
    };
    let text = |name: &str| found[name].as_str().unwrap_or_default();
    let state = match (text("status"), text("reason")) {
        ("True", _) => State::Everywhere,
        ("Unknown", "NoSidecars") => State::NoSidecars,
        (_, "Reconciling") => State::OnItsWay,
        _ => State::Refused,
    };
    let count = |name: &str| status["proxies"][name].as_u64();
    let proxies = count("acknowledged").zip(count("total"));
    let proxies = proxies.map(|(acknowledged, total)| Proxies {
        acknowledged,
        total,
    });
    let message = format!("{}: {}", text("reason"), text("message"));
    (proxies, Some(Programmed { state, message }))
}

/// Whether a route's manifest has the weights of the service: it is attached to it, and says where requests
/// go.
pub(super) fn holds(of: &Of, namespace: &str, route: &Value) -> bool {
    let parents = route["spec"]["parentRefs"].as_array();
    let is_service = |parent: &&Value| {
        let group = parent["group"].as_str();
        parent["kind"] == "Service"
            && matches!(group, Some("" | "core"))
            && parent["name"] == *of.service
            && parent["namespace"].as_str().unwrap_or(namespace) == of.namespace
    };
    namespace == of.namespace && parents.into_iter().flatten().any(|it| is_service(&it))
}

/// The one of several, or why it is not one.
pub(super) fn only<T>(of: &Of, mut found: Vec<T>, name: impl Fn(&T) -> &str) -> Result<T, String> {
    let service = format!("{}/{}", of.namespace, of.service);
    if found.len() > 1 {
        let names: Vec<&str> = found.iter().map(name).collect();
        return Err(format!(
            "several policies have a split for {service}: {}; say which by --policy",
            names.join(", ")
        ));
    }
    found.pop().ok_or_else(|| match &of.policy {
        Some(policy) => format!(
            "there is no TrafficPolicy {policy} in {} with split.backends for the service {}",
            of.namespace, of.service
        ),
        None => format!("no TrafficPolicy has split.backends for the service {service}"),
    })
}
