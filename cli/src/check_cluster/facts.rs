//! What was fetched from a cluster. Checks are functions over this and nothing else.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use weft_control_plane::check::Report;
use weft_proto::names::{INJECT_ENABLED, INJECT_LABEL};

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The user may not ask for it.
    Forbidden,
    /// The API server does not have the kind.
    Absent,
    /// Anything else, in the words of who said so.
    Failed(String),
}

/// What the cluster says, or why it does not.
pub(super) type Fetched<T> = Result<T, Trouble>;
/// An object of which nobody knows whether it is there.
pub(super) type Maybe = Fetched<Option<Value>>;

/// What every check may look at, before installing and after it.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// Seconds since the epoch.
    pub(super) now: i64,
    /// The control plane's.
    pub(super) namespace: String,
    pub(super) version: Fetched<Value>,
    /// The definition of TrafficPolicy.
    pub(super) policies: Maybe,
    /// The definitions of routes, by kind.
    pub(super) routes: Vec<(&'static str, Maybe)>,
    pub(super) namespaces: Fetched<Vec<Value>>,
    /// Every MutatingWebhookConfiguration.
    pub(super) webhooks: Fetched<Vec<Value>>,
    /// Settings of Cilium, where it is the cluster's network.
    pub(super) cilium: Maybe,
}

/// What is looked at before installing.
#[derive(Clone, Debug)]
pub(super) struct Before {
    /// Whether the user may create each of what Weft is made of, by resource.
    pub(super) creatable: Vec<(String, Fetched<bool>)>,
}

/// What is looked at afterwards.
#[derive(Clone, Debug)]
pub(super) struct After {
    pub(super) pods: Fetched<Vec<Value>>,
    /// EndpointSlices of the control plane's namespace.
    pub(super) slices: Fetched<Vec<Value>>,
    pub(super) lease: Maybe,
    /// Its metadata only: nobody here needs its keys.
    pub(super) authority: Maybe,
    pub(super) webhook_secret: Maybe,
    /// By namespace: those that want sidecars, and the control plane's.
    pub(super) bundles: BTreeMap<String, Maybe>,
    /// TrafficPolicies and routes, by kind.
    pub(super) objects: Vec<(&'static str, Fetched<Vec<Value>>)>,
    /// What the control plane's own rules say about them all.
    pub(super) report: Fetched<Report>,
}

impl Common {
    /// Names of the namespaces whose pods get sidecars.
    pub(super) fn injected(&self) -> Vec<&str> {
        let namespaces = self.namespaces.as_deref().unwrap_or_default().iter();
        namespaces.filter(|it| is_injected(it)).map(name).collect()
    }
}

pub(super) fn is_injected(namespace: &Value) -> bool {
    label(namespace, INJECT_LABEL) == INJECT_ENABLED
}

pub(super) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub(super) fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// As `NAMESPACE/NAME`.
pub(super) fn full_name(object: &Value) -> String {
    format!("{}/{}", namespace(object), name(object))
}

pub(super) fn label<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"]["labels"][key]
        .as_str()
        .unwrap_or_default()
}

pub(super) fn annotation<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"]["annotations"][key]
        .as_str()
        .unwrap_or_default()
}

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The bytes of a field that is base64, as a Secret's data are.
pub(super) fn decoded(value: &Value) -> Option<Vec<u8>> {
    STANDARD
        .decode(value.as_str()?)
        .ok()
        .filter(|bytes| !bytes.is_empty())
}
