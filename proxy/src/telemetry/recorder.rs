//! The numbers behind the handles: one per series, with its labels as text.
//!
//! Labels become text once, when a handle is made; to render is to copy that and to write the number. (The
//! Prometheus exporter makes the labels of every series anew for every scrape, and its histograms keep
//! every sample until they are rendered: neither is for a sidecar.) The handles are the `metrics` facade's.
//! Nobody who counts waits for who renders; who makes a handle waits for one family at most.
//!
//! Who makes handles sees to bounds; but for histograms, of which those past [`MAX_HISTOGRAMS`] record
//! nowhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use metrics::{Counter, Gauge};
use parking_lot::Mutex;

use super::exposition::{label_text, write_head, write_histogram, write_labels};
use super::families::{self, Family, Kind};
use super::histogram::LatencyHistogram;

/// Histograms that a process may have.
pub const MAX_HISTOGRAMS: usize = 2_048;

/// Makes handles and renders what they hold.
pub(super) struct WeftRecorder {
    families: BTreeMap<&'static str, (&'static Family, Mutex<Members>)>,
    /// Of all families.
    histograms: AtomicUsize,
}

/// The series of a family, by label text; of a family's kind only.
#[derive(Default)]
struct Members {
    /// Counters, and gauges as the bits of an `f64`.
    numbers: BTreeMap<Box<str>, Arc<AtomicU64>>,
    histograms: BTreeMap<Box<str>, Arc<LatencyHistogram>>,
}

impl WeftRecorder {
    /// With every family of ours that is written through handles.
    pub(super) fn new() -> Self {
        let families = families::HANDLED.iter();
        Self {
            families: families
                .map(|family| (family.name, (*family, Mutex::default())))
                .collect(),
            histograms: AtomicUsize::new(0),
        }
    }

    /// The counter of these labels; it shows from now on.
    pub(super) fn counter(&self, family: &Family, labels: &[(&'static str, &str)]) -> Counter {
        debug_assert_eq!(family.kind, Kind::Counter, "{}", family.name);
        Counter::from_arc(self.number(family, labels, None))
    }

    /// The gauge of these labels; it shows from now on.
    pub(super) fn gauge(&self, family: &Family, labels: &[(&'static str, &str)]) -> Gauge {
        debug_assert_eq!(family.kind, Kind::Gauge, "{}", family.name);
        Gauge::from_arc(self.number(family, labels, None))
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
        debug_assert_eq!(family.kind, Kind::Histogram, "{}", family.name);
        let labels = text(family, labels, further);
        let mut members = self.members(family).lock();
        if let Some(found) = members.histograms.get(&*labels) {
            return Some(Arc::clone(found));
        }
        if self.histograms.fetch_add(1, Ordering::Relaxed) >= MAX_HISTOGRAMS {
            self.histograms.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let made = Arc::<LatencyHistogram>::default();
        members.histograms.insert(labels, Arc::clone(&made));
        Some(made)
    }

    /// Appends the text of everything that handles were made for.
    pub(super) fn write(&self, text: &mut String) {
        for (name, (family, members)) in &self.families {
            let members = members.lock();
            if members.numbers.is_empty() && members.histograms.is_empty() {
                continue;
            }
            write_head(text, name, family.kind, family.help);
            for (labels, number) in &members.numbers {
                text.push_str(name);
                write_labels(text, labels, None);
                let number = number.load(Ordering::Relaxed);
                // A `String` takes everything.
                let _ = match family.kind {
                    Kind::Gauge => writeln!(text, " {}", f64::from_bits(number)),
                    _ => writeln!(text, " {number}"),
                };
            }
            for (labels, histogram) in &members.histograms {
                write_histogram(text, name, labels, &histogram.snapshot());
            }
            text.push('\n');
        }
    }

    /// The number of these labels, for who reads it too; with a further label, which is not among the
    /// family's. It shows from now on.
    pub(super) fn number(
        &self,
        family: &Family,
        labels: &[(&'static str, &str)],
        further: Option<(&str, &str)>,
    ) -> Arc<AtomicU64> {
        let labels = text(family, labels, further);
        let mut members = self.members(family).lock();
        Arc::clone(members.numbers.entry(labels).or_default())
    }

    fn members(&self, family: &Family) -> &Mutex<Members> {
        let known = self.families.get(family.name);
        &known
            .expect("handles are made of families that have handles")
            .1
    }
}

fn text(
    family: &Family,
    labels: &[(&'static str, &str)],
    further: Option<(&str, &str)>,
) -> Box<str> {
    debug_assert!(family.has(labels), "{}: {labels:?}", family.name);
    label_text(labels.iter().copied().chain(further)).into()
}
