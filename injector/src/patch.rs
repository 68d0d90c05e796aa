//! What is added to a pod: operations of JSON Patch (RFC 6902).
//!
//! Lists are added to and never replaced, so that what other webhooks put into them stays. The
//! operations are in an order in which each one's path is right: probes are rewritten before the
//! containers in front of them shift their places.
//!
//! A native sidecar is an init container that restarts always: it is ready before the application's own
//! init containers run, ends after the application, and does not keep a Job from completing.
//!
//! A legacy one is the pod's first container. A kubelet starts containers in their order, and the next
//! one when the `postStart` hook of the one before has ended: so the application finds a sidecar that
//! is ready. The pod's own init containers run while there is none, so that the redirect comes after
//! them.

mod containers;
mod probes;

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use weft_proto::names::{INJECTED_ANNOTATION, cluster};

use crate::annotations::Config;
use crate::json as look;
use crate::settings::{Settings, SidecarMode};
use crate::values::{MAX_DRAIN, time_text};

/// Where a token is in the sidecar's container.
const TOKEN_DIR: &str = "/var/run/secrets/weft.dev/token";
/// Its file there.
const TOKEN_FILE: &str = "token";
/// Where the trust bundle is in the sidecar's container.
const TRUST_BUNDLE_DIR: &str = "/var/run/secrets/weft.dev/trust-bundle";
/// The container that kubectl's `logs` and `exec` mean where none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Seconds for which a token is good; the kubelet has a new one after 80 % of it.
const TOKEN_SECONDS: u32 = 86_400;
/// Kubernetes' own, where a pod does not say.
const DEFAULT_GRACE: u64 = 30;
/// What a drain leaves of the grace period at most.
const MARGIN: u64 = 5;

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// Puts `value` at `path`: into a list before what is there, or at its end with `-`.
    Add {
        /// RFC 6901.
        path: String,
        /// What.
        value: Value,
    },
    /// Takes away what is at `path`.
    Remove {
        /// RFC 6901.
        path: String,
    },
}

impl Operation {
    /// The same for a pod that is at `pointer` in a whole.
    pub fn under(self, pointer: &str) -> Self {
        match self {
            Self::Add { path, value } => Self::Add {
                path: format!("{pointer}{path}"),
                value,
            },
            Self::Remove { path } => Self::Remove {
                path: format!("{pointer}{path}"),
            },
        }
    }
}

/// What is added to `pod`, which was decided to get a sidecar, and warnings about what the sidecar
/// does not do for it.
pub fn patch(settings: &Settings, config: &Config, pod: &Value) -> (Vec<Operation>, Vec<String>) {
    let mut warnings = Vec::new();
    let mut operations = probes::rewrite(config, pod, &mut warnings);
    operations.extend(sleeps(config, pod, &mut warnings));

    let drain = config.drain_timeout.unwrap_or_else(|| drain(grace(pod)));
    if config.drain_timeout.is_some() && drain > Duration::from_secs(grace(pod)) {
        warnings.push(format!(
            "the sidecar's drain-timeout {} is longer than the pod's grace period of {} s, which \
             ends it first",
            time_text(drain),
            grace(pod)
        ));
    }
    let declared = declared_ports(config, pod, &mut warnings);
    let mut init = containers::init(config);
    let mut sidecar = containers::sidecar(settings, config, &declared, drain);
    if let Some(policy) = settings.image_pull_policy {
        for container in [&mut init, &mut sidecar] {
            container["imagePullPolicy"] = json!(policy);
        }
    }
    match settings.sidecar_mode {
        SidecarMode::Native => operations.extend(native(pod, init, sidecar)),
        SidecarMode::Legacy => operations.extend(legacy(pod, init, sidecar, &mut warnings)),
    }
    let volumes = volumes();
    if pod.pointer("/spec/volumes").is_some_and(Value::is_array) {
        for volume in volumes {
            operations.push(add("/spec/volumes/-", volume));
        }
    } else {
        operations.push(add("/spec/volumes", Value::Array(volumes)));
    }
    operations.extend(annotate(settings, pod));
    (operations, warnings)
}

/// Both before all other init containers.
fn native(pod: &Value, init: Value, sidecar: Value) -> Vec<Operation> {
    let ours = vec![init, sidecar];
    if !pod
        .pointer("/spec/initContainers")
        .is_some_and(Value::is_array)
    {
        return vec![add("/spec/initContainers", Value::Array(ours))];
    }
    let places = ours.into_iter().enumerate();
    places
        .map(|(at, container)| add(format!("/spec/initContainers/{at}"), container))
        .collect()
}

/// The redirect after all init containers, the sidecar before all containers.
fn legacy(pod: &Value, init: Value, sidecar: Value, warnings: &mut Vec<String>) -> Vec<Operation> {
    let before: Vec<_> = look::places(pod, "/spec/initContainers")
        .map(|(_, container)| look::name(container))
        .collect();
    if !before.is_empty() {
        warnings.push(format!(
            "init containers start before a legacy sidecar does, and are outside of the mesh until \
             then: {}",
            before.join(", ")
        ));
    }
    let init = if pod
        .pointer("/spec/initContainers")
        .is_some_and(Value::is_array)
    {
        add("/spec/initContainers/-", init)
    } else {
        add("/spec/initContainers", json!([init]))
    };
    vec![init, add("/spec/containers/0", sidecar)]
}

/// The pod's grace period in seconds.
pub(crate) fn grace(pod: &Value) -> u64 {
    pod.pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_u64)
        .unwrap_or(DEFAULT_GRACE)
}

/// A little less than the grace period, so that the sidecar ends by itself.
fn drain(grace: u64) -> Duration {
    let margin = (grace / 6).clamp(1, MARGIN);
    match grace.saturating_sub(margin) {
        0 => Duration::from_millis(500),
        seconds => Duration::from_secs(seconds).min(MAX_DRAIN),
    }
}

/// TCP ports that the pod's containers declare and the sidecar intercepts, in order, each once.
fn declared_ports(config: &Config, pod: &Value, warnings: &mut Vec<String>) -> Vec<u16> {
    let mut declared = Vec::new();
    for (_, container) in look::running(pod) {
        for port in look::list(container, "/ports") {
            let Some(number) = look::port_number(port) else {
                continue;
            };
            if !look::is_tcp(port) {
                warnings.push(format!(
                    "port {number} of container {} is {}, which the sidecar leaves alone: no mutual \
                     TLS, policy or metrics there",
                    look::name(container),
                    look::text(port, "/protocol").unwrap_or("not TCP")
                ));
            } else if !declared.contains(&number) && !config.skip_inbound_ports.contains(&number) {
                declared.push(number);
            }
        }
    }
    declared
}

fn sleeps(config: &Config, pod: &Value, warnings: &mut Vec<String>) -> Vec<Operation> {
    let Some(sleep) = config.pre_stop_sleep else {
        return Vec::new();
    };
    let handler = json!({"sleep": {"seconds": sleep.as_secs()}});
    let mut operations = Vec::new();
    for (place, container) in look::places(pod, "/spec/containers") {
        let lifecycle = container.get("lifecycle").filter(|value| value.is_object());
        match lifecycle {
            None => operations.push(add(
                format!("{place}/lifecycle"),
                json!({"preStop": handler}),
            )),
            Some(lifecycle) if look::is_there(lifecycle.get("preStop")) => {
                warnings.push(format!(
                    "container {} keeps its own preStop instead of pre-stop-sleep",
                    look::name(container)
                ));
            }
            Some(_) => operations.push(add(format!("{place}/lifecycle/preStop"), handler.clone())),
        }
    }
    operations
}

fn volumes() -> Vec<Value> {
    vec![
        json!({
            "name": cluster::TOKEN_VOLUME,
            "projected": {"sources": [{"serviceAccountToken": {
                "audience": cluster::TOKEN_AUDIENCE,
                "expirationSeconds": TOKEN_SECONDS,
                "path": TOKEN_FILE,
            }}]},
        }),
        json!({
            "name": cluster::TRUST_BUNDLE_VOLUME,
            "configMap": {"name": cluster::TRUST_BUNDLE},
        }),
    ]
}

/// The version, and with a legacy sidecar which container kubectl means where none is named: without
/// it, that would be the first.
fn annotate(settings: &Settings, pod: &Value) -> Vec<Operation> {
    let mut ours = vec![(INJECTED_ANNOTATION, env!("CARGO_PKG_VERSION"))];
    let said = pod.pointer("/metadata/annotations");
    let is_said = said.is_some_and(|said| look::is_there(said.get(DEFAULT_CONTAINER)));
    let first = look::places(pod, "/spec/containers").next();
    if settings.sidecar_mode == SidecarMode::Legacy
        && !is_said
        && let Some((_, first)) = first
    {
        ours.push((DEFAULT_CONTAINER, look::name(first)));
    }
    if said.is_some_and(Value::is_object) {
        return ours
            .into_iter()
            .map(|(key, value)| {
                let key = key.replace('~', "~0").replace('/', "~1");
                add(format!("/metadata/annotations/{key}"), json!(value))
            })
            .collect();
    }
    let annotations: serde_json::Map<_, _> = ours
        .into_iter()
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect();
    if pod.get("metadata").is_some_and(Value::is_object) {
        vec![add("/metadata/annotations", Value::Object(annotations))]
    } else {
        vec![add("/metadata", json!({"annotations": annotations}))]
    }
}

fn add(path: impl Into<String>, value: Value) -> Operation {
    Operation::Add {
        path: path.into(),
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_shorter_than_the_grace_period_wherever_that_can_be() {
        for grace in 1..=4_000 {
            let drain = drain(grace);
            assert!(drain < Duration::from_secs(grace), "{grace}: {drain:?}");
            assert!(drain <= MAX_DRAIN && !drain.is_zero(), "{grace}: {drain:?}");
        }
        assert_eq!(drain(30), Duration::from_secs(25));
        assert_eq!(drain(1), Duration::from_millis(500));
    }

    #[test]
    fn operations_are_written_as_the_standard_has_them() {
        let remove = Operation::Remove {
            path: "/a".to_owned(),
        };
        let written =
            serde_json::to_value([add("/b", json!(1)).under("/x"), remove]).expect("plain values");
        let expected = json!([
            {"op": "add", "path": "/x/b", "value": 1},
            {"op": "remove", "path": "/a"},
        ]);
        assert_eq!(written, expected);
    }
}
