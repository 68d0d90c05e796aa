//! The webhook's own metrics, from a recorder that is a value: no global registry. Every label's value is
//! one of a few words of ours.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use weft_proto::process::Process;

use crate::watch::Progress;

const METADATA: Metadata<'static> = Metadata::new("weft", Level::INFO, None);
const REQUESTS: &str = "weft_injector_requests_total";
const DURATION: &str = "weft_injector_request_duration_seconds";

/// Upper bounds of the histogram's buckets in microseconds, inclusive, and as a scraper reads them in
/// seconds; one more bucket holds the rest. The API server waits for 5 s.
const BOUNDS: [(u64, &str); 12] = [
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (5_000_000, "5"),
];

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The pod got a sidecar.
    Patched,
    /// It stays as it is.
    Skipped,
    /// It must not run as it is.
    Refused,
    /// There is no good answer.
    Failed,
}

/// Every metric of the process, and how to print them.
pub struct Metrics {
    exposition: PrometheusHandle,
    recorder: PrometheusRecorder,
    durations: Histogram,
    pub(crate) expiry: Gauge,
    pub(crate) is_ready: Gauge,
    pub(crate) events_lost: Counter,
    pub(crate) handshakes_failed: Counter,
    pub(crate) connections_over_limit: Counter,
}

impl Fate {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Patched => "patched",
            Self::Skipped => "skipped",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl Metrics {
    /// Registers everything, so that each metric is there from the first scrape on.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let exposition = recorder.handle();
        let refusals = |what| {
            counter(
                &recorder,
                "weft_injector_refusals_total",
                "Connections that were refused, by what or which limit it was.",
                vec![Label::from_static_parts("what", what)],
            )
        };
        let this = Self {
            durations: Histogram::default(),
            expiry: gauge(
                &recorder,
                "weft_injector_certificate_expiry_timestamp_seconds",
                "When the certificate that is served expires; 0 without one.",
                Vec::new(),
            ),
            is_ready: gauge(
                &recorder,
                "weft_injector_ready",
                "Whether the API server can have pods patched by this replica.",
                Vec::new(),
            ),
            events_lost: counter(
                &recorder,
                "weft_injector_events_lost_total",
                "Events on the owners of pods that were not made.",
                Vec::new(),
            ),
            handshakes_failed: refusals("handshake"),
            connections_over_limit: refusals("connection_limit"),
            exposition,
            recorder,
        };
        for (fate, reason) in [
            (Fate::Patched, "asked"),
            (Fate::Refused, "invalid"),
            (Fate::Failed, "namespace_unknown"),
        ] {
            this.requests(fate, reason).increment(0);
        }
        let version = vec![
            Label::from_static_parts("version", env!("CARGO_PKG_VERSION")),
            Label::from_static_parts("program", "weft-injector"),
        ];
        let what = "Always 1; the labels say what runs.";
        gauge(&this.recorder, "weft_build_info", what, version).set(1.0);
        this
    }

    /// Counts a request.
    pub fn count(&self, fate: Fate, reason: &'static str, took: Duration) {
        self.requests(fate, reason).increment(1);
        self.durations.record(took);
    }

    /// Takes over how the watches are doing, as of now.
    pub fn observe(&self, progress: &Progress) {
        for watch in progress.watches() {
            let kind = || vec![Label::from_static_parts("kind", watch.kind)];
            let errors = counter(
                &self.recorder,
                "weft_injector_watch_errors_total",
                "Failures of lists and watches, by the kind of object.",
                kind(),
            );
            errors.absolute(watch.errors);
            let up = gauge(
                &self.recorder,
                "weft_injector_watch_up",
                "Whether what there is of a kind of object is known and followed.",
                kind(),
            );
            up.set(f64::from(u8::from(watch.synced && watch.trouble.is_none())));
        }
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = self.exposition.render();
        self.durations.render(&mut text);
        Process::read().render(&mut text);
        text
    }

    fn requests(&self, fate: Fate, reason: &'static str) -> Counter {
        counter(
            &self.recorder,
            REQUESTS,
            "Reviews that were asked for, by what became of the pod and why.",
            vec![
                Label::from_static_parts("outcome", fate.word()),
                Label::from_static_parts("reason", reason),
            ],
        )
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Durations in fixed buckets: memory that never grows.
#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS.partition_point(|(bound, _)| *bound < micros);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn render(&self, text: &mut String) {
        let mut put = |line: std::fmt::Arguments<'_>| {
            text.write_fmt(line).expect("strings take everything");
        };
        put(format_args!(
            "# HELP {DURATION} From a request's head to its answer.\n# TYPE {DURATION} histogram\n"
        ));
        let mut count = 0;
        let bounds = BOUNDS.iter().map(|(_, text)| *text).chain(["+Inf"]);
        for (bucket, bound) in self.buckets.iter().zip(bounds) {
            count += bucket.load(Ordering::Relaxed);
            put(format_args!(
                "{DURATION}_bucket{{le=\"{bound}\"}} {count}\n"
            ));
        }
        let sum = Duration::from_micros(self.sum_micros.load(Ordering::Relaxed));
        put(format_args!("{DURATION}_sum {}\n", sum.as_secs_f64()));
        put(format_args!("{DURATION}_count {count}\n"));
    }
}

fn counter(
    recorder: &PrometheusRecorder,
    name: &'static str,
    what: &'static str,
    labels: Vec<Label>,
) -> Counter {
    recorder.describe_counter(KeyName::from_const_str(name), None, what.into());
    recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
}

fn gauge(
    recorder: &PrometheusRecorder,
    name: &'static str,
    what: &'static str,
    labels: Vec<Label>,
) -> Gauge {
    recorder.describe_gauge(KeyName::from_const_str(name), None, what.into());
    recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_outcome_and_their_times_by_bucket() {
        let metrics = Metrics::new();
        metrics.count(Fate::Patched, "asked", Duration::from_micros(700));
        metrics.count(Fate::Patched, "asked", Duration::from_millis(1));
        metrics.count(Fate::Skipped, "host_network", Duration::from_secs(9));
        let page = metrics.render();
        for line in [
            r#"weft_injector_requests_total{outcome="patched",reason="asked"} 2"#,
            r#"weft_injector_requests_total{outcome="skipped",reason="host_network"} 1"#,
            r#"weft_injector_requests_total{outcome="refused",reason="invalid"} 0"#,
            r#"weft_injector_request_duration_seconds_bucket{le="0.0005"} 0"#,
            r#"weft_injector_request_duration_seconds_bucket{le="0.001"} 2"#,
            r#"weft_injector_request_duration_seconds_bucket{le="5"} 2"#,
            r#"weft_injector_request_duration_seconds_bucket{le="+Inf"} 3"#,
            "weft_injector_request_duration_seconds_sum 9.0017",
            "weft_injector_request_duration_seconds_count 3",
            "weft_injector_certificate_expiry_timestamp_seconds 0",
        ] {
            assert!(
                page.lines().any(|it| it == line),
                "{line} is not in\n{page}"
            );
        }
        assert!(page.contains("weft_build_info{"), "{page}");
    }

    #[test]
    fn every_metric_is_documented() {
        let documented = include_str!("../../docs/injector.md");
        let metrics = Metrics::new();
        metrics.observe(&Progress::of_one("namespaces"));
        let page = metrics.render();
        let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names: Vec<_> = types.filter_map(|line| line.split(' ').next()).collect();
        assert!(names.len() >= 13, "{names:?}");
        for name in names {
            let begin = format!("| `{name}");
            assert!(
                documented.contains(&begin),
                "{name} is not in docs/injector.md"
            );
        }
    }
}
