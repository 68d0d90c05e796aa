//! Spans from a request's head to a collector's ears.

mod context;
mod export;
mod spans;

use std::sync::Arc;

use ::http::request::Parts;
use ::http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::context::Formats;
use super::export::Exporter;
use super::sampler::Sampler;
use super::{Endpoint, TraceSettings, Tracer};
use crate::net::Dialer;
use crate::telemetry::Telemetry;
use crate::testing::telemetry;

pub(super) const ALL: Formats = Formats {
    w3c: true,
    b3: true,
    b3_multi: true,
};

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_static(name);
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn head(path: &str, pairs: &[(&'static str, &str)]) -> Parts {
    let mut request = Request::get(path).body(()).unwrap();
    *request.headers_mut() = headers(pairs);
    request.into_parts().0
}

/// Samples `share` of what nobody has decided about, and exports to `collector`.
fn tracer(collector: &str, share: f64) -> (Tracer, Exporter, Arc<Telemetry>) {
    let telemetry = telemetry();
    let settings = TraceSettings {
        endpoint: Endpoint::parse(&format!("http://{collector}")).unwrap(),
        sampler: Sampler::new(share),
        formats: ALL,
        service: None,
    };
    let (tracer, exporter) = Tracer::new(settings, &telemetry, Dialer::default());
    (tracer, exporter, telemetry)
}
