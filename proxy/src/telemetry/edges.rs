//! Who called this workload and whom it called: what the control plane is told of, so that people see
//! who still comes in plaintext.
//!
//! An edge is one other side, one port or service, and one way in which the bytes are protected. Its
//! [`Cell`] is looked up once, when a connection or an endpoint first needs it; a request then adds to
//! two atomics.
//!
//! Invariants: never more than [`MAX_EDGES`], half of them for what comes in plaintext, so that neither
//! kind crowds the other out. For a new edge the one that was seen least recently makes room, if that is
//! [`ACTIVE`] ago; otherwise the new one waits outside and tries again when it is next seen, with all that
//! it has counted. Both are counted in `weft_limit_hits_total{limit="edges"}`. So while an edge in
//! plaintext is left out, 128 others in plaintext have just been seen.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::Counter;
use parking_lot::Mutex;
use tokio::time::Instant;
use weft_proto::discovery as wire;
pub use weft_proto::discovery::EdgeTls;

/// Edges that are remembered.
pub const MAX_EDGES: usize = 256;
/// What was seen so recently is not forgotten.
pub const ACTIVE: Duration = Duration::from_secs(10);

const MAX_HALF: usize = MAX_EDGES / 2;

/// The edges of one sidecar.
pub struct Edges {
    /// Tells this run from those before it.
    run: u64,
    begun: Instant,
    table: Mutex<Table>,
    dropped: Counter,
}

/// The other side of a connection that was made to this workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// As it proved, `namespace/service-account`.
    Identity(Arc<str>),
    /// Where it came from, as nothing was proved.
    Address(IpAddr),
    /// It was gone before its address was asked for.
    Unknown,
}

/// Who, where and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    ends: Ends,
    tls: EdgeTls,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Ends {
    /// To a port of this workload.
    Inbound { port: u16, from: Caller },
    /// To a service, of which the server proves to be `peer`; empty where it proves nothing.
    Outbound { service: Arc<str>, peer: Arc<str> },
}

/// One edge's counts.
struct Cell {
    key: Key,
    /// Of an inbound edge: the service that leads here, when it was first seen.
    service: Arc<str>,
    connections: AtomicU64,
    requests: AtomicU64,
    /// Connections of bytes, open now.
    open: AtomicU64,
    /// When last, in seconds since the table began.
    last: AtomicU64,
    /// Whether it is in the table.
    listed: AtomicBool,
}

/// By whether it is in plaintext.
#[derive(Default)]
struct Table {
    halves: [HashMap<Key, Arc<Cell>>; 2],
    forgotten: u64,
    /// What the last report was made of.
    reported: Option<Sum>,
}

/// Differs where a report does, but for ages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sum {
    counted: u64,
    open: u64,
    listed: usize,
    forgotten: u64,
}

/// What one connection to this workload is counted under.
pub struct Visit {
    edges: Arc<Edges>,
    port: u16,
    service: Arc<str>,
    from: Caller,
    /// By kind, as far as the connection has been that.
    cells: [OnceLock<Arc<Cell>>; Kind::COUNT],
}

/// What one server is counted under.
pub struct Called {
    edges: Arc<Edges>,
    service: Arc<str>,
    peer: Arc<str>,
    tls: EdgeTls,
    cell: OnceLock<Arc<Cell>>,
}

/// A connection of bytes; its edge is being seen until it is dropped.
pub struct Open {
    edges: Arc<Edges>,
    cell: Arc<Cell>,
}

/// What a connection to this workload may be, at the same time.
#[derive(Clone, Copy)]
enum Kind {
    Own,
    Exempt,
    Refused,
}

impl Edges {
    /// No edge yet. `dropped` counts those that find no room or lose it.
    pub(super) fn new(dropped: Counter) -> Arc<Self> {
        Arc::new(Self {
            run: fastrand::u64(..),
            begun: Instant::now(),
            table: Mutex::default(),
            dropped,
        })
    }

    /// What a connection to `port` is counted under. `service` is the first that leads there; empty
    /// for none.
    pub fn visit(self: &Arc<Self>, port: u16, service: Arc<str>, from: Caller) -> Visit {
        Visit {
            edges: Arc::clone(self),
            port,
            service,
            from,
            cells: Default::default(),
        }
    }

    /// What a server is counted under. `service` is the one that it is a part of; `peer` is who it has
    /// to prove to be, empty for nobody.
    pub fn called(self: &Arc<Self>, service: Arc<str>, peer: Arc<str>, tls: EdgeTls) -> Called {
        Called {
            edges: Arc::clone(self),
            service,
            peer,
            tls,
            cell: OnceLock::new(),
        }
    }

    /// What the control plane is told; `None` where it was told already, unless it is `anew`.
    pub fn report(&self, anew: bool) -> Option<wire::Report> {
        let now = self.seconds(Instant::now());
        let mut table = self.table.lock();
        let sum = table.sum();
        if table.reported == Some(sum) && !anew {
            return None;
        }
        table.reported = Some(sum);
        let cells = table.halves.iter().flat_map(HashMap::values);
        Some(wire::Report {
            run: self.run,
            watched_seconds: now,
            edges: cells.map(|cell| cell.to_wire(now)).collect(),
            breakers: Vec::new(),
            forgotten: table.forgotten,
        })
    }

    fn cell(&self, key: Key, service: &Arc<str>, now: u64) -> Arc<Cell> {
        let mut table = self.table.lock();
        if let Some(known) = table.half(&key).get(&key) {
            return Arc::clone(known);
        }
        let cell = Arc::new(Cell {
            key,
            service: Arc::clone(service),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            open: AtomicU64::new(0),
            last: AtomicU64::new(now),
            listed: AtomicBool::new(false),
        });
        self.list(&mut table, &cell, now);
        cell
    }

    /// Lists what was left out, if there is room by now.
    #[cold]
    fn list_again(&self, cell: &Arc<Cell>, now: u64) {
        let mut table = self.table.lock();
        // Meanwhile somebody else may count the same: both are listed when one of them is gone.
        if !table.half(&cell.key).contains_key(&cell.key) {
            self.list(&mut table, cell, now);
        }
    }

    fn list(&self, table: &mut Table, cell: &Arc<Cell>, now: u64) {
        let half = table.half(&cell.key);
        if half.len() >= MAX_HALF {
            let oldest = half.values().min_by_key(|cell| cell.last(now));
            let oldest = oldest.filter(|cell| now - cell.last(now) >= ACTIVE.as_secs());
            let oldest = oldest.map(|cell| cell.key.clone());
            let forgotten = oldest.and_then(|key| half.remove(&key));
            self.dropped.increment(1);
            table.forgotten += 1;
            let Some(forgotten) = forgotten else {
                return;
            };
            forgotten.listed.store(false, Ordering::Relaxed);
        }
        cell.listed.store(true, Ordering::Relaxed);
        let half = table.half(&cell.key);
        half.insert(cell.key.clone(), Arc::clone(cell));
    }

    /// Notes that an edge was seen. A look at the clock's second, as a rule.
    fn seen(&self, cell: &Arc<Cell>, at: Instant) {
        let now = self.seconds(at);
        if cell.last.load(Ordering::Relaxed) >= now {
            return;
        }
        cell.last.store(now, Ordering::Relaxed);
        if !cell.listed.load(Ordering::Relaxed) {
            self.list_again(cell, now);
        }
    }

    fn seconds(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.begun).as_secs()
    }
}

impl Visit {
    /// A request came as `tls`.
    pub fn request(&self, tls: EdgeTls, at: Instant) {
        let cell = self.cells[Kind::of(tls) as usize].get_or_init(|| self.connection(tls, at));
        cell.requests.fetch_add(1, Ordering::Relaxed);
        self.edges.seen(cell, at);
    }

    /// A connection came as `tls` and was refused as a whole.
    pub fn refused(&self, at: Instant) {
        self.connection(EdgeTls::Refused, at);
    }

    /// A connection of bytes came as `tls`.
    pub fn bytes(&self, tls: EdgeTls, at: Instant) -> Open {
        Open::new(&self.edges, self.connection(tls, at))
    }

    fn connection(&self, tls: EdgeTls, at: Instant) -> Arc<Cell> {
        let (port, from) = (self.port, self.from.clone());
        let ends = Ends::Inbound { port, from };
        let now = self.edges.seconds(at);
        let cell = self.edges.cell(Key { ends, tls }, &self.service, now);
        cell.connections.fetch_add(1, Ordering::Relaxed);
        self.edges.seen(&cell, at);
        cell
    }
}

impl Called {
    /// A request was sent.
    pub fn request(&self, at: Instant) {
        let cell = self.cell(at);
        cell.requests.fetch_add(1, Ordering::Relaxed);
        self.edges.seen(cell, at);
    }

    /// A connection was made.
    pub fn connection(&self, at: Instant) {
        let cell = self.cell(at);
        cell.connections.fetch_add(1, Ordering::Relaxed);
        self.edges.seen(cell, at);
    }

    /// A connection that was made carries bytes.
    pub fn bytes(&self, at: Instant) -> Open {
        Open::new(&self.edges, Arc::clone(self.cell(at)))
    }

    fn cell(&self, at: Instant) -> &Arc<Cell> {
        self.cell.get_or_init(|| {
            let (service, peer) = (Arc::clone(&self.service), Arc::clone(&self.peer));
            let ends = Ends::Outbound { service, peer };
            let (tls, now) = (self.tls, self.edges.seconds(at));
            self.edges.cell(Key { ends, tls }, &self.service, now)
        })
    }
}

impl Open {
    fn new(edges: &Arc<Edges>, cell: Arc<Cell>) -> Self {
        cell.open.fetch_add(1, Ordering::Relaxed);
        let edges = Arc::clone(edges);
        Self { edges, cell }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.edges.seen(&self.cell, Instant::now());
        self.cell.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Kind {
    const COUNT: usize = 3;

    const fn of(tls: EdgeTls) -> Self {
        match tls {
            EdgeTls::Exempt => Self::Exempt,
            EdgeTls::Refused => Self::Refused,
            _ => Self::Own,
        }
    }
}

impl Table {
    fn half(&mut self, key: &Key) -> &mut HashMap<Key, Arc<Cell>> {
        let is_plain = matches!(
            key.tls,
            EdgeTls::Plaintext | EdgeTls::Passthrough | EdgeTls::Refused
        );
        &mut self.halves[usize::from(is_plain)]
    }

    fn sum(&self) -> Sum {
        let mut sum = Sum {
            counted: 0,
            open: 0,
            listed: 0,
            forgotten: self.forgotten,
        };
        for cell in self.halves.iter().flat_map(HashMap::values) {
            let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
            sum.counted += load(&cell.connections) + load(&cell.requests);
            sum.open += load(&cell.open);
            sum.listed += 1;
        }
        sum
    }
}

impl Cell {
    /// When last, where it is `now`.
    fn last(&self, now: u64) -> u64 {
        if self.open.load(Ordering::Relaxed) > 0 {
            return now;
        }
        self.last.load(Ordering::Relaxed).min(now)
    }

    fn to_wire(&self, now: u64) -> wire::Edge {
        let mut edge = wire::Edge {
            service: self.service.to_string(),
            tls: self.key.tls.into(),
            connections: self.connections.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            last_seconds: now - self.last(now),
            open: self.open.load(Ordering::Relaxed),
            ..wire::Edge::default()
        };
        match &self.key.ends {
            Ends::Inbound { port, from } => {
                edge.port = u32::from(*port);
                match from {
                    Caller::Identity(peer) => edge.peer = peer.to_string(),
                    Caller::Address(IpAddr::V4(ip)) => edge.address = ip.octets().into(),
                    Caller::Address(IpAddr::V6(ip)) => edge.address = ip.octets().into(),
                    Caller::Unknown => {}
                }
            }
            Ends::Outbound { peer, .. } => {
                edge.outbound = true;
                edge.peer = peer.to_string();
            }
        }
        edge
    }
}
