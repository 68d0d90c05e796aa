//! The control plane's own metrics, as handles resolved once, from a recorder that is a value: no
//! global registry.

use std::collections::BTreeMap;
use std::time::SystemTime;

use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use weft_proto::process::Process;

use crate::source::progress::Progress;

const METADATA: Metadata<'static> = Metadata::new("weft", Level::INFO, None);

/// Every metric of the process, and how to print them.
pub struct Metrics {
    exposition: PrometheusHandle,
    recorder: PrometheusRecorder,
    pub(super) streams: Gauge,
    pub(super) model_revision: Gauge,
    pub(super) objects_refused: Gauge,
    pub(super) updates_sent: Counter,
    pub(super) acks: Counter,
    pub(super) nacks: Counter,
    pub(super) keys_ignored: Counter,
    pub(super) followed_behind: Counter,
    pub(super) certificates_issued: Counter,
    pub(super) certificates_refused: Counter,
    pub(super) streams_refused: Counter,
    pub(super) connections_over_limit: Counter,
    pub(super) handshakes_failed: Counter,
    pub(super) acks_dropped: Counter,
    pub(super) reports_cut: Counter,
    pub(super) peers_refused: Counter,
    pub(super) peers: Gauge,
    pub(super) peers_lost: Counter,
    pub(super) peers_beyond: Gauge,
    behind: Gauge,
    behind_seconds: Gauge,
}

impl Metrics {
    /// Registers everything, so that each metric is there from the first scrape on.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let exposition = recorder.handle();
        let this = Self {
            exposition,
            streams: gauge(
                &recorder,
                "weft_control_plane_streams",
                "Sidecars with an open discovery stream.",
            ),
            model_revision: gauge(
                &recorder,
                "weft_control_plane_model_revision",
                "Revision of the model that is served.",
            ),
            objects_refused: gauge(
                &recorder,
                "weft_control_plane_objects_refused",
                "Objects of the source that are refused at the moment.",
            ),
            updates_sent: counter(
                &recorder,
                "weft_control_plane_updates_sent_total",
                "Resource versions sent to sidecars.",
                None,
            ),
            acks: answer(&recorder, "ack"),
            nacks: answer(&recorder, "nack"),
            keys_ignored: counter(
                &recorder,
                "weft_control_plane_keys_ignored_total",
                "Subscriptions to keys of an unknown kind or over-long.",
                None,
            ),
            followed_behind: counter(
                &recorder,
                "weft_control_plane_followed_behind_total",
                "Resources sent although the sidecar held a newer version, after waiting.",
                None,
            ),
            certificates_issued: certificate(&recorder, "issued"),
            certificates_refused: certificate(&recorder, "refused"),
            streams_refused: refusal(&recorder, "stream"),
            connections_over_limit: refusal(&recorder, "connection_limit"),
            handshakes_failed: refusal(&recorder, "handshake"),
            acks_dropped: refusal(&recorder, "ack_limit"),
            reports_cut: refusal(&recorder, "report_limit"),
            peers_refused: refusal(&recorder, "replica"),
            peers: gauge(
                &recorder,
                "weft_control_plane_replicas_heard",
                "Other replicas whose counts are part of the sum.",
            ),
            peers_lost: counter(
                &recorder,
                "weft_control_plane_replicas_lost_total",
                "Times that another replica was gone or silent, and counted no more.",
                None,
            ),
            peers_beyond: gauge(
                &recorder,
                "weft_control_plane_replicas_beyond_limit",
                "Other replicas that are not asked, because there are too many.",
            ),
            behind: gauge(
                &recorder,
                "weft_control_plane_sidecars_behind",
                "Sidecars of this replica that have not confirmed the newest of what they are subscribed to.",
            ),
            behind_seconds: gauge(
                &recorder,
                "weft_control_plane_behind_seconds",
                "For how long a sidecar of this replica has not confirmed what is newest; 0 where all have.",
            ),
            recorder,
        };
        let version = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("program", "weft-control-plane"),
        ];
        let what = "Always 1; the labels say what runs.";
        this.gauge_with("weft_build_info", what, &version).set(1.0);
        this
    }

    /// Takes over how the source is doing, as of now. A source without watches has no metrics.
    pub fn observe(&self, progress: &Progress) {
        self.observe_permissions(progress);
        let watches = progress.watches();
        if watches.is_empty() {
            return;
        }
        let lag = gauge(
            &self.recorder,
            "weft_control_plane_source_lag_seconds",
            "From the arrival of the newest change to the model that has it.",
        );
        lag.set(progress.lag().as_secs_f64());
        for watch in watches {
            let kind = Some(("kind", watch.kind));
            let errors = counter(
                &self.recorder,
                "weft_control_plane_source_errors_total",
                "Failures of lists and watches, by the kind of object.",
                kind,
            );
            errors.absolute(watch.errors);
            let up = labelled_gauge(
                &self.recorder,
                "weft_control_plane_source_up",
                "Whether what there is of a kind of object is known and followed.",
                kind,
            );
            let works = watch.synced && watch.trouble.is_none();
            up.set(if works { 1.0 } else { 0.0 });
            let served = labelled_gauge(
                &self.recorder,
                "weft_control_plane_source_served",
                "Whether the API server has a kind of object at all.",
                kind,
            );
            served.set(if watch.absent { 0.0 } else { 1.0 });
        }
    }

    /// Takes over how many sidecars have not confirmed what is newest, and since when the longest.
    pub fn observe_behind(&self, count: usize, since: Option<SystemTime>) {
        let now = SystemTime::now();
        let late = since.and_then(|since| now.duration_since(since).ok());
        self.behind.set(count as f64);
        self.behind_seconds
            .set(late.unwrap_or_default().as_secs_f64());
    }

    /// One series for a verb and a resource: how many of the names that it is needed for are missing.
    fn observe_permissions(&self, progress: &Progress) {
        const NAME: &str = "weft_control_plane_permissions_missing";
        let mut missing: BTreeMap<(&'static str, String), u32> = BTreeMap::new();
        for (permission, granted) in progress.permissions() {
            let count = missing.entry((permission.verb, permission.resource));
            *count.or_default() += u32::from(!granted);
        }
        if missing.is_empty() {
            return;
        }
        let what =
            "What the control plane may not do in its cluster and needs to, by verb and resource.";
        self.recorder
            .describe_gauge(KeyName::from_const_str(NAME), None, what.into());
        for ((verb, resource), count) in missing {
            let labels = vec![Label::new("verb", verb), Label::new("resource", resource)];
            let gauge = self
                .recorder
                .register_gauge(&Key::from_parts(NAME, labels), &METADATA);
            gauge.set(f64::from(count));
        }
    }

    /// Registers a gauge of somebody above this module.
    pub fn gauge(&self, name: &'static str, description: &'static str) -> Gauge {
        gauge(&self.recorder, name, description)
    }

    /// The same with labels.
    pub fn gauge_with(
        &self,
        name: &'static str,
        description: &'static str,
        labels: &[(&'static str, &'static str)],
    ) -> Gauge {
        let key = KeyName::from_const_str(name);
        self.recorder.describe_gauge(key, None, description.into());
        let labels = labels
            .iter()
            .map(|(key, value)| Label::from_static_parts(key, value));
        let key = Key::from_parts(name, labels.collect::<Vec<_>>());
        self.recorder.register_gauge(&key, &METADATA)
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let mut page = self.exposition.render();
        Process::read().render(&mut page);
        page
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn answer(recorder: &PrometheusRecorder, answer: &'static str) -> Counter {
    counter(
        recorder,
        "weft_control_plane_answers_total",
        "Sidecars' answers to updates.",
        Some(("answer", answer)),
    )
}

fn certificate(recorder: &PrometheusRecorder, result: &'static str) -> Counter {
    counter(
        recorder,
        "weft_control_plane_certificates_total",
        "Certificate requests by what became of them.",
        Some(("result", result)),
    )
}

fn refusal(recorder: &PrometheusRecorder, what: &'static str) -> Counter {
    counter(
        recorder,
        "weft_control_plane_refusals_total",
        "What was refused, by what or which limit it was.",
        Some(("what", what)),
    )
}

fn counter(
    recorder: &PrometheusRecorder,
    name: &'static str,
    description: &'static str,
    label: Option<(&'static str, &'static str)>,
) -> Counter {
    recorder.describe_counter(KeyName::from_const_str(name), None, description.into());
    recorder.register_counter(&Key::from_parts(name, labels(label)), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, name: &'static str, description: &'static str) -> Gauge {
    labelled_gauge(recorder, name, description, None)
}

fn labelled_gauge(
    recorder: &PrometheusRecorder,
    name: &'static str,
    description: &'static str,
    label: Option<(&'static str, &'static str)>,
) -> Gauge {
    recorder.describe_gauge(KeyName::from_const_str(name), None, description.into());
    recorder.register_gauge(&Key::from_parts(name, labels(label)), &METADATA)
}

fn labels(label: Option<(&'static str, &'static str)>) -> Vec<Label> {
    let labels = label.into_iter();
    labels
        .map(|(key, value)| Label::from_static_parts(key, value))
        .collect()
}
