//! The `metrics` recorder behind the handles: the exporter's for counters and gauges, ours for
//! histograms.
//!
//! The exporter's own histogram keeps every sample until it is rendered: unbounded, so not for a
//! sidecar. A histogram past [`MAX_HISTOGRAMS`] records nowhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::Mutex;

use super::exposition::{label_text, write_head, write_histogram};
use super::families::{self, Family, Kind};
use super::histogram::LatencyHistogram;

/// Histograms that a process may have.
pub const MAX_HISTOGRAMS: usize = 2_048;

static METADATA: Metadata<'static> = Metadata::new("weft", Level::INFO, None);

/// Makes handles and renders what they hold.
pub(super) struct WeftRecorder {
    exporter: PrometheusRecorder,
    handle: PrometheusHandle,
    histograms: Mutex<Histograms>,
}

#[derive(Default)]
struct Histograms {
    families: BTreeMap<String, HistogramFamily>,
    /// Of all families.
    count: usize,
}

#[derive(Default)]
struct HistogramFamily {
    help: SharedString,
    /// By label text.
    members: BTreeMap<String, Arc<LatencyHistogram>>,
}

impl WeftRecorder {
    /// With every family of ours described.
    pub(super) fn new() -> Self {
        let exporter = PrometheusBuilder::new().build_recorder();
        let recorder = Self {
            handle: exporter.handle(),
            exporter,
            histograms: Mutex::default(),
        };
        for family in families::HANDLED {
            let name = KeyName::from_const_str(family.name);
            match family.kind {
                Kind::Counter => recorder.describe_counter(name, None, family.help.into()),
                Kind::Gauge => recorder.describe_gauge(name, None, family.help.into()),
                Kind::Histogram => recorder.describe_histogram(name, None, family.help.into()),
            }
        }
        recorder
    }

    /// The counter of these labels; it shows from now on.
    pub(super) fn counter(&self, family: &Family, labels: &[(&'static str, &str)]) -> Counter {
        self.counter_with(family, labels, None)
    }

    /// The same with a further label, which is not among the family's.
    pub(super) fn counter_with(
        &self,
        family: &Family,
        labels: &[(&'static str, &str)],
        further: Option<(&str, &str)>,
    ) -> Counter {
        let mut key = key(family, labels);
        if let Some((name, value)) = further {
            let label = Label::new(name.to_owned(), value.to_owned());
            key = key.with_extra_labels(vec![label]);
        }
        self.register_counter(&key, &METADATA)
    }

    /// The gauge of these labels; it shows from now on.
    pub(super) fn gauge(&self, family: &Family, labels: &[(&'static str, &str)]) -> Gauge {
        self.register_gauge(&key(family, labels), &METADATA)
    }

    /// The histogram of these labels, `None` past the bound.
    pub(super) fn histogram(
        &self,
        family: &Family,
        labels: &[(&'static str, &str)],
    ) -> Option<Arc<LatencyHistogram>> {
        self.histogram_with(family, labels, None)
    }

    /// The same with a further label, which is not among the family's.
    pub(super) fn histogram_with(
        &self,
        family: &Family,
        labels: &[(&'static str, &str)],
        further: Option<(&str, &str)>,
    ) -> Option<Arc<LatencyHistogram>> {
        debug_assert!(family.has(labels), "{}: {labels:?}", family.name);
        let labels = labels.iter().copied().chain(further);
        self.find_histogram(family.name, label_text(labels))
    }

    /// Appends the text of everything that handles were made for.
    pub(super) fn write(&self, text: &mut String) {
        text.push_str(&self.handle.render());
        for (name, family) in &self.histograms.lock().families {
            if family.members.is_empty() {
                continue;
            }
            write_head(text, name, Kind::Histogram, &family.help);
            for (labels, histogram) in &family.members {
                write_histogram(text, name, labels, &histogram.snapshot());
            }
            text.push('\n');
        }
    }

    fn find_histogram(&self, name: &str, labels: String) -> Option<Arc<LatencyHistogram>> {
        let mut histograms = self.histograms.lock();
        let Histograms { families, count } = &mut *histograms;
        let family = families.entry(name.to_owned()).or_default();
        if let Some(found) = family.members.get(&labels) {
            return Some(Arc::clone(found));
        }
        if *count == MAX_HISTOGRAMS {
            return None;
        }
        *count += 1;
        let made = Arc::<LatencyHistogram>::default();
        family.members.insert(labels, Arc::clone(&made));
        Some(made)
    }
}

impl Recorder for WeftRecorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, _unit: Option<Unit>, description: SharedString) {
        let mut histograms = self.histograms.lock();
        let family = histograms.families.entry(key.as_str().to_owned());
        family.or_default().help = description;
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.exporter.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.exporter.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        let labels = label_text(key.labels().map(|label| (label.key(), label.value())));
        self.find_histogram(key.name(), labels)
            .map_or_else(Histogram::noop, Histogram::from_arc)
    }
}

fn key(family: &Family, labels: &[(&'static str, &str)]) -> Key {
    debug_assert!(family.has(labels), "{}: {labels:?}", family.name);
    let labels: Vec<Label> = labels
        .iter()
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    Key::from_parts(family.name.to_owned(), labels)
}
