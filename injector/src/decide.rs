//! Whether a pod gets a sidecar.
//!
//! The label [`INJECT_LABEL`] of the pod goes over that of its namespace; without either, and with
//! any value that is not understood, nothing is asked for. What was asked for and cannot be is either
//! *skipped*, where the pod runs well without a sidecar, or *refused*, where it would run and not do
//! what somebody thinks: a process with the sidecar's uid would get around the mesh unseen.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;
use weft_proto::names::cluster::{TOKEN_VOLUME, TRUST_BUNDLE_VOLUME};
use weft_proto::names::{
    INIT_CONTAINER, INJECT_DISABLED, INJECT_ENABLED, INJECT_LABEL, PROXY_CONTAINER, PROXY_UID,
    ports,
};

use crate::settings::Settings;
use crate::{Refusal, json};

/// Annotation of pods that a kubelet runs from files; the API server has only a mirror of them.
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";
/// Containers of other meshes' sidecars: Istio, Linkerd, Kuma, Consul (newer and older), NGINX.
pub const OTHER_SIDECARS: [&str; 6] = [
    "istio-proxy",
    "linkerd-proxy",
    "kuma-sidecar",
    "consul-dataplane",
    "envoy-sidecar",
    "nginx-mesh-sidecar",
];
/// Where the sidecar listens.
const OUR_PORTS: [u16; 3] = [ports::OUTBOUND, ports::INBOUND, ports::ADMIN];

/// What a pod's namespace is called and says.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Whether a pod gets a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It does.
    Inject,
    /// It does not, and that is well.
    Skip(Skip),
    /// It cannot, and must not run without; all reasons.
    Refuse(Vec<Refusal>),
}

/// Why a pod gets no sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skip {
    /// It has one already.
    AlreadyInjected,
    /// Its label says so, or its namespace's.
    Disabled,
    /// It uses its node's network, which is not its own to redirect.
    HostNetwork,
    /// It is run by a kubelet from a file.
    MirrorPod,
    /// Nobody asked for one.
    NotAsked,
    /// It has another mesh's sidecar, in the container of this name.
    OtherMesh(String),
    /// Its namespace is Kubernetes' own or the mesh's.
    SystemNamespace(String),
    /// It runs on Windows.
    Windows,
}

impl Skip {
    /// One word, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::AlreadyInjected => "already_injected",
            Self::Disabled => "disabled",
            Self::HostNetwork => "host_network",
            Self::MirrorPod => "mirror_pod",
            Self::NotAsked => "not_asked",
            Self::OtherMesh(_) => "other_mesh",
            Self::SystemNamespace(_) => "system_namespace",
            Self::Windows => "windows",
        }
    }

    /// Whether somebody asked for a sidecar and does not get it.
    pub fn is_surprise(&self) -> bool {
        !matches!(
            self,
            Self::AlreadyInjected | Self::Disabled | Self::NotAsked
        )
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyInjected => f.write_str("the pod has a sidecar already"),
            Self::Disabled => write!(f, "label {INJECT_LABEL} says {INJECT_DISABLED}"),
            Self::HostNetwork => f.write_str(
                "the pod uses its node's network (hostNetwork), which a sidecar cannot redirect",
            ),
            Self::MirrorPod => f.write_str("the pod is run by a kubelet from a file (mirror pod)"),
            Self::NotAsked => write!(
                f,
                "neither the pod nor its namespace has label {INJECT_LABEL}={INJECT_ENABLED}"
            ),
            Self::OtherMesh(name) => {
                write!(f, "container {name} is another mesh's sidecar")
            }
            Self::SystemNamespace(name) => {
                write!(f, "pods of namespace {name} never get a sidecar")
            }
            Self::Windows => f.write_str("the pod runs on Windows"),
        }
    }
}

/// Whether `pod` of `namespace` gets a sidecar, and warnings about its labels.
pub fn decide(settings: &Settings, namespace: &Namespace, pod: &Value) -> (Decision, Vec<String>) {
    let mut warnings = Vec::new();
    let of_pod = json::texts(pod, "/metadata/labels")
        .find(|(key, _)| *key == INJECT_LABEL)
        .map(|(_, value)| value);
    let of_namespace = namespace.labels.get(INJECT_LABEL).map(String::as_str);
    let pod_asks = asks(of_pod, "pod", &mut warnings);
    let namespace_asks = asks(of_namespace, "namespace", &mut warnings);
    let decision = match pod_asks.or(namespace_asks) {
        None => Decision::Skip(Skip::NotAsked),
        Some(false) => Decision::Skip(Skip::Disabled),
        Some(true) => match skip(settings, namespace, pod) {
            Some(skip) => Decision::Skip(skip),
            None => match refusals(pod) {
                wrong if wrong.is_empty() => Decision::Inject,
                wrong => Decision::Refuse(wrong),
            },
        },
    };
    (decision, warnings)
}

fn asks(label: Option<&str>, whose: &str, warnings: &mut Vec<String>) -> Option<bool> {
    match label? {
        INJECT_ENABLED => Some(true),
        INJECT_DISABLED => Some(false),
        other => {
            warnings.push(format!(
                "label {INJECT_LABEL} of the {whose} is {other:?} and counts as not there; it may be \
                 {INJECT_ENABLED} or {INJECT_DISABLED}"
            ));
            None
        }
    }
}

fn skip(settings: &Settings, namespace: &Namespace, pod: &Value) -> Option<Skip> {
    let has = |names: &[&str]| {
        let mut containers = json::containers(pod).map(|(_, container)| json::name(container));
        containers.find(|name| names.contains(name))
    };
    if has(&[PROXY_CONTAINER]).is_some() {
        return Some(Skip::AlreadyInjected);
    }
    if json::is_there(pod.pointer(MIRROR)) {
        return Some(Skip::MirrorPod);
    }
    if pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        return Some(Skip::HostNetwork);
    }
    if settings.system_namespaces.contains(&namespace.name) {
        return Some(Skip::SystemNamespace(namespace.name.clone()));
    }
    let systems = [
        "/spec/os/name",
        "/spec/nodeSelector/kubernetes.io~1os",
        "/spec/nodeSelector/beta.kubernetes.io~1os",
    ];
    if systems
        .iter()
        .any(|place| json::text(pod, place) == Some("windows"))
    {
        return Some(Skip::Windows);
    }
    has(&OTHER_SIDECARS).map(|name| Skip::OtherMesh(name.to_owned()))
}

fn refusals(pod: &Value) -> Vec<Refusal> {
    let mut wrong = malformed(pod);
    let uid = Value::from(PROXY_UID);
    let of_pod = pod.pointer("/spec/securityContext/runAsUser");
    for (_, container) in json::containers(pod) {
        let name = json::name(container);
        let own = container.pointer("/securityContext/runAsUser");
        let runs_as = own.filter(|own| !own.is_null()).or(of_pod);
        if runs_as == Some(&uid) {
            wrong.push(Refusal::new(
                format!(
                    "container {name} runs as uid {PROXY_UID}, the sidecar's own, whose connections \
                     are not redirected"
                ),
                "set another securityContext.runAsUser",
            ));
        }
        for port in json::list(container, "/ports") {
            let number = json::port_number(port).filter(|number| OUR_PORTS.contains(number));
            if let Some(number) = number
                && json::is_tcp(port)
            {
                wrong.push(Refusal::new(
                    format!("container {name} declares port {number}, where the sidecar listens"),
                    "let the application listen at another port",
                ));
            }
        }
        if name == INIT_CONTAINER {
            wrong.push(Refusal::new(
                format!("a container is named {name} and there is none named {PROXY_CONTAINER}"),
                "rename it, or take it out where it is left over",
            ));
        }
    }
    for volume in json::list(pod, "/spec/volumes") {
        let name = json::name(volume);
        if [TOKEN_VOLUME, TRUST_BUNDLE_VOLUME].contains(&name) {
            wrong.push(Refusal::new(
                format!("a volume is named {name}, as the sidecar's is"),
                "rename it, or take it out where it is left over",
            ));
        }
    }
    wrong
}

/// What a patch could not be applied to.
fn malformed(pod: &Value) -> Vec<Refusal> {
    let mut wrong = Vec::new();
    if json::list(pod, "/spec/containers").is_empty() {
        wrong.push(Refusal::new(
            "spec.containers is no list with containers",
            "give the pod a container",
        ));
    }
    let lists = ["/spec/initContainers", "/spec/volumes"].map(|place| (place, true));
    let objects = ["/metadata", "/metadata/annotations"].map(|place| (place, false));
    for (place, is_list) in lists.into_iter().chain(objects) {
        let value = pod.pointer(place).filter(|value| !value.is_null());
        let fits = value.is_none_or(|value| {
            if is_list {
                value.is_array()
            } else {
                value.is_object()
            }
        });
        if !fits {
            wrong.push(Refusal::new(
                format!("{} is of a wrong type", place[1..].replace('/', ".")),
                if is_list {
                    "make it a list"
                } else {
                    "make it a mapping"
                },
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests;
