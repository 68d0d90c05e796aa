//! A pod's description, as far as this kubelet can run it: what it cannot is refused by name.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::machine::{Restart, Role};

/// Kubernetes' own, where a pod does not say.
const GRACE: i64 = 30;

/// A pod to run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// In the order in which they begin.
    pub(super) containers: Vec<Planned>,
    pub(super) restart: Restart,
    pub(super) grace: Duration,
}

/// One of its containers.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) role: Role,
    pub(super) spec: core::Container,
    /// User and group that it says.
    pub(super) user: Option<(u32, u32)>,
}

impl Plan {
    pub(super) fn read(pod: &core::Pod) -> anyhow::Result<Self> {
        let spec = pod.spec.as_ref().context("a pod without spec")?;
        let of_host = [spec.host_network, spec.host_pid, spec.host_ipc];
        ensure!(!of_host.contains(&Some(true)), "nothing of the host's here");
        let shared = spec.share_process_namespace;
        ensure!(shared != Some(true), "no shareProcessNamespace here");
        let before = spec.init_containers.iter().flatten().map(|container| {
            match container.restart_policy.as_deref() {
                Some("Always") => (Role::Sidecar, container),
                _ => (Role::Init, container),
            }
        });
        let mains = spec.containers.iter().map(|it| (Role::Main, it));
        let containers = before.chain(mains).map(|(role, container)| {
            let planned = Planned::read(role, container, spec);
            planned.with_context(|| format!("container {}", container.name))
        });
        Ok(Self {
            containers: containers.collect::<anyhow::Result<_>>()?,
            restart: match spec.restart_policy.as_deref() {
                Some("Never") => Restart::Never,
                Some("OnFailure") => Restart::OnFailure,
                _ => Restart::Always,
            },
            grace: seconds(spec.termination_grace_period_seconds.unwrap_or(GRACE)),
        })
    }
}

impl Planned {
    fn read(role: Role, spec: &core::Container, pod: &core::PodSpec) -> anyhow::Result<Self> {
        can_be_run(spec)?;
        let own = spec.security_context.as_ref();
        let all = pod.security_context.as_ref();
        let user = own
            .and_then(|it| it.run_as_user)
            .or(all.and_then(|it| it.run_as_user));
        let group = own
            .and_then(|it| it.run_as_group)
            .or(all.and_then(|it| it.run_as_group));
        let not_root = own
            .and_then(|it| it.run_as_non_root)
            .or(all.and_then(|it| it.run_as_non_root));
        ensure!(
            not_root != Some(true) || user.is_some_and(|user| user != 0),
            "it has runAsNonRoot, and its image runs as root"
        );
        let user =
            user.map(|user| anyhow::Ok((u32::try_from(user)?, u32::try_from(group.unwrap_or(0))?)));
        Ok(Self {
            role,
            user: user.transpose().context("runAsUser and runAsGroup")?,
            spec: spec.clone(),
        })
    }

    /// A port of the container, by number or by name.
    pub(super) fn port(&self, port: &IntOrString) -> anyhow::Result<u16> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                let mut ports = self.spec.ports.iter().flatten();
                let named = ports.find(|port| port.name.as_ref() == Some(name));
                named.map(|port| port.container_port)
            }
        };
        let number = number.with_context(|| format!("no port {port:?}"))?;
        Ok(u16::try_from(number)?)
    }

    /// What it may ever do; `None`: what it is given.
    pub(super) fn capabilities(&self) -> Option<Vec<String>> {
        let context = self.spec.security_context.as_ref();
        let capabilities = context?.capabilities.as_ref()?;
        let mut dropped = capabilities.drop.iter().flatten();
        let added = capabilities.add.iter().flatten();
        dropped
            .any(|name| name == "ALL")
            .then(|| added.cloned().collect())
    }
}

/// Names what this kubelet would have to leave out.
fn can_be_run(spec: &core::Container) -> anyhow::Result<()> {
    ensure!(spec.env_from.is_none(), "no envFrom here");
    ensure!(spec.working_dir.is_none(), "no workingDir here");
    ensure!(spec.volume_devices.is_none(), "no volumeDevices here");
    let mut mounts = spec.volume_mounts.iter().flatten();
    ensure!(
        mounts.all(|mount| mount.sub_path_expr.is_none()),
        "no subPathExpr here"
    );
    let context = spec.security_context.as_ref();
    let privileged = context.and_then(|context| context.privileged);
    ensure!(privileged != Some(true), "no privileged containers here");
    if let Some(capabilities) = context.and_then(|context| context.capabilities.as_ref()) {
        let mut dropped = capabilities.drop.iter().flatten();
        let is_known = dropped.any(|name| name == "ALL");
        ensure!(is_known, "capabilities only with `drop: [ALL]` here");
    }
    for probe in [
        &spec.startup_probe,
        &spec.readiness_probe,
        &spec.liveness_probe,
    ] {
        let Some(probe) = probe else { continue };
        ensure!(probe.grpc.is_none(), "no gRPC probes here");
        probe.http_get.as_ref().map_or(Ok(()), is_plain)?;
    }
    let hooks = spec.lifecycle.as_ref();
    let hooks = hooks.map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
    for hook in hooks.into_iter().flatten().flatten() {
        hook.http_get.as_ref().map_or(Ok(()), is_plain)?;
    }
    Ok(())
}

fn is_plain(http: &core::HTTPGetAction) -> anyhow::Result<()> {
    let is_plain = http.scheme.as_deref().unwrap_or("HTTP") == "HTTP";
    ensure!(
        is_plain && http.host.is_none(),
        "only plain HTTP to the pod here"
    );
    ensure!(http.http_headers.is_none(), "no headers of probes here");
    Ok(())
}

/// What the API says in whole seconds.
pub(super) fn seconds(number: impl TryInto<u64>) -> Duration {
    Duration::from_secs(number.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn plan(spec: &Value) -> anyhow::Result<Plan> {
        let pod = json!({"metadata": {"name": "web"}, "spec": spec});
        Plan::read(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn containers_come_in_the_order_in_which_they_begin() {
        let plan = plan(&json!({
            "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 5,
            "securityContext": {"runAsUser": 7, "runAsGroup": 8, "runAsNonRoot": true},
            "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 80}]}],
            "initContainers": [
                {"name": "first", "securityContext": {
                    "runAsUser": 0, "runAsNonRoot": false,
                    "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
                }},
                {"name": "sidecar", "restartPolicy": "Always"},
            ],
        }))
        .unwrap();
        let names = plan.containers.iter();
        let names: Vec<_> = names.map(|it| (it.role, &*it.spec.name, it.user)).collect();
        let expected = [
            (Role::Init, "first", Some((0, 8))),
            (Role::Sidecar, "sidecar", Some((7, 8))),
            (Role::Main, "app", Some((7, 8))),
        ];
        assert_eq!(names, expected);
        let [first, _, app] = &plan.containers[..] else {
            unreachable!()
        };
        assert_eq!(first.capabilities().unwrap(), ["NET_ADMIN"]);
        assert!(app.capabilities().is_none());
        let port = |port: &str| app.port(&IntOrString::String(port.to_owned()));
        assert_eq!(port("http").unwrap(), 80);
        port("https").unwrap_err();
        assert_eq!(
            (plan.restart, plan.grace),
            (Restart::OnFailure, Duration::from_secs(5))
        );
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let one = |more: Value| {
            let mut container = more;
            container["name"] = "app".into();
            plan(&json!({"containers": [container]})).unwrap_err()
        };
        let root = one(json!({"securityContext": {"runAsNonRoot": true}}));
        assert!(format!("{root:#}").contains("runAsNonRoot"), "{root:#}");
        for (more, named) in [
            (json!({"envFrom": []}), "envFrom"),
            (
                json!({"securityContext": {"privileged": true}}),
                "privileged",
            ),
            (
                json!({"securityContext": {"capabilities": {"drop": ["CHOWN"]}}}),
                "drop: [ALL]",
            ),
            (json!({"livenessProbe": {"grpc": {"port": 1}}}), "gRPC"),
            (
                json!({"startupProbe": {"httpGet": {"port": 1, "scheme": "HTTPS"}}}),
                "plain HTTP",
            ),
            (
                json!({"lifecycle": {"preStop": {"httpGet": {"port": 1, "host": "x"}}}}),
                "plain HTTP",
            ),
        ] {
            let error = format!("{:#}", one(more));
            assert!(error.contains(named), "{error}");
        }
    }
}
