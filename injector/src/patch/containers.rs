//! The two containers.

use std::fmt::Display;
use std::time::Duration;

use serde_json::{Value, json};
use weft_proto::names::{INIT_CONTAINER, PROXY_CONTAINER, PROXY_UID, cluster, env, ports};

use super::{TOKEN_DIR, TOKEN_FILE, TRUST_BUNDLE_DIR};
use crate::annotations::Config;
use crate::settings::{Resources, Settings, SidecarMode};
use crate::values::{Quantity, time_text};

/// The program in the image.
const PROGRAM: &str = "weft-proxy";
/// What people call an application.
const NAME_LABEL: &str = "metadata.labels['app.kubernetes.io/name']";
/// Seconds until a sidecar that has not become ready is started again: it tries everything again
/// by itself, so that this is for what nobody thought of.
const STARTUP_SECONDS: u32 = 120;

/// The init container: redirects the pod's connections, as root and with `NET_ADMIN` only. A process
/// of another user would get no capability from Kubernetes.
pub(super) fn init(config: &Config) -> Value {
    let mut command = vec![PROGRAM.to_owned(), "init".to_owned()];
    let lists = [
        ("--skip-inbound-ports", joined(&config.skip_inbound_ports)),
        ("--skip-outbound-ports", joined(&config.skip_outbound_ports)),
        ("--skip-subnets", joined(&config.skip_subnets)),
    ];
    for (flag, list) in lists {
        if !list.is_empty() {
            command.push(format!("{flag}={list}"));
        }
    }
    json!({
        "name": INIT_CONTAINER,
        "image": config.image,
        "command": command,
        "resources": {
            "requests": {"cpu": "10m", "memory": "10Mi"},
            "limits": {"memory": "64Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

/// The sidecar: what Kubernetes' Pod Security Standard `restricted` asks for.
pub(super) fn sidecar(
    settings: &Settings,
    config: &Config,
    declared: &[u16],
    drain: Duration,
) -> Value {
    let mut variables = vec![
        field(env::WORKLOAD, "metadata.name"),
        field(env::NAMESPACE, "metadata.namespace"),
        field(env::WORKLOAD_ADDRESSES, "status.podIPs"),
        variable(env::CONTROL_PLANE_ADDR, &settings.control_plane_addr),
        variable(env::CONTROL_PLANE_ID, settings.control_plane_id.as_str()),
        variable(env::TOKEN_FILE, &format!("{TOKEN_DIR}/{TOKEN_FILE}")),
        variable(
            env::TRUST_BUNDLE_FILE,
            &format!("{TRUST_BUNDLE_DIR}/{}", cluster::TRUST_BUNDLE_KEY),
        ),
    ];
    if !declared.is_empty() {
        variables.push(variable(env::INBOUND_PORTS, &joined(declared)));
    }
    variables.extend([
        variable(env::DRAIN_TIMEOUT, &time_text(drain)),
        variable(env::LOG_LEVEL, &config.log_level),
    ]);
    let limits = settings.limits.iter();
    variables.extend(limits.map(|(name, value)| variable(name, value)));
    if !settings.tracing.is_empty() {
        let tracing = settings.tracing.iter();
        variables.extend(tracing.map(|(name, value)| variable(name, value)));
        // What people call the application; empty, and so not set, without the label.
        variables.push(field(env::TRACE_SERVICE, NAME_LABEL));
    }
    if let Some(label) = &config.metrics_header_label {
        variables.push(variable(env::METRICS_HEADER_LABEL, label));
    }
    if let Some(values) = config.metrics_header_values {
        variables.push(variable(env::METRICS_HEADER_VALUES, &values.to_string()));
    }
    if config.appends_forwarded_for {
        variables.push(variable(env::FORWARDED_FOR, "append"));
    }
    if settings.sidecar_mode == SidecarMode::Legacy {
        variables.push(variable(env::SIDECAR_MODE, settings.sidecar_mode.as_str()));
    }
    let mut sidecar = json!({
        "name": PROXY_CONTAINER,
        "image": config.image,
        "command": [PROGRAM],
        "env": variables,
        "ports": [{"containerPort": ports::ADMIN, "name": "weft-admin", "protocol": "TCP"}],
        // And no readinessProbe in either mode: what was ready once stays it until the container
        // ends, so that one could only take the pod out of its services for a late answer.
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": ports::ADMIN},
            "periodSeconds": 1,
            "failureThreshold": STARTUP_SECONDS,
        },
        "resources": resources(&config.resources),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "runAsUser": PROXY_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"mountPath": TOKEN_DIR, "name": cluster::TOKEN_VOLUME, "readOnly": true},
            {"mountPath": TRUST_BUNDLE_DIR, "name": cluster::TRUST_BUNDLE_VOLUME, "readOnly": true},
        ],
    });
    match settings.sidecar_mode {
        SidecarMode::Native => sidecar["restartPolicy"] = json!("Always"),
        SidecarMode::Legacy => sidecar["lifecycle"] = lifecycle(config),
    }
    sidecar
}

/// What makes the pod's first container one that the others begin after. A `pre-stop-sleep` is the
/// sidecar's as well, as it is told to end together with the others.
fn lifecycle(config: &Config) -> Value {
    let mut lifecycle = json!({"postStart": {"exec": {"command": [PROGRAM, "await"]}}});
    if let Some(sleep) = config.pre_stop_sleep {
        lifecycle["preStop"] = json!({"sleep": {"seconds": sleep.as_secs()}});
    }
    lifecycle
}

fn resources(resources: &Resources) -> Value {
    let amounts = |cpu: &Option<Quantity>, memory: &Option<Quantity>| {
        let named = [("cpu", cpu), ("memory", memory)];
        let said = named.into_iter().filter_map(|(name, amount)| {
            amount
                .as_ref()
                .map(|amount| (name.to_owned(), json!(amount)))
        });
        Value::Object(said.collect())
    };
    let parts = [
        (
            "limits",
            amounts(&resources.cpu_limit, &resources.memory_limit),
        ),
        (
            "requests",
            amounts(&resources.cpu_request, &resources.memory_request),
        ),
    ];
    let said = parts
        .into_iter()
        .filter(|(_, amounts)| amounts.as_object().is_some_and(|map| !map.is_empty()));
    Value::Object(
        said.map(|(name, amounts)| (name.to_owned(), amounts))
            .collect(),
    )
}

fn variable(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

fn joined<T: Display>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    items.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations;

    #[test]
    fn who_exports_traces_says_whose_they_are() {
        let image = Settings::default_image();
        let mut settings = Settings::new("weft", "cluster.local", image).expect("good settings");
        let pod = json!({});
        let read = annotations::read(&settings, std::iter::empty(), &pod);
        let (config, _) = read.expect("nothing is said");
        let named = |settings: &Settings| {
            let sidecar = sidecar(settings, &config, &[], Duration::from_secs(5));
            let variables = sidecar["env"].as_array().expect("variables").clone();
            let of_traces = variables.into_iter().filter(|one| {
                let name = one["name"].as_str().unwrap_or_default();
                name.starts_with("WEFT_TRACE_")
            });
            of_traces.collect::<Vec<_>>()
        };
        assert_eq!(named(&settings), [json!(null); 0]);
        settings.tracing = vec![(env::TRACE_ENDPOINT, "http://collector:4317".to_owned())];
        let expected = [
            json!({"name": "WEFT_TRACE_ENDPOINT", "value": "http://collector:4317"}),
            field(
                "WEFT_TRACE_SERVICE",
                "metadata.labels['app.kubernetes.io/name']",
            ),
        ];
        assert_eq!(named(&settings), expected);
    }

    #[test]
    fn limits_are_variables_of_the_sidecar() {
        let image = Settings::default_image();
        let mut settings = Settings::new("weft", "cluster.local", image).expect("good settings");
        settings.limits = vec![(env::MAX_REQUESTS, "7".to_owned())];
        let pod = json!({});
        let read = annotations::read(&settings, std::iter::empty(), &pod);
        let (config, _) = read.expect("nothing is said");
        let sidecar = sidecar(&settings, &config, &[], Duration::from_secs(5));
        let variables = sidecar["env"].as_array().expect("variables");
        assert!(variables.contains(&json!({"name": "WEFT_MAX_REQUESTS", "value": "7"})));
    }
}
