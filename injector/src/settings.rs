//! What holds for all pods, until a namespace's or a pod's annotations say otherwise.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::Serialize;
use weft_proto::names::{self, cluster, ports};
use weft_proto::spiffe::SpiffeId;

use crate::Refusal;
use crate::values::{Image, Quantity, is_label};

/// Namespaces of Kubernetes itself, whose pods never get a sidecar.
pub const SYSTEM_NAMESPACES: [&str; 3] = ["kube-node-lease", "kube-public", "kube-system"];

/// What holds for all pods.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of the sidecar and the init container.
    pub image: Image,
    /// When that image is pulled; the cluster's default where nothing is said.
    pub image_pull_policy: Option<PullPolicy>,
    /// `host:port` of the control plane.
    pub control_plane_addr: String,
    /// Who the control plane must prove to be.
    pub control_plane_id: SpiffeId,
    /// What a sidecar asks for and may use.
    pub resources: Resources,
    /// How much a sidecar logs.
    pub log_level: String,
    /// What a sidecar bears in all, where that is not the default: variables and their values.
    pub limits: Vec<(&'static str, String)>,
    /// Where spans go, and which: variables of the sidecar and their values. Nowhere where it is empty.
    pub tracing: Vec<(&'static str, String)>,
    /// Where applications connect to directly, everywhere.
    pub skip_subnets: Vec<IpNet>,
    /// Namespaces whose pods never get a sidecar.
    pub system_namespaces: BTreeSet<String>,
    /// What kind of container a sidecar is.
    pub sidecar_mode: SidecarMode,
}

/// What kind of container a sidecar is. Neither is chosen by itself: a manifest does not say which
/// version its cluster has, and nodes may be older than their API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SidecarMode {
    /// An init container that restarts always (Kubernetes 1.29): ready before the pod's own init
    /// containers, ends after the application.
    #[default]
    Native,
    /// The pod's first container, for older clusters: the others start when it is ready, and all are
    /// told to end at once.
    Legacy,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum PullPolicy {
    /// Whenever a container starts.
    Always,
    /// Where the node does not have it.
    IfNotPresent,
    /// Never: it is on every node.
    Never,
}

/// What a container asks for and may use; `None` where nothing is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// CPU that is always there for it.
    pub cpu_request: Option<Quantity>,
    /// CPU beyond which it is slowed down; the sidecar has as many workers, or one without.
    pub cpu_limit: Option<Quantity>,
    /// Memory that is always there for it.
    pub memory_request: Option<Quantity>,
    /// Memory beyond which it is killed.
    pub memory_limit: Option<Quantity>,
}

impl Settings {
    /// Defaults with a control plane in `namespace`, of `trust_domain`. Both are checked.
    pub fn new(namespace: &str, trust_domain: &str, image: Image) -> Result<Self, Refusal> {
        if !is_label(namespace) {
            return Err(Refusal::new(
                format!("the control plane's namespace is {namespace:?}"),
                "give lower-case letters, digits and dashes, at most 63",
            ));
        }
        let control_plane_id = SpiffeId::new(
            trust_domain,
            namespace,
            names::CONTROL_PLANE_SERVICE_ACCOUNT,
        )
        .map_err(|error| {
            Refusal::new(
                format!("the trust domain is {trust_domain:?}: {error}"),
                "give a name such as cluster.local",
            )
        })?;
        let control_plane_addr = format!(
            "{}.{namespace}.svc:{}",
            cluster::CONTROL_PLANE_SERVICE,
            ports::CONTROL_PLANE
        );
        let system = SYSTEM_NAMESPACES.into_iter().chain([namespace]);
        Ok(Self {
            image,
            image_pull_policy: None,
            control_plane_addr,
            control_plane_id,
            resources: Resources::default(),
            log_level: "info".to_owned(),
            limits: Vec::new(),
            tracing: Vec::new(),
            skip_subnets: Vec::new(),
            system_namespaces: system.map(str::to_owned).collect(),
            sidecar_mode: SidecarMode::default(),
        })
    }

    /// The image where none is given: that of this version.
    pub fn default_image() -> Image {
        let reference = format!("{}:{}", names::PROXY_IMAGE, env!("CARGO_PKG_VERSION"));
        Image::parse(&reference).expect("the name and the version make a reference")
    }
}

impl SidecarMode {
    /// The word for it, in settings and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Legacy => "legacy",
        }
    }
}

impl FromStr for SidecarMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let modes = [Self::Native, Self::Legacy];
        let mode = modes.into_iter().find(|mode| mode.as_str() == text);
        mode.ok_or_else(|| "native or legacy".to_owned())
    }
}

impl fmt::Display for SidecarMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PullPolicy {
    type Err = &'static str;

    /// Reads what Kubernetes calls it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "Always" => Ok(Self::Always),
            "IfNotPresent" => Ok(Self::IfNotPresent),
            "Never" => Ok(Self::Never),
            _ => Err("Always, IfNotPresent or Never"),
        }
    }
}

/// No CPU limit: a sidecar that is slowed down slows every request down.
impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu_request: Quantity::parse("100m"),
            cpu_limit: None,
            memory_request: Quantity::parse("32Mi"),
            memory_limit: Quantity::parse("256Mi"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_plane_is_found_and_known_by_its_namespace() {
        let settings =
            Settings::new("mesh", "example.org", Settings::default_image()).expect("good settings");
        assert_eq!(
            settings.control_plane_addr,
            "weft-control-plane.mesh.svc:15180"
        );
        assert_eq!(
            settings.control_plane_id.as_str(),
            "spiffe://example.org/ns/mesh/sa/control-plane"
        );
        assert!(settings.system_namespaces.contains("mesh"));
        assert!(settings.resources.memory_limit.is_some());
    }

    #[test]
    fn a_mode_is_spelled_one_way() {
        for mode in [SidecarMode::Native, SidecarMode::Legacy] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        for text in ["", "Native", "auto"] {
            assert!(text.parse::<SidecarMode>().is_err(), "{text}");
        }
    }

    #[test]
    fn bad_settings_are_named() {
        for (namespace, trust_domain, named) in
            [("Mesh", "cluster.local", "Mesh"), ("mesh", "a b", "a b")]
        {
            let error = Settings::new(namespace, trust_domain, Settings::default_image())
                .expect_err("bad settings");
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
