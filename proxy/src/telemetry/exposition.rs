//! Prometheus text exposition, version 0.0.4, for what does not go through the exporter.
//!
//! Collectors write samples in any order; the text is sorted by family and labels. A family is
//! written with one `HELP` and one `TYPE` line however many collectors contribute.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::families::{Family, Kind};
use super::histogram::{BOUNDS_TEXT, HistogramSnapshot};

/// Samples that one rendering takes from collectors; more are left out and counted.
pub const MAX_SAMPLES: usize = 20_000;

/// What collectors write into.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<&'static str, Collected>,
    samples: usize,
    refused: usize,
}

#[derive(Debug)]
struct Collected {
    family: &'static Family,
    /// By label text.
    samples: BTreeMap<String, f64>,
}

impl Exposition {
    /// A value that rises and falls. Of two with the same labels the later counts.
    pub fn gauge(&mut self, family: &'static Family, labels: &[(&str, &str)], value: f64) {
        debug_assert_eq!(family.kind, Kind::Gauge, "{}", family.name);
        debug_assert!(family.has(labels), "{}: {labels:?}", family.name);
        if let Some(sample) = self.sample(family, label_text(labels.iter().copied())) {
            *sample = value;
        }
    }

    /// A value that only rises. Several with the same labels are added.
    pub fn counter(&mut self, family: &'static Family, labels: &[(&str, &str)], value: f64) {
        debug_assert_eq!(family.kind, Kind::Counter, "{}", family.name);
        debug_assert!(family.has(labels), "{}: {labels:?}", family.name);
        if let Some(sample) = self.sample(family, label_text(labels.iter().copied())) {
            *sample += value;
        }
    }

    /// How many samples found no room.
    pub(super) fn refused(&self) -> usize {
        self.refused
    }

    /// Every counter: family, label text, value.
    pub(super) fn counters(&self) -> impl Iterator<Item = (&'static Family, &str, f64)> {
        self.families
            .values()
            .filter(|collected| collected.family.kind == Kind::Counter)
            .flat_map(|collected| {
                let samples = collected.samples.iter();
                samples.map(|(labels, value)| (collected.family, labels.as_str(), *value))
            })
    }

    /// Adds a sample with ready label text where there is none.
    pub(super) fn restore(&mut self, family: &'static Family, labels: &str, value: f64) {
        let present = self
            .families
            .get(family.name)
            .is_some_and(|collected| collected.samples.contains_key(labels));
        if present {
            return;
        }
        if let Some(sample) = self.sample(family, labels.to_owned()) {
            *sample = value;
        }
    }

    /// Appends the text.
    pub(super) fn write(&self, text: &mut String) {
        for collected in self.families.values() {
            let Family {
                name, kind, help, ..
            } = collected.family;
            write_head(text, name, *kind, help);
            for (labels, value) in &collected.samples {
                text.push_str(name);
                write_labels(text, labels, None);
                let _ = writeln!(text, " {value}");
            }
            text.push('\n');
        }
    }

    fn sample(&mut self, family: &'static Family, labels: String) -> Option<&mut f64> {
        let collected = self.families.entry(family.name).or_insert(Collected {
            family,
            samples: BTreeMap::new(),
        });
        if !collected.samples.contains_key(&labels) {
            if self.samples == MAX_SAMPLES {
                self.refused += 1;
                return None;
            }
            self.samples += 1;
        }
        Some(collected.samples.entry(labels).or_insert(0.0))
    }
}

/// `a="1",b="2"`, with values escaped.
pub(super) fn label_text<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text
}

/// `HELP` and `TYPE`. `help` is one line of ours.
pub(super) fn write_head(text: &mut String, name: &str, kind: Kind, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}");
    let _ = writeln!(text, "# TYPE {name} {}", kind.as_str());
}

/// The lines of one histogram; `labels` is label text.
pub(super) fn write_histogram(
    text: &mut String,
    name: &str,
    labels: &str,
    snapshot: &HistogramSnapshot,
) {
    let mut cumulated = 0;
    let bounds = BOUNDS_TEXT.iter().copied().chain(["+Inf"]);
    for (bound, count) in bounds.zip(snapshot.buckets) {
        cumulated += count;
        let _ = write!(text, "{name}_bucket");
        write_labels(text, labels, Some(("le", bound)));
        let _ = writeln!(text, " {cumulated}");
    }
    let _ = write!(text, "{name}_sum");
    write_labels(text, labels, None);
    let _ = writeln!(text, " {}", snapshot.sum_micros as f64 / 1e6);
    let _ = write!(text, "{name}_count");
    write_labels(text, labels, None);
    let _ = writeln!(text, " {cumulated}");
}

/// Label text in braces, with one more label behind; nothing where there are none.
pub(super) fn write_labels(text: &mut String, labels: &str, extra: Option<(&str, &str)>) {
    if labels.is_empty() && extra.is_none() {
        return;
    }
    text.push('{');
    text.push_str(labels);
    if let Some((name, value)) = extra {
        if !labels.is_empty() {
            text.push(',');
        }
        let _ = write!(text, "{name}=\"{value}\"");
    }
    text.push('}');
}
