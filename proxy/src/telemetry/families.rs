//! Every metric family that a sidecar shows: its name, its kind and what it means.
//!
//! A family is written either through handles or by collectors, never by both: two parts of one
//! family would stand under two `TYPE` lines, which scrapers refuse.

/// What the values of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts per bucket.
    Histogram,
}

impl Kind {
    /// The word after `TYPE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric family.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// Every label that its series may have; `le` of a histogram's buckets is understood.
    pub labels: &'static [&'static str],
    /// What it means, one line.
    pub help: &'static str,
}

impl Family {
    /// Whether all of these labels are among the family's.
    pub(super) fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(label, _)| self.labels.contains(label))
    }
}

macro_rules! families {
    ($all:ident: $($family:ident = $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(#[doc = $help] pub static $family: Family = Family {
            name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help,
        };)*
        /// All of this group.
        pub static $all: &[&Family] = &[$(&$family),*];
    };
}

families! { HANDLED:
    REQUESTS = Counter "weft_requests_total" ["direction" "workload" "namespace" "service" "route" "backend" "peer" "method" "status" "grpc_status" "outcome" "tls"] "Requests by how they ended.";
    REQUEST_DURATION = Histogram "weft_request_duration_seconds" ["direction" "workload" "namespace" "service" "route" "backend"] "Time from the first byte of the request to the last byte of the response.";
    HEADER_REQUEST_DURATION = Histogram "weft_header_request_duration_seconds" ["direction" "workload" "namespace" "service"] "Time from the first byte of the request to the last byte of the response by the label that WEFT_METRICS_HEADER_LABEL adds, for all routes and backends together.";
    RETRIES = Counter "weft_retries_total" ["service" "route" "backend" "result"] "Further tries of requests: sent, or given up and why.";
    MIRRORED = Counter "weft_mirrored_requests_total" ["service" "backend" "result"] "Copies of requests by what became of them.";
    MIRRORED_RECEIVED = Counter "weft_mirrored_requests_received_total" [] "Copies of requests that other sidecars sent; no other metric counts them.";
    TCP_CONNECTIONS = Counter "weft_tcp_connections_total" ["direction" "workload" "namespace" "service" "backend" "peer" "outcome" "tls" "sni"] "Opaque connections by how they ended.";
    TCP_OPEN = Gauge "weft_tcp_open_connections" ["direction"] "Opaque connections that are open now.";
    TCP_READ = Counter "weft_tcp_read_bytes_total" ["direction" "workload" "namespace" "service" "backend" "peer"] "Bytes read from the peers that opened opaque connections.";
    TCP_WRITE = Counter "weft_tcp_write_bytes_total" ["direction" "workload" "namespace" "service" "backend" "peer"] "Bytes written to the peers that opened opaque connections.";
    TLS_HANDSHAKES = Counter "weft_tls_handshakes_total" ["direction" "result"] "Mesh TLS handshakes by result.";
    TLS_HANDSHAKE_FAILURES = Counter "weft_tls_handshake_failures_total" ["direction" "reason"] "Mesh TLS handshakes that failed by reason.";
    CERTIFICATE_EXPIRY = Gauge "weft_certificate_expiry_timestamp_seconds" [] "When this workload's certificate expires, in seconds since the Unix epoch.";
    CONFIG_AGE = Gauge "weft_config_age_seconds" [] "Seconds since the configuration was last known to be current; 0 while the discovery stream stands.";
    DISCOVERY_CONNECTED = Gauge "weft_discovery_connected" [] "Whether the discovery stream to the control plane stands.";
    PLAINTEXT_EXEMPT = Counter "weft_plaintext_exempt_total" [] "Plaintext requests that passed a strict port because they are declared probes or paths.";
    AUDITED = Counter "weft_authorization_audited_total" ["direction" "workload" "namespace" "service" "peer"] "Requests and opaque connections that an authorization would have denied if it enforced.";
    TRACE_SPANS = Counter "weft_trace_spans_total" ["result"] "Spans of sampled requests by what became of them; only where traces are exported.";
    SENT_AWAY = Counter "weft_connections_sent_away_total" [] "HTTP connections whose clients were told to make another, as the data thread that served them could not keep up and others had time.";
    PANICS = Counter "weft_panics_total" [] "Tasks of this process that panicked; each is a bug.";
    LIMIT_HITS = Counter "weft_limit_hits_total" ["limit"] "Times that a bound of this process was hit, by its name.";
}

families! { COLLECTED:
    CERTIFICATE_RENEWALS = Counter "weft_certificate_renewals_total" ["result"] "Certificates that this workload asked for: received, or not.";
    TRUST_ROOT = Gauge "weft_trust_root_info" ["fingerprint"] "1 for each root that this workload trusts, by the begin of its SHA-256 fingerprint.";
    BREAKER_STATE = Gauge "weft_circuit_breaker_state" ["backend" "endpoint" "state"] "1 for the state that a circuit breaker is in, 0 for the others.";
    BREAKER_TRANSITIONS = Counter "weft_circuit_breaker_transitions_total" ["backend" "to"] "Changes of state of a backend's circuit breakers.";
    ENDPOINTS = Gauge "weft_endpoints" ["backend" "state"] "Endpoints of a backend by state.";
    BACKEND_REQUESTS = Gauge "weft_backend_requests_in_flight" ["service" "backend"] "Requests in flight to a backend whose requests are capped.";
    BACKEND_CONNECTIONS = Gauge "weft_backend_connections" ["service" "backend"] "Open connections to a backend that has limits.";
    BACKEND_PENDING = Gauge "weft_backend_requests_pending" ["service" "backend"] "Requests that wait for a place under a backend's limits.";
    BACKEND_OVERFLOW = Counter "weft_backend_limit_overflow_total" ["service" "backend" "limit"] "Requests and opaque connections refused because a limit of a backend and its queue were full.";
    BUILD_INFO = Gauge "weft_build_info" ["version"] "Always 1; the labels say what runs.";
    CONNTRACK_ENTRIES = Gauge "weft_conntrack_entries" [] "Connections that the kernel tracks in the pod's network.";
    CONNTRACK_LIMIT = Gauge "weft_conntrack_limit" [] "Connections that the kernel can track; beyond it packets of new ones are dropped.";
    PROCESS_CPU = Counter "process_cpu_seconds_total" [] "Processor time that the process used, user and system.";
    PROCESS_MEMORY = Gauge "process_resident_memory_bytes" [] "Memory of the process that is resident.";
    PROCESS_FDS = Gauge "process_open_fds" [] "Open file descriptors of the process.";
    PROCESS_START = Gauge "process_start_time_seconds" [] "When the process started, in seconds since the Unix epoch.";
}
