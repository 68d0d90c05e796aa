//! Metrics, logs and traces.
//!
//! A [`Telemetry`] is one sidecar's registry, an ordinary value: several sidecars may live in one
//! process. Whoever counts asks it for a handle when configuration or a connection arrives, and on
//! the request path uses only the handle. Counters, gauges and histograms are written without locks;
//! what others keep anyway (breaker states, endpoints) is asked for when somebody scrapes, through
//! collectors.
//!
//! Invariants: every family has `HELP` and `TYPE`; every set of labels is bounded, and past the bound
//! goes to `overflow` (peers: `other`) and to `weft_limit_hits_total`; a counter that was shown once
//! is shown until the process ends.
//!
//! * [`access`]: the lines about requests that policies ask for.
//! * [`edges`]: who called whom, for the control plane.
//! * [`record`]: what is known of one exchange, for those who want to know.
//! * [`redact`]: what people may see of it.
//! * [`tap`]: exchanges as they end, for people who look.
//! * [`traffic`]: sums for people who ask.
//! * [`trace`]: spans, and how they come to a collector.

pub mod access;
pub mod edges;
mod exposition;
pub mod families;
mod handshakes;
mod header_label;
mod histogram;
mod labels;
mod mirrors;
mod panics;
mod process;
pub mod record;
mod recorder;
pub mod redact;
mod requests;
mod retries;
mod table;
pub mod tap;
mod tcp;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod traffic;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use ::http::HeaderMap;
use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use tokio::time::Instant;

pub use exposition::{Exposition, MAX_SAMPLES};
use handshakes::HandshakeCounters;
pub use handshakes::{HandshakeFault, HandshakeResult};
pub use header_label::{HeaderLabelSettings, MAX_VALUE as MAX_LABEL_VALUE};
pub use histogram::{BOUNDS_MICROS, HistogramSnapshot, LatencyHistogram};
pub use labels::{
    MAX_LIMITS, MAX_PEERS, MAX_SCOPES, MAX_SERVER_NAMES, OTHER_PEER, OTHER_SERVER_NAME, OVERFLOW,
    Tls,
};
pub use mirrors::{MirrorCounters, MirrorResult};
pub use panics::panic_message;
pub use recorder::MAX_HISTOGRAMS;
pub use requests::{
    MAX_CELLS, MAX_CELLS_BY_HEADER, MAX_REQUEST_SERIES, PeerScopes, RequestScope, ScopeLabels,
};
pub use retries::{RetryCounters, RetryResult};
pub use tcp::{TcpConnection, TcpLabels, TcpScope};

use crate::outcome::Origin;
use edges::Edges;
use families::Family;
use header_label::HeaderLabel;
pub(crate) use header_label::LabelValue;
use labels::Bounded;
use record::Watchers;
use recorder::WeftRecorder;
use trace::Tracer;
use traffic::{Fresh, RetryLabels, Summary, Traffic, TrafficQuery};

/// Counters of collectors that are remembered after the collector stopped telling them.
pub const MAX_RETAINED_COUNTERS: usize = 4_096;

/// Writes what somebody else keeps, when somebody scrapes.
pub type Collector = Arc<dyn Fn(&mut Exposition) + Send + Sync>;

/// Whose metrics these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessLabels {
    /// The workload's name.
    pub workload: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
}

/// One sidecar's metrics.
pub struct Telemetry {
    process: ProcessLabels,
    recorder: WeftRecorder,
    /// Series of requests that were asked for.
    request_series: AtomicUsize,
    panics: Counter,
    sent_away: Counter,
    plaintext_exempt: Counter,
    mirrored_received: Counter,
    handshakes: [HandshakeCounters; 2],
    /// Made by the first who asks.
    edges: OnceLock<Arc<Edges>>,
    discovery_connected: Gauge,
    config_age: Gauge,
    scopes: Mutex<Scopes>,
    collectors: Mutex<Vec<Collector>>,
    retained: Mutex<RetainedCounters>,
    /// Locked before `scopes`, or alone.
    traffic: Mutex<Traffic>,
    /// Set before traffic comes, where traces are exported.
    tracer: OnceLock<Tracer>,
    watchers: Watchers,
    /// Set before traffic comes, where requests have a further label.
    header_label: OnceLock<HeaderLabel>,
}

/// By family name and label text.
type RetainedCounters = BTreeMap<(&'static str, String), (&'static Family, f64)>;

struct Scopes {
    peers: Bounded<Arc<str>>,
    server_names: Bounded<Arc<str>>,
    limits: Bounded<&'static str>,
    /// How many were sent.
    retries: HashMap<RetryLabels, Arc<AtomicU64>>,
    mirrors: Bounded<(Arc<str>, Arc<str>)>,
    audited: HashMap<(Arc<str>, Arc<str>), Counter>,
    requests: HashMap<ScopeLabels, Arc<RequestScope>>,
    tcp: HashMap<TcpLabels, Arc<TcpScope>>,
    fresh: Fresh,
}

impl Telemetry {
    /// An empty registry for the process that `process` names.
    pub fn new(process: ProcessLabels) -> Arc<Self> {
        let recorder = WeftRecorder::new();
        let handshakes = [Origin::Inbound, Origin::Outbound]
            .map(|direction| HandshakeCounters::new(&recorder, direction));
        for direction in [Origin::Inbound, Origin::Outbound] {
            recorder
                .gauge(&families::TCP_OPEN, &[("direction", direction.as_str())])
                .set(0.0);
        }
        Arc::new(Self {
            process,
            panics: recorder.counter(&families::PANICS, &[]),
            sent_away: recorder.counter(&families::SENT_AWAY, &[]),
            plaintext_exempt: recorder.counter(&families::PLAINTEXT_EXEMPT, &[]),
            mirrored_received: recorder.counter(&families::MIRRORED_RECEIVED, &[]),
            handshakes,
            edges: OnceLock::new(),
            discovery_connected: recorder.gauge(&families::DISCOVERY_CONNECTED, &[]),
            config_age: recorder.gauge(&families::CONFIG_AGE, &[]),
            scopes: Mutex::new(Scopes {
                peers: Bounded::new(MAX_PEERS),
                server_names: Bounded::new(MAX_SERVER_NAMES),
                limits: Bounded::new(MAX_LIMITS),
                retries: HashMap::new(),
                mirrors: Bounded::new(MAX_SCOPES),
                audited: HashMap::new(),
                requests: HashMap::new(),
                tcp: HashMap::new(),
                fresh: Fresh::default(),
            }),
            collectors: Mutex::default(),
            retained: Mutex::default(),
            traffic: Mutex::new(Traffic::new()),
            tracer: OnceLock::new(),
            watchers: Watchers::new(),
            header_label: OnceLock::new(),
            recorder,
            request_series: AtomicUsize::new(0),
        })
    }

    /// Whose metrics these are.
    pub fn process(&self) -> &ProcessLabels {
        &self.process
    }

    /// Makes spans of exchanges from now on. What was set first stays.
    pub fn set_tracer(&self, tracer: Tracer) {
        // A second one would be a second exporter's, which nobody has.
        let _ = self.tracer.set(tracer);
    }

    /// What makes spans, where traces are exported.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.get()
    }

    /// Requests have a further label from now on, and the metrics that are made from now on. What was set
    /// first stays.
    pub fn set_header_label(&self, settings: HeaderLabelSettings) {
        let beyond = self.limit("header_label_values");
        let _ = self.header_label.set(HeaderLabel::new(settings, beyond));
    }

    /// The value of that label for a request with these headers.
    pub(crate) fn label_value(&self, headers: &HeaderMap) -> LabelValue {
        let label = self.header_label.get();
        label.map_or_else(LabelValue::default, |label| label.of(headers))
    }

    /// Who may want to know of exchanges.
    pub fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// The handle for requests with these labels; the same for the same labels.
    pub fn request_scope(self: &Arc<Self>, mut labels: ScopeLabels) -> Arc<RequestScope> {
        let mut scopes = self.scopes.lock();
        let scopes = &mut *scopes;
        labels.peer = self.bounded_peer(scopes, labels.peer);
        if !scopes.requests.contains_key(&labels) && scopes.requests.len() >= MAX_SCOPES {
            labels = ScopeLabels {
                service: OVERFLOW.into(),
                route: OVERFLOW.into(),
                backend: OVERFLOW.into(),
                peer: OVERFLOW.into(),
                ..labels
            };
            self.hit(scopes, "request_scopes");
        }
        let Scopes {
            requests, fresh, ..
        } = scopes;
        Arc::clone(requests.entry(labels).or_insert_with_key(|labels| {
            let scope = Arc::new(RequestScope::new(Arc::clone(self), labels.clone()));
            fresh.requests.push(Arc::clone(&scope));
            scope
        }))
    }

    /// The handle for opaque connections with these labels; the same for the same labels.
    pub fn tcp_scope(self: &Arc<Self>, mut labels: TcpLabels) -> Arc<TcpScope> {
        let mut scopes = self.scopes.lock();
        let scopes = &mut *scopes;
        labels.peer = self.bounded_peer(scopes, labels.peer);
        labels.sni = labels
            .sni
            .map(|name| self.bounded_server_name(scopes, name));
        if !scopes.tcp.contains_key(&labels) && scopes.tcp.len() >= MAX_SCOPES {
            labels = TcpLabels {
                service: OVERFLOW.into(),
                backend: OVERFLOW.into(),
                peer: OVERFLOW.into(),
                sni: None,
                ..labels
            };
            self.hit(scopes, "tcp_scopes");
        }
        let Scopes { tcp, fresh, .. } = scopes;
        Arc::clone(tcp.entry(labels).or_insert_with_key(|labels| {
            let scope = Arc::new(TcpScope::new(Arc::clone(self), labels.clone()));
            fresh.tcp.push(Arc::clone(&scope));
            scope
        }))
    }

    /// The handles for retries of one (service, route, backend), named as in [`ScopeLabels`].
    pub fn retry_counters(
        &self,
        service: &Arc<str>,
        route: &Arc<str>,
        backend: &Arc<str>,
    ) -> RetryCounters {
        let mut scopes = self.scopes.lock();
        let mut labels = (Arc::clone(service), Arc::clone(route), Arc::clone(backend));
        if !scopes.retries.contains_key(&labels) && scopes.retries.len() >= MAX_SCOPES {
            labels = (OVERFLOW.into(), OVERFLOW.into(), OVERFLOW.into());
            self.hit(&mut scopes, "retry_scopes");
        }
        let Scopes { retries, fresh, .. } = &mut *scopes;
        let sent = retries.entry(labels.clone()).or_insert_with_key(|labels| {
            let sent = Arc::default();
            fresh.retries.push((labels.clone(), Arc::clone(&sent)));
            sent
        });
        RetryCounters::new(Arc::clone(sent), |result| {
            self.recorder.counter(
                &families::RETRIES,
                &[
                    ("service", &labels.0),
                    ("route", &labels.1),
                    ("backend", &labels.2),
                    ("result", result.as_str()),
                ],
            )
        })
    }

    /// The handles for copies of requests to `service` that go to `backend`.
    pub fn mirror_counters(&self, service: &Arc<str>, backend: &Arc<str>) -> MirrorCounters {
        let mut scopes = self.scopes.lock();
        let key = (Arc::clone(service), Arc::clone(backend));
        let (service, backend): (&str, &str) = if scopes.mirrors.admits(key) {
            (service, backend)
        } else {
            self.hit(&mut scopes, "mirror_scopes");
            (OVERFLOW, OVERFLOW)
        };
        MirrorCounters::new(|result| {
            self.recorder.counter(
                &families::MIRRORED,
                &[
                    ("service", service),
                    ("backend", backend),
                    ("result", result.as_str()),
                ],
            )
        })
    }

    /// The counter of a bound that was hit. Resolved once by whoever guards the bound, so that it
    /// shows as 0 before.
    pub fn limit(&self, name: &'static str) -> Counter {
        self.limit_counter(&mut self.scopes.lock(), name)
    }

    /// Counts a mesh TLS handshake that came about.
    pub fn tls_handshake(&self, direction: Origin) {
        self.handshakes[direction as usize].succeeded();
    }

    /// Counts a mesh TLS handshake that failed, by result and by reason.
    pub fn tls_handshake_failed(&self, direction: Origin, fault: HandshakeFault) {
        self.handshakes[direction as usize].failed(fault);
    }

    /// Counts a plaintext request that passed a strict port.
    pub fn plaintext_exempt(&self) {
        self.plaintext_exempt.increment(1);
    }

    /// Counts a request or connection of `peer` to `service` that was let in only because the policy
    /// audits. It takes a lock: for what is not to last.
    pub fn audited(&self, service: &Arc<str>, peer: &Arc<str>) {
        let mut scopes = self.scopes.lock();
        let peer = self.bounded_peer(&mut scopes, Arc::clone(peer));
        let mut key = (Arc::clone(service), peer);
        if !scopes.audited.contains_key(&key) && scopes.audited.len() >= MAX_SCOPES {
            key = (OVERFLOW.into(), OVERFLOW.into());
            self.hit(&mut scopes, "audited_scopes");
        }
        let counter = scopes.audited.entry(key).or_insert_with_key(|key| {
            let (service, peer) = key;
            let labels = [
                ("direction", Origin::Inbound.as_str()),
                ("workload", &*self.process.workload),
                ("namespace", &*self.process.namespace),
                ("service", service),
                ("peer", peer),
            ];
            self.recorder.counter(&families::AUDITED, &labels)
        });
        counter.increment(1);
    }

    /// Counts a copy of a request that came from another sidecar.
    pub fn mirrored_received(&self) {
        self.mirrored_received.increment(1);
    }

    /// Who called this workload and whom it called.
    pub fn edges(&self) -> &Arc<Edges> {
        self.edges.get_or_init(|| Edges::new(self.limit("edges")))
    }

    /// The counter of connections whose clients were told to make another.
    pub fn sent_away(&self) -> &Counter {
        &self.sent_away
    }

    /// The counter of panicked tasks.
    pub fn panics(&self) -> &Counter {
        &self.panics
    }

    /// Tells when this workload's certificate expires.
    pub fn set_certificate_expiry(&self, expiry: SystemTime) {
        let seconds = expiry.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.recorder
            .gauge(&families::CERTIFICATE_EXPIRY, &[])
            .set(seconds.as_secs_f64());
    }

    /// Tells whether the discovery stream stands, and for how many seconds the configuration has not
    /// been known to be current (0 while the stream stands).
    pub fn set_discovery(&self, connected: bool, config_age_seconds: f64) {
        self.discovery_connected.set(u32::from(connected));
        self.config_age.set(config_age_seconds);
    }

    /// Asks `collector` at each rendering, for as long as the process lives. It may keep nothing
    /// locked for long, must write only [`families::COLLECTED`] and may not call back into this
    /// registry.
    pub fn register_collector(&self, collector: Collector) {
        self.collectors.lock().push(collector);
    }

    /// Keeps what has been counted by now, so that windows can be told that begin here.
    pub fn remember_traffic(&self) {
        let mut traffic = self.traffic.lock();
        traffic.meet(self.take_fresh());
        traffic.remember(Instant::now());
    }

    /// This sidecar's traffic, but for who it is. Reads every number once.
    pub fn traffic(&self, query: &TrafficQuery) -> Summary {
        let mut traffic = self.traffic.lock();
        traffic.meet(self.take_fresh());
        traffic.summary(query, Instant::now())
    }

    fn take_fresh(&self) -> Fresh {
        std::mem::take(&mut self.scopes.lock().fresh)
    }

    /// Everything as Prometheus text, version 0.0.4.
    pub fn render(&self) -> String {
        let collected = self.collect();
        let mut text = String::new();
        self.recorder.write(&mut text);
        collected.write(&mut text);
        text
    }

    fn collect(&self) -> Exposition {
        let mut exposition = Exposition::default();
        exposition.gauge(
            &families::BUILD_INFO,
            &[("version", env!("CARGO_PKG_VERSION"))],
            1.0,
        );
        process::collect(&mut exposition);
        let collectors = self.collectors.lock().clone();
        for collector in collectors {
            collector(&mut exposition);
        }
        self.retain_counters(&mut exposition);
        if exposition.refused() > 0 {
            self.limit("collected_samples")
                .increment(exposition.refused() as u64);
        }
        exposition
    }

    /// Keeps counters from vanishing: what a collector no longer tells keeps its last value.
    fn retain_counters(&self, exposition: &mut Exposition) {
        let mut retained = self.retained.lock();
        for ((_, labels), (family, value)) in &*retained {
            exposition.restore(family, labels, *value);
        }
        let mut refused = 0;
        for (family, labels, value) in exposition.counters() {
            let key = (family.name, labels.to_owned());
            if retained.len() < MAX_RETAINED_COUNTERS || retained.contains_key(&key) {
                retained.insert(key, (family, value));
            } else {
                refused += 1;
            }
        }
        if refused > 0 {
            self.limit("retained_counters").increment(refused);
        }
    }

    /// A counter of a family whose labels are few and known.
    fn counter(&self, family: &Family, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.counter(family, labels)
    }

    fn bounded_peer(&self, scopes: &mut Scopes, peer: Arc<str>) -> Arc<str> {
        if &*peer == OTHER_PEER || scopes.peers.admits(Arc::clone(&peer)) {
            return peer;
        }
        self.hit(scopes, "peers");
        OTHER_PEER.into()
    }

    /// Clients choose these names.
    fn bounded_server_name(&self, scopes: &mut Scopes, name: Arc<str>) -> Arc<str> {
        if &*name == OTHER_SERVER_NAME || scopes.server_names.admits(Arc::clone(&name)) {
            return name;
        }
        self.hit(scopes, "server_names");
        OTHER_SERVER_NAME.into()
    }

    fn hit(&self, scopes: &mut Scopes, limit: &'static str) {
        self.limit_counter(scopes, limit).increment(1);
    }

    fn limit_counter(&self, scopes: &mut Scopes, name: &'static str) -> Counter {
        let name = if scopes.limits.admits(name) {
            name
        } else {
            OVERFLOW
        };
        self.recorder
            .counter(&families::LIMIT_HITS, &[("limit", name)])
    }
}
