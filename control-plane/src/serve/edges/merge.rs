//! The reports of all replicas' sidecars as one list.
//!
//! A sidecar that moved from one replica to another is counted once, by the replica that has it. An edge
//! that both ends saw is one row, with the server's counts: the client's sidecar counts tries that never
//! came, and knows nothing of callers without one.

use std::collections::{BTreeMap, BTreeSet};

use weft_proto::discovery::EdgeTls;
use weft_proto::replica::{EdgesResponse, SeenEdge, Watcher, edge_end::Kind};

use super::{is_plain, tls_of};
use crate::index::{Model, Name};

/// Who called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Somebody who proved to be `namespace/service-account`.
    Identity(String),
    /// A workload with a sidecar, by its owner.
    Meshed(String),
    /// A workload without a sidecar, by its owner.
    Unmeshed(String),
    /// An address that the mesh knows nothing by.
    Address(String),
    /// Nobody knows.
    Unknown,
}

/// One caller of one port, in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Who called.
    pub from: End,
    /// The service, or without one the owner of the workload.
    pub to: Name,
    /// The service's port, or without one the workload's.
    pub port: u16,
    /// How the bytes were protected.
    pub tls: EdgeTls,
    /// Since the sidecars' starts.
    pub connections: u64,
    /// Since the sidecars' starts.
    pub requests: u64,
    /// Seconds since the last of either.
    pub last_seconds: u64,
}

/// What all replicas know together.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// Those in plaintext first; then by who was called.
    pub rows: Vec<Row>,
    /// Each run of a sidecar once.
    pub watchers: Vec<Watcher>,
}

/// What an edge is told apart by: who called, who was called, how.
type Key = (End, Name, u16, EdgeTls);

#[derive(Default)]
struct Sum {
    connections: u64,
    requests: u64,
    last_seconds: Option<u64>,
}

/// Puts answers together.
pub fn merge<'a>(model: &Model, answers: impl IntoIterator<Item = &'a EdgesResponse>) -> Merged {
    let watchers = runs(answers);
    let mut rows: BTreeMap<Key, Sum> = BTreeMap::new();
    // What servers saw: who came to which service, and how.
    let mut seen: BTreeSet<Key> = BTreeSet::new();
    for watcher in &watchers {
        for edge in watcher.edges.iter().filter(|edge| !edge.outbound) {
            let from = End::of(edge);
            let services = services(model, watcher, edge);
            let (to, port) = services
                .first()
                .cloned()
                .unwrap_or_else(|| owner(watcher, edge));
            rows.entry((from.clone(), to, port, tls_of(edge)))
                .or_default()
                .add(edge);
            let keys = services.into_iter();
            seen.extend(keys.map(|(to, port)| (from.clone(), to, port, tls_of(edge))));
        }
    }
    for watcher in &watchers {
        for edge in watcher.edges.iter().filter(|edge| edge.outbound) {
            let Some((to, port)) = service(&edge.service) else {
                continue;
            };
            let key = (caller(watcher, edge), to, port, tls_of(edge));
            if !seen.contains(&key) {
                rows.entry(key).or_default().add(edge);
            }
        }
    }
    let rows = rows.into_iter().map(|((from, to, port, tls), sum)| Row {
        from,
        to,
        port,
        tls,
        connections: sum.connections,
        requests: sum.requests,
        last_seconds: sum.last_seconds.unwrap_or_default(),
    });
    let mut rows: Vec<Row> = rows.collect();
    rows.sort_by(|a, b| {
        let key = |row: &Row| (!is_plain(row.tls), row.to.clone(), row.port);
        key(a)
            .cmp(&key(b))
            .then_with(|| a.from.cmp(&b.from))
            .then(a.tls.cmp(&b.tls))
    });
    Merged { rows, watchers }
}

/// The service ports that lead to the port that was called: as the model has them now, or where the
/// workload is gone, as its sidecar said.
pub(super) fn services(model: &Model, watcher: &Watcher, edge: &SeenEdge) -> Vec<(Name, u16)> {
    let port = edge.port as u16;
    let Some(workload) = model.workload(&watcher.namespace, &watcher.workload) else {
        return service(&edge.service).into_iter().collect();
    };
    let backed = model.backed_by_workload(workload, port);
    backed
        .map(|(service, port)| (service.name.clone(), port.port))
        .collect()
}

/// Each run of a sidecar once: where it is connected, else where it was last.
fn runs<'a>(answers: impl IntoIterator<Item = &'a EdgesResponse>) -> Vec<Watcher> {
    let mut runs: BTreeMap<(&str, &str, u64), &Watcher> = BTreeMap::new();
    for watcher in answers.into_iter().flat_map(|answer| &answer.watchers) {
        let run = runs
            .entry((&watcher.namespace, &watcher.workload, watcher.run))
            .or_insert(watcher);
        // Absent, which is connected, is less than all others.
        if watcher.gone_seconds < run.gone_seconds {
            *run = watcher;
        }
    }
    runs.into_values().cloned().collect()
}

fn owner(watcher: &Watcher, edge: &SeenEdge) -> (Name, u16) {
    let owner = Name::new(&*watcher.namespace, &*watcher.owner);
    (owner, edge.port as u16)
}

/// Who called where the watcher did.
fn caller(watcher: &Watcher, edge: &SeenEdge) -> End {
    if tls_of(edge) == EdgeTls::Plaintext {
        return End::Meshed(format!("{}/{}", watcher.namespace, watcher.owner));
    }
    End::Identity(format!("{}/{}", watcher.namespace, watcher.service_account))
}

/// As `NAMESPACE/NAME:PORT`.
fn service(text: &str) -> Option<(Name, u16)> {
    let (namespace, rest) = text.split_once('/')?;
    let (name, port) = rest.rsplit_once(':')?;
    Some((Name::new(namespace, name), port.parse().ok()?))
}

impl End {
    pub(super) fn of(edge: &SeenEdge) -> Self {
        match edge.other.clone().and_then(|end| end.kind) {
            Some(Kind::Identity(name)) => Self::Identity(name),
            Some(Kind::Meshed(name)) => Self::Meshed(name),
            Some(Kind::Unmeshed(name)) => Self::Unmeshed(name),
            Some(Kind::Address(address)) => Self::Address(address),
            None => Self::Unknown,
        }
    }

    /// The word for what is known of it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Identity(_) => "identity",
            Self::Meshed(_) => "meshed",
            Self::Unmeshed(_) => "unmeshed",
            Self::Address(_) => "address",
            Self::Unknown => "unknown",
        }
    }

    /// As `NAMESPACE/NAME`, or the address; empty where nobody knows.
    pub fn name(&self) -> &str {
        match self {
            Self::Identity(name)
            | Self::Meshed(name)
            | Self::Unmeshed(name)
            | Self::Address(name) => name,
            Self::Unknown => "",
        }
    }
}

impl Sum {
    fn add(&mut self, edge: &SeenEdge) {
        self.connections = self.connections.saturating_add(edge.connections);
        self.requests = self.requests.saturating_add(edge.requests);
        let last = self.last_seconds.unwrap_or(u64::MAX);
        self.last_seconds = Some(last.min(edge.last_seconds));
    }
}
