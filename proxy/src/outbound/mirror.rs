//! Copies of requests for a backend whose answers nobody waits for.
//!
//! A copy is sent once the request's body is known to be whole, whatever becomes of the request
//! itself; it is never in its way. One copy per request, sent once, to any endpoint: no budget, breaker,
//! latency or request metric hears of it. What streams is not copied, but for gRPC calls where the policy
//! says so. As many copies as policy allows
//! are on their way at once; more are dropped, and counted like everything else that can become of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::header::HOST;
use ::http::request::Parts;
use ::http::uri::Authority;
use ::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use weft_proto::names::headers as names;

use super::backend::Backend;
use super::destination::Service;
use super::tries::FRESH_ENOUGH;
use crate::http::Version;
use crate::http::body::{RequestBody, UpstreamBody};
use crate::http::client::{Outgoing, SendOptions};
use crate::http::deadline::before;
use crate::http::replay::{Copied, WholeBody};
use crate::policy::MirrorPolicy;
use crate::resilience::deadline::Deadline;
use crate::telemetry::{MirrorCounters, MirrorResult, Tls};

const MIRROR: HeaderName = HeaderName::from_static(names::MIRROR);
/// What the authority of a copy ends with, before its port: a server that looks at names can tell.
const SUFFIX: &str = "-shadow";
/// What is read at most of a copy's answer, so that its connection can be used again.
const MAX_READ: usize = 1024 * 1024;

/// A copy that is to be made of one request.
pub(crate) struct Mirrored {
    policy: MirrorPolicy,
    backend: Arc<Backend>,
    counters: MirrorCounters,
}

/// How many copies are on their way to a backend.
#[derive(Default)]
pub(crate) struct Slots(AtomicUsize);

/// Held from when a copy is sent until it is answered, not while its request still comes: clients that
/// upload slowly keep nobody else's copies away.
struct Slot(Arc<Backend>);

impl Mirrored {
    /// Draws whether a request of a route is copied; `is_call` for gRPC.
    pub(crate) fn draw(service: &Service, route: usize, is_call: bool) -> Option<Box<Self>> {
        let policy = service.target.routes[route].split.mirror?;
        if is_call && !policy.calls || fastrand::u32(..policy.out_of) >= policy.share {
            return None;
        }
        let backend = &service.backends[policy.backend];
        let counters = service.mirror_counters(route)?;
        // Most requests are not copied: they have no room for it.
        Some(Box::new(Self {
            policy,
            backend: Arc::clone(backend),
            counters: counters.clone(),
        }))
    }

    /// Bytes of the request's body that must be kept for a copy.
    pub(crate) fn body_limit(&self) -> usize {
        self.policy.body_limit_bytes
    }

    /// Sends the copy when the body is whole.
    pub(crate) fn follow(
        self,
        head: Parts,
        version: Version,
        body: impl Future<Output = Copied> + Send + 'static,
    ) {
        tokio::spawn(async move {
            let result = match body.await {
                Copied::Whole(whole) => self.send(head, version, whole).await,
                Copied::TooBig => MirrorResult::TooBig,
                Copied::Broken => MirrorResult::Incomplete,
            };
            self.counters.record(result);
        });
    }

    async fn send(&self, mut head: Parts, version: Version, body: WholeBody) -> MirrorResult {
        let Some(_slot) = Slot::take(&self.backend, self.policy.max_in_flight) else {
            return MirrorResult::Dropped;
        };
        mark(&mut head);
        let request = Request::from_parts(head, RequestBody::Whole(body));
        let deadline = Deadline::after(Instant::now().into_std(), Some(self.policy.timeout));
        let exchange = async {
            let endpoints = self.backend.endpoints().await.ok()?;
            let endpoint = fastrand::choice(endpoints.as_slice())?;
            // A peer that is no sidecar may close an idle connection at any moment, and a copy is sent
            // once: it takes a connection used just now.
            let may_be_stale = endpoint.tls() != Tls::Mutual;
            let options = SendOptions {
                max_idle_age: may_be_stale.then_some(FRESH_ENOUGH),
                probe_before_write: may_be_stale,
                ..SendOptions::default()
            };
            endpoint.called().request(Instant::now());
            let mut request = Outgoing::new(request);
            let sending = endpoint.send(version, &mut request, &options);
            read(sending.await.ok()?).await
        };
        match before(deadline, exchange).await {
            Ok(Some(())) => MirrorResult::Answered,
            Ok(None) | Err(_) => MirrorResult::Failed,
        }
    }
}

impl Slot {
    fn take(backend: &Arc<Backend>, most: usize) -> Option<Self> {
        let slots = &backend.copies.0;
        if slots.fetch_add(1, Ordering::Relaxed) < most {
            return Some(Self(Arc::clone(backend)));
        }
        slots.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.copies.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads an answer, as far as it is worth its connection.
async fn read(response: Response<UpstreamBody>) -> Option<()> {
    let limited = http_body_util::Limited::new(response.into_body(), MAX_READ);
    let mut body = std::pin::pin!(limited);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(_) => {}
            // A long answer is an answer; dropping the rest of it costs the connection.
            Err(error) if error.is::<http_body_util::LengthLimitError>() => break,
            Err(_) => return None,
        }
    }
    Some(())
}

/// Makes a head one of a copy.
fn mark(head: &mut Parts) {
    head.headers
        .insert(MIRROR, HeaderValue::from_static("true"));
    if let Some(host) = shadow_host(&head.headers) {
        head.headers.insert(HOST, host);
    }
    let Some(authority) = head.uri.authority() else {
        return;
    };
    let Ok(authority) = Authority::try_from(shadow(authority.as_str())) else {
        return;
    };
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.authority = Some(authority);
    if let Ok(uri) = Uri::from_parts(parts) {
        head.uri = uri;
    }
}

fn shadow_host(headers: &HeaderMap) -> Option<HeaderValue> {
    let host = headers.get(HOST)?.to_str().ok()?;
    HeaderValue::try_from(shadow(host)).ok()
}

/// An authority with the suffix behind its host; an address literal stays as it is.
fn shadow(authority: &str) -> String {
    let end = match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => colon,
        _ => authority.len(),
    };
    let (host, port) = authority.split_at(end);
    if host.is_empty() || host.parse::<std::net::Ipv4Addr>().is_ok() || host.ends_with(']') {
        return authority.to_owned();
    }
    format!("{host}{SUFFIX}{port}")
}

#[cfg(test)]
mod tests {
    use super::shadow;

    #[test]
    fn the_suffix_stands_before_the_port() {
        for (authority, wanted) in [
            ("checkout", "checkout-shadow"),
            ("checkout.shop:80", "checkout.shop-shadow:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("10.0.0.1", "10.0.0.1"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("[fd00::1]", "[fd00::1]"),
            ("", ""),
        ] {
            assert_eq!(shadow(authority), wanted, "{authority}");
        }
    }
}
