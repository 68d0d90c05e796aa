//! The newest report of each sidecar that is connected to this replica, or was [`KEPT`] ago.
//!
//! A sidecar counts from its start, so that its newest report says all. What one said before it ended is
//! kept for a while: a pod that is replaced does not hide who called it in plaintext. Addresses are
//! looked up when a report comes, while whoever had them still has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;
use weft_proto::discovery::{Edge, EdgeTls, Report};
use weft_proto::replica::{EdgeEnd, EdgesResponse, SeenEdge, Watcher, edge_end::Kind};

use super::{is_plain, tls_of};
use crate::index::{Destination, Model, Name};

/// How long a report outlives its sidecar.
pub(in crate::serve) const KEPT: Duration = Duration::from_secs(5 * 60);
/// Runs of one workload's sidecar; one that restarts more often has its oldest forgotten.
const MAX_RUNS: usize = 4;
/// Reports over all workloads.
pub(super) const MAX_REPORTS: usize = 20_000;
/// Edges of one report; a sidecar has no more.
pub(super) const MAX_EDGES: usize = 256;
/// Edges over all reports.
const MAX_ALL_EDGES: usize = 500_000;
/// A name of a service with its port, or an identity.
const MAX_TEXT: usize = 2 * 253 + ":65535".len() + 1;
/// What an answer may be long, well within what a replica takes.
const MAX_ANSWER: usize = 12 * 1024 * 1024;
/// How often reports are looked for that are too old; they are never told.
const SWEEP: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Default)]
pub(in crate::serve) struct Book {
    /// The runs of each workload's sidecar, the newest last.
    reports: HashMap<Name, Vec<Heard>>,
    swept: Option<Instant>,
    edges: usize,
    runs: usize,
}

/// Who reports.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct Reporter<'a> {
    pub(in crate::serve) workload: &'a Name,
    pub(in crate::serve) service_account: &'a str,
}

/// A report, as of when it came.
struct Heard {
    run: u64,
    at: Instant,
    watched_seconds: u64,
    gone: Option<Instant>,
    forgotten: u64,
    service_account: String,
    owner: String,
    edges: Vec<Known>,
}

struct Known {
    edge: SeenEdge,
    /// The address that was looked up.
    address: Option<IpAddr>,
    /// Something of it was open.
    is_open: bool,
}

impl Book {
    /// Keeps a report in the place of the one before. False where there was no room for it all.
    pub(in crate::serve) fn hear(
        &mut self,
        reporter: Reporter<'_>,
        report: Report,
        model: &Model,
        now: Instant,
    ) -> bool {
        if self.swept.is_none_or(|swept| now - swept >= SWEEP) {
            self.sweep(now);
        }
        let name = reporter.workload;
        let before = self.take(name, report.run);
        let room = (MAX_ALL_EDGES - self.edges).min(MAX_EDGES);
        if self.runs >= MAX_REPORTS {
            return false;
        }
        let mut told = report.edges;
        told.sort_by_key(|edge| !is_plain(edge.tls()));
        let is_whole = told.len() <= room;
        let edges: Vec<Known> = told
            .into_iter()
            .take(room)
            .filter_map(|edge| Known::of(edge, model, before.as_ref()))
            .collect();
        let workload = model.workload(&name.namespace, &name.name);
        let owner = workload.map_or(&name.name, |workload| &workload.owner);
        self.edges += edges.len();
        self.runs += 1;
        let runs = self.reports.entry(name.clone()).or_default();
        for former in &mut *runs {
            former.gone.get_or_insert(now);
        }
        runs.push(Heard {
            run: report.run,
            at: now,
            watched_seconds: report.watched_seconds,
            gone: None,
            forgotten: report.forgotten,
            service_account: reporter.service_account.to_owned(),
            owner: owner.clone(),
            edges,
        });
        if runs.len() > MAX_RUNS {
            let former = runs.remove(0);
            self.edges -= former.edges.len();
            self.runs -= 1;
        }
        is_whole
    }

    /// A workload's sidecar is connected no more.
    pub(in crate::serve) fn gone(&mut self, workload: &Name, now: Instant) {
        for run in self.reports.get_mut(workload).into_iter().flatten() {
            run.gone.get_or_insert(now);
        }
    }

    /// What is known, as of now; as much as an answer holds.
    pub(in crate::serve) fn list(&mut self, replica: &str, now: Instant) -> EdgesResponse {
        self.sweep(now);
        let mut all: Vec<(&Name, &Heard)> = self
            .reports
            .iter()
            .flat_map(|(name, runs)| runs.iter().map(move |run| (name, run)))
            .collect();
        all.sort_by_key(|(name, heard)| (*name, heard.gone.is_none()));
        let mut watchers: Vec<_> = all
            .iter()
            .map(|(name, heard)| heard.watcher(name, now))
            .collect();
        let mut length: usize = watchers.iter().map(Watcher::encoded_len).sum();
        let mut left_out = 0;
        for plain in [true, false] {
            for (watcher, (_, heard)) in watchers.iter_mut().zip(&all) {
                let edges = heard.edges.iter();
                for known in edges.filter(|known| is_plain(tls_of(&known.edge)) == plain) {
                    let edge = heard.edge(known, now);
                    // With its tag and length.
                    length += edge.encoded_len() + 4;
                    if length > MAX_ANSWER {
                        left_out += 1;
                    } else {
                        watcher.edges.push(edge);
                    }
                }
            }
        }
        EdgesResponse {
            replica: replica.to_owned(),
            watchers,
            left_out,
        }
    }

    /// Takes out what was heard of a run before.
    fn take(&mut self, name: &Name, run: u64) -> Option<Heard> {
        let runs = self.reports.get_mut(name)?;
        let at = runs.iter().position(|heard| heard.run == run)?;
        let heard = runs.remove(at);
        self.edges -= heard.edges.len();
        self.runs -= 1;
        Some(heard)
    }

    fn sweep(&mut self, now: Instant) {
        self.swept = Some(now);
        self.reports.retain(|_, runs| {
            runs.retain(|heard| heard.gone.is_none_or(|gone| now - gone < KEPT));
            !runs.is_empty()
        });
        let runs = || self.reports.values().flatten();
        let (count, edges) = (runs().count(), runs().map(|heard| heard.edges.len()).sum());
        (self.runs, self.edges) = (count, edges);
    }
}

impl Heard {
    fn watcher(&self, name: &Name, now: Instant) -> Watcher {
        let until = self.gone.unwrap_or(now);
        let since = until.saturating_duration_since(self.at).as_secs();
        Watcher {
            namespace: name.namespace.clone(),
            workload: name.name.clone(),
            service_account: self.service_account.clone(),
            owner: self.owner.clone(),
            run: self.run,
            watched_seconds: self.watched_seconds.saturating_add(since),
            gone_seconds: self.gone.map(|gone| (now - gone).as_secs()),
            forgotten: self.forgotten,
            edges: Vec::new(),
        }
    }

    fn edge(&self, known: &Known, now: Instant) -> SeenEdge {
        let mut edge = known.edge.clone();
        // What is open is seen for as long as the sidecar says nothing else.
        let unseen_since = match (known.is_open, self.gone) {
            (true, None) => now,
            (true, Some(gone)) => gone,
            (false, _) => self.at,
        };
        let since = now.saturating_duration_since(unseen_since).as_secs();
        edge.last_seconds = edge.last_seconds.saturating_add(since);
        edge
    }
}

impl Known {
    /// `None` where it cannot be what a sidecar says.
    fn of(edge: Edge, model: &Model, before: Option<&Heard>) -> Option<Self> {
        let tls = edge.tls();
        let is_named = edge.service.len() <= MAX_TEXT && edge.peer.len() <= MAX_TEXT;
        if !is_named || tls == EdgeTls::Unspecified {
            return None;
        }
        let address = address(&edge.address);
        let mut known = Self {
            address,
            is_open: edge.open > 0,
            edge: SeenEdge {
                outbound: edge.outbound,
                service: edge.service,
                port: u32::from(u16::try_from(edge.port).ok()?),
                other: None,
                tls: tls.into(),
                connections: edge.connections,
                requests: edge.requests,
                last_seconds: if edge.open > 0 { 0 } else { edge.last_seconds },
            },
        };
        let kind = match address {
            _ if !edge.peer.is_empty() => Some(Kind::Identity(edge.peer)),
            Some(ip) => Some(known.who(ip, model, before)),
            None => None,
        };
        known.edge.other = Some(EdgeEnd { kind });
        Some(known)
    }

    /// Who has an address. Where nothing came from there since the report before, or nobody has it any
    /// more, whoever was meant then.
    fn who(&self, ip: IpAddr, model: &Model, before: Option<&Heard>) -> Kind {
        let before = before.into_iter().flat_map(|heard| &heard.edges);
        let mut same = before.filter(|known| {
            let (a, b) = (&known.edge, &self.edge);
            known.address == Some(ip) && (a.port, a.tls) == (b.port, b.tls)
        });
        let former = same.next();
        let is_quiet = former.is_some_and(|former| {
            let (a, b) = (&former.edge, &self.edge);
            (a.connections, a.requests) == (b.connections, b.requests)
        });
        let former = former.and_then(|known| known.edge.other.clone()?.kind);
        let former = former.filter(|kind| !matches!(kind, Kind::Address(_)));
        if let Some(former) = former.clone().filter(|_| is_quiet) {
            return former;
        }
        let Some(Destination::Workload(workload)) = model.destination(ip) else {
            return former.unwrap_or_else(|| Kind::Address(ip.to_string()));
        };
        let name = format!("{}/{}", workload.name.namespace, workload.owner);
        if workload.meshed {
            Kind::Meshed(name)
        } else {
            Kind::Unmeshed(name)
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(IpAddr::from(v6).to_canonical())
}
