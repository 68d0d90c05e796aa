//! The control plane's answer.

use serde::{Deserialize, Serialize};

use crate::proxy_status::ask::{self, AskError, Server};

/// What sidecars saw. Ages are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Seen {
    /// The replicas of the control plane, the asked one first.
    pub(crate) replicas: Vec<Replica>,
    /// Sidecars that are connected and report.
    pub(crate) sidecars: u64,
    /// Edges that sidecars forgot because there were too many.
    pub(crate) forgotten: u64,
    /// Edges that found no room in the answer.
    pub(crate) left_out: u64,
    /// Those in plaintext first.
    pub(crate) edges: Vec<Edge>,
    /// What is Permissive.
    pub(crate) permissive: Vec<Target>,
}

/// A replica of the control plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Replica {
    pub(crate) name: String,
    /// `None` for the asked one.
    pub(crate) address: Option<String>,
    /// Why it did not answer.
    pub(crate) error: Option<String>,
}

/// One caller of one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Edge {
    pub(crate) from: End,
    pub(crate) to: Name,
    pub(crate) port: u16,
    pub(crate) tls: String,
    pub(crate) connections: u64,
    pub(crate) requests: u64,
    pub(crate) last_seconds: u64,
}

/// Who called.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct End {
    /// `identity`, `meshed`, `unmeshed`, `address` or `unknown`.
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// A namespaced name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Name {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A service that is Permissive, or a namespace's workloads that no service leads to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Target {
    pub(crate) namespace: String,
    pub(crate) service: Option<String>,
    /// Those with a sidecar.
    pub(crate) workloads: u64,
    /// How many of them are not heard of.
    pub(crate) silent: u64,
    pub(crate) silent_names: Vec<String>,
    /// For how long all others have been watching.
    pub(crate) watched_seconds: u64,
    pub(crate) callers: Vec<Caller>,
}

/// Somebody who came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Caller {
    pub(crate) from: End,
    pub(crate) tls: String,
    pub(crate) last_seconds: u64,
}

/// What sidecars saw, as one replica of the control plane and those that it asks know.
pub(crate) fn ask(server: &Server) -> Result<Seen, AskError> {
    let body = ask::get(server, "/edges")?;
    Ok(serde_json::from_slice(&body)?)
}

/// Whether Strict would refuse what comes so.
pub(crate) fn is_plain(tls: &str) -> bool {
    ["plaintext", "app-tls"].contains(&tls)
}

impl Seen {
    /// Leaves out what is of other namespaces on both ends, and where `plaintext` is wanted all else.
    pub(super) fn keep(&mut self, namespace: Option<&str>, plaintext: bool) {
        self.edges.retain(|edge| {
            let is_of = |namespace| edge.to.namespace == namespace || edge.from.is_of(namespace);
            let is_plain = is_plain(&edge.tls) || edge.tls == "refused";
            namespace.is_none_or(is_of) && (is_plain || !plaintext)
        });
        if let Some(namespace) = namespace {
            self.permissive
                .retain(|target| target.namespace == namespace);
        }
    }

    /// Whether every replica answered.
    pub(crate) fn is_whole(&self) -> bool {
        self.replicas.iter().all(|replica| replica.error.is_none())
    }
}

impl Replica {
    /// What it is called by.
    pub(crate) fn place(&self) -> &str {
        self.address.as_deref().unwrap_or(&self.name)
    }
}

impl End {
    fn is_of(&self, namespace: &str) -> bool {
        self.name
            .split_once('/')
            .is_some_and(|(of, _)| of == namespace)
    }

    /// For people.
    pub(crate) fn words(&self) -> String {
        match &*self.kind {
            "unmeshed" => format!("{} (no sidecar)", self.name),
            "unknown" => "unknown".to_owned(),
            _ => self.name.clone(),
        }
    }
}
