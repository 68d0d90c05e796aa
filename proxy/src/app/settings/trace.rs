//! Traces: nothing is on without an endpoint; the rest is read, and checked, all the same.

use weft_proto::names::env;

use super::parse::Reader;
use crate::telemetry::trace::context::Formats;
use crate::telemetry::trace::sampler::Sampler;
use crate::telemetry::trace::{Endpoint, TraceSettings};

/// The share of traces that are sampled where none is asked for.
const DEFAULT_SHARE: f64 = 0.01;
/// The longest name of a service, in bytes.
const MAX_SERVICE: usize = 255;
/// What is read and written where nothing is asked for.
const DEFAULT_FORMATS: Formats = Formats {
    w3c: true,
    b3: true,
    b3_multi: false,
};

/// Reads what concerns traces; `None` where they are off.
pub(super) fn trace<L: Fn(&str) -> Option<String>>(
    reader: &mut Reader<L>,
) -> Option<TraceSettings> {
    let endpoint = reader.or(
        env::TRACE_ENDPOINT,
        None,
        |text| Endpoint::parse(text).map(Some),
        "http://host:port of an OTLP/gRPC receiver, with nothing behind it",
        "name it as http://collector.observability:4317, or leave it out for no traces",
    );
    let sampler = reader.or(
        env::TRACE_SAMPLE,
        Sampler::new(DEFAULT_SHARE),
        share,
        "the share of traces to sample, from 0 to 1",
        "leave it out for 0.01, one trace in a hundred",
    );
    let formats = reader.or(
        env::TRACE_PROPAGATION,
        DEFAULT_FORMATS,
        formats,
        "w3c, b3 and b3multi, separated by commas",
        "leave it out for w3c,b3",
    );
    let service = reader.or(
        env::TRACE_SERVICE,
        None,
        |text| service(text).map(Some),
        "a name of at most 255 bytes without control characters",
        "leave it out for the workload's name",
    );
    Some(TraceSettings {
        endpoint: endpoint?,
        sampler,
        formats,
        service,
    })
}

/// Digits with a point, as people write shares; no exponents, no words.
fn share(text: &str) -> Option<Sampler> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let share: f64 = text.parse().ok().filter(|_| plain)?;
    (0.0..=1.0).contains(&share).then(|| Sampler::new(share))
}

fn formats(text: &str) -> Option<Formats> {
    let mut formats = Formats::default();
    for word in text.split(',') {
        match word.trim() {
            "w3c" => formats.w3c = true,
            "b3" => formats.b3 = true,
            "b3multi" => formats.b3_multi = true,
            _ => return None,
        }
    }
    Some(formats)
}

fn service(text: &str) -> Option<String> {
    let fits = text.len() <= MAX_SERVICE && !text.contains(char::is_control);
    fits.then(|| text.to_owned())
}
