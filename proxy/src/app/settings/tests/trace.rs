//! What concerns traces.

use super::*;
use crate::telemetry::trace::context::Formats;
use crate::telemetry::trace::sampler::Sampler;

const ENDPOINT: (&str, &str) = (env::TRACE_ENDPOINT, "http://collector.observability:4317");

fn trace(changes: &[(&str, &str)]) -> Option<TraceSettings> {
    read(changes).unwrap().trace
}

#[test]
fn nothing_is_exported_without_an_endpoint() {
    assert_eq!(trace(&[]), None);
    assert_eq!(trace(&[(env::TRACE_SAMPLE, "1")]), None);
    assert_eq!(trace(&[(env::TRACE_ENDPOINT, "")]), None);
}

#[test]
fn an_endpoint_alone_samples_one_in_a_hundred() {
    let settings = trace(&[ENDPOINT]).unwrap();
    assert_eq!(settings.sampler, Sampler::new(0.01));
    let expected = Formats {
        w3c: true,
        b3: true,
        b3_multi: false,
    };
    assert_eq!(settings.formats, expected);
    assert_eq!(settings.service, None);
    let told = settings.endpoint.to_string();
    assert_eq!(told.trim_end_matches('/'), ENDPOINT.1);
}

#[test]
fn everything_can_be_said() {
    let settings = trace(&[
        ENDPOINT,
        (env::TRACE_SAMPLE, "0.25"),
        (env::TRACE_PROPAGATION, "b3multi, w3c"),
        (env::TRACE_SERVICE, "cart"),
    ]);
    let settings = settings.unwrap();
    assert_eq!(settings.sampler, Sampler::new(0.25));
    assert!(settings.formats.w3c && settings.formats.b3_multi && !settings.formats.b3);
    assert_eq!(settings.service.as_deref(), Some("cart"));
    for (share, expected) in [("0", 0.0), ("1", 1.0), ("1.0", 1.0), (".5", 0.5)] {
        let settings = trace(&[ENDPOINT, (env::TRACE_SAMPLE, share)]).unwrap();
        assert_eq!(settings.sampler, Sampler::new(expected), "{share}");
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let all = [
        (env::TRACE_ENDPOINT, "https://collector:4317"),
        (env::TRACE_SAMPLE, "1.01"),
        (env::TRACE_PROPAGATION, "w3c,jaeger"),
    ];
    let expected = all.map(|(name, _)| name);
    assert_eq!(wrong(&all), expected);
    let long = "s".repeat(256);
    for (name, value) in [
        (env::TRACE_ENDPOINT, "collector:4317"),
        (env::TRACE_SAMPLE, "-0.1"),
        (env::TRACE_SAMPLE, "1e-2"),
        (env::TRACE_SAMPLE, "NaN"),
        (env::TRACE_SAMPLE, "1%"),
        (env::TRACE_SAMPLE, "."),
        (env::TRACE_PROPAGATION, "w3c,"),
        (env::TRACE_PROPAGATION, "W3C"),
        (env::TRACE_SERVICE, "a\u{7}b"),
        (env::TRACE_SERVICE, &long),
    ] {
        assert_eq!(wrong(&[(name, value)]), [name], "{value}");
    }
}
