//! What is known of one exchange when it is over, for those who want to know of it.
//!
//! Nearly all exchanges are nobody's business: that costs each of them one relaxed load and nothing
//! else. Of one that somebody wants, a [`Draft`] is made when its head comes, before anything of the head
//! is changed; it takes what happens on the way, and when the exchange is over becomes a [`Record`], which
//! is handed to everybody who asked for it. However an exchange ends, its record is handed over once.
//!
//! Who may want records: [`tap`](super::tap) sessions, and the access log where a policy asks for it, which is
//! told exchange by exchange ([`Watchers::logged`]). Another watcher gets a flag in [`Interest`], an
//! entry in [`Wish`], and its place in [`Watchers::wish`] and [`Wish::hand_over`].
//!
//! Everything of a record is bounded. Userinfo is never part of one (it is a password), and headers only
//! as [`redact`](super::redact) shows them.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use ::http::request::Parts;
use ::http::uri::Authority;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use metrics::Counter;
use smallvec::SmallVec;
use weft_proto::logs::AccessLines;

use super::access::{Sink, Wanted};
use super::redact;
use super::tap::{self, Tap};
use super::trace::context::{Formats, Said, TraceId};
use super::trace::span::End;
use crate::outcome::Origin;
use crate::policy::AccessLog;

/// Bytes of a path with its query that are kept.
pub const MAX_PATH: usize = 1_024;
/// Bytes of an authority, a user agent or a header's value that are kept.
pub const MAX_TEXT: usize = 256;
/// Headers of a request that are kept.
pub const MAX_HEADERS: usize = 64;
/// What a record takes without its texts, about, in bytes.
const FIXED_WEIGHT: usize = 512;

/// Both formats of trace context, whatever is written.
const ANY_FORMAT: Formats = Formats {
    w3c: true,
    b3: true,
    b3_multi: true,
};
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers as people may see them.
pub type Shown = Box<[(HeaderName, Box<str>)]>;

/// One exchange that is over.
#[derive(Clone, Debug)]
pub struct Record {
    /// When the request's head came.
    pub began: SystemTime,
    /// Seen from the workload.
    pub direction: Origin,
    /// The protocol that the request came by.
    pub version: Version,
    /// As the request has it.
    pub method: Method,
    /// `:authority` or `Host`, at most 256 bytes, without userinfo.
    pub authority: Box<str>,
    /// With its query, at most 1,024 bytes; empty where the request was not read.
    pub path: Box<str>,
    /// At most 256 bytes.
    pub user_agent: Option<Box<str>>,
    /// The caller's trace, or the one that began here.
    pub trace_id: Option<TraceId>,
    /// The request's headers, their values redacted, where somebody asked for them; at most 64.
    pub headers: Option<Shown>,
    /// The endpoint of the last try; `None` where there was none, and for what comes in.
    pub endpoint: Option<SocketAddr>,
    /// Tries after the first.
    pub retries: u32,
    /// Bytes of body that went to whoever asked, of an answer that was not made by the sidecar.
    pub response_bytes: Option<u64>,
    /// A fallback answered.
    pub is_fallback: bool,
    /// What became of it: status, outcome, duration, and what it is counted under.
    pub end: End,
}

/// A record of an exchange that goes on.
pub struct Draft {
    began: SystemTime,
    direction: Origin,
    version: Version,
    method: Method,
    authority: Box<str>,
    path: Box<str>,
    user_agent: Option<Box<str>>,
    request_id: Option<HeaderValue>,
    trace_id: Option<TraceId>,
    headers: Option<Shown>,
    endpoint: Option<SocketAddr>,
    retries: u32,
    response_bytes: Option<u64>,
    is_fallback: bool,
    /// Of the access log, where one may want it.
    sink: Option<Arc<Sink>>,
    wish: Wish,
}

/// A request's head, as it came.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// As the request has it.
    pub method: &'a Method,
    /// `None` of a request that was not read.
    pub uri: Option<&'a Uri>,
    /// The protocol that it came by.
    pub version: Version,
    /// All of them.
    pub headers: &'a HeaderMap,
}

/// What is known of an exchange's place when it begins.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Seen from the workload.
    pub direction: Origin,
    /// As the label `service` has it.
    pub service: &'a str,
    /// As the label `peer` has it. Whom a request goes to is not known yet.
    pub peer: &'a str,
}

/// Who may want to know of exchanges. One per sidecar.
pub struct Watchers {
    interest: Arc<Interest>,
    tap: Tap,
    /// Set before traffic comes, where there is a log.
    access: OnceLock<Arc<Sink>>,
}

/// Which kinds of watchers there are at the moment.
#[derive(Debug, Default)]
pub(super) struct Interest(AtomicU8);

/// Who wants to know of one exchange.
#[derive(Default)]
struct Wish {
    taps: SmallVec<[Arc<tap::Session>; 1]>,
    log: Option<Wanted>,
}

impl Watchers {
    /// Nobody.
    pub(super) fn new() -> Self {
        let interest = Arc::<Interest>::default();
        Self {
            tap: Tap::new(Arc::clone(&interest)),
            interest,
            access: OnceLock::new(),
        }
    }

    /// Lines about requests go there from now on, and `lost` counts those that find no room. What was set
    /// first stays.
    pub fn log_to(&self, lines: AccessLines, lost: Counter) {
        // A second one would be a second log's, which nobody has.
        let _ = self.access.set(Arc::new(Sink::new(lines, lost)));
    }

    /// Whether there is anybody at all: one relaxed load.
    pub fn any(&self) -> bool {
        self.interest.any()
    }

    /// The sessions of people who look.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// What is to be filled in about this exchange, where anybody wants that.
    pub fn draft(&self, asked: Asked<'_>, place: Place<'_>) -> Option<Box<Draft>> {
        if !self.any() {
            return None;
        }
        let wish = self.wish(asked, place);
        (!wish.is_nobodys()).then(|| Box::new(Draft::new(asked, place, wish)))
    }

    /// `draft`, with a line about it to be written by `policy`. Where nobody wanted one yet it is made here,
    /// so that a policy may follow ([`Draft::log_by`]).
    pub fn logged(
        &self,
        draft: Option<Box<Draft>>,
        (asked, place): (Asked<'_>, Place<'_>),
        policy: Option<&Arc<AccessLog>>,
    ) -> Option<Box<Draft>> {
        let Some(sink) = self.access.get() else {
            return draft;
        };
        let new = || Box::new(Draft::new(asked, place, Wish::default()));
        let mut draft = draft.unwrap_or_else(new);
        draft.sink = Some(Arc::clone(sink));
        draft.log_by(policy);
        Some(draft)
    }

    fn wish(&self, asked: Asked<'_>, place: Place<'_>) -> Wish {
        Wish {
            taps: self.tap.wish(asked, place),
            log: None,
        }
    }
}

impl Interest {
    /// [`Tap`] sessions.
    pub(super) const TAP: u8 = 1;

    /// Whether anybody is interested.
    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Whether a kind is interested from now on. Told by that kind alone, one at a time.
    pub(super) fn set(&self, kind: u8, is_interested: bool) {
        if is_interested {
            self.0.fetch_or(kind, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!kind, Ordering::Relaxed);
        }
    }
}

impl Wish {
    fn is_nobodys(&self) -> bool {
        self.taps.is_empty()
    }

    fn wants_headers(&self) -> bool {
        self.taps.iter().any(|session| session.wants_headers())
    }

    fn hand_over(self, record: Record) {
        let record = Arc::new(record);
        if let Some(log) = self.log {
            log.offer(&record);
        }
        for session in self.taps {
            session.offer(&record);
        }
    }
}

impl<'a> Asked<'a> {
    /// `:authority` or `Host`, without userinfo; empty where there is none.
    pub fn authority(&self) -> &'a str {
        let host = || self.headers.get(header::HOST)?.to_str().ok();
        let authority = self.uri.and_then(Uri::authority).map(Authority::as_str);
        let authority = authority.or_else(host).unwrap_or_default();
        redact::without_userinfo(authority)
    }

    /// Without the query; empty where the request was not read.
    pub fn path(&self) -> &'a str {
        self.uri.map_or("", Uri::path)
    }

    fn path_and_query(&self) -> &'a str {
        let path = self.uri.and_then(Uri::path_and_query);
        path.map_or("", |path| path.as_str())
    }
}

impl<'a> From<&'a Parts> for Asked<'a> {
    fn from(head: &'a Parts) -> Self {
        Self {
            method: &head.method,
            uri: Some(&head.uri),
            version: head.version,
            headers: &head.headers,
        }
    }
}

impl<'a, B> From<&'a Request<B>> for Asked<'a> {
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: Some(request.uri()),
            version: request.version(),
            headers: request.headers(),
        }
    }
}

impl Draft {
    fn new(asked: Asked<'_>, place: Place<'_>, wish: Wish) -> Self {
        let headers = asked.headers;
        let user_agent = headers.get(header::USER_AGENT);
        Self {
            began: SystemTime::now(),
            direction: place.direction,
            version: asked.version,
            method: asked.method.clone(),
            authority: cut(asked.authority(), MAX_TEXT).into(),
            path: cut(asked.path_and_query(), MAX_PATH).into(),
            user_agent: user_agent.map(|value| text(value).into()),
            request_id: headers.get(REQUEST_ID).cloned(),
            trace_id: Said::read(headers, ANY_FORMAT).parent.map(|(id, _)| id),
            headers: wish.wants_headers().then(|| shown(headers)),
            endpoint: None,
            retries: 0,
            response_bytes: None,
            is_fallback: false,
            sink: None,
            wish,
        }
    }

    /// The line about it is written by `policy`, where one is.
    pub fn log_by(&mut self, policy: Option<&Arc<AccessLog>>) {
        let wanted = self.sink.as_ref().zip(policy);
        self.wish.log = wanted.map(|(sink, policy)| Wanted {
            policy: Arc::clone(policy),
            sink: Arc::clone(sink),
        });
    }

    /// A try goes to this endpoint.
    pub fn goes_to(&mut self, address: SocketAddr) {
        self.endpoint = Some(address);
    }

    /// Another try follows the last one.
    pub fn retries(&mut self) {
        self.retries = self.retries.saturating_add(1);
    }

    /// A fallback answers.
    pub fn falls_back(&mut self) {
        self.is_fallback = true;
    }

    /// So much of a body went to whoever asked.
    pub fn responded(&mut self, bytes: u64) {
        self.response_bytes = Some(bytes);
    }

    /// It is over: everybody who asked is told.
    pub fn end(self, mut end: End) {
        end.request_id = end.request_id.or(self.request_id);
        self.wish.hand_over(Record {
            began: self.began,
            direction: self.direction,
            version: self.version,
            method: self.method,
            authority: self.authority,
            path: self.path,
            user_agent: self.user_agent,
            trace_id: self.trace_id,
            headers: self.headers,
            endpoint: self.endpoint,
            retries: self.retries,
            response_bytes: self.response_bytes,
            is_fallback: self.is_fallback,
            end,
        });
    }
}

impl Record {
    /// What it takes in memory, about, in bytes; its JSON is at most a few times as long.
    pub fn weight(&self) -> usize {
        let headers = self.headers.iter().flatten();
        let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + 32);
        let end = &self.end;
        let labels = [&end.service, &end.route, &end.backend, &end.peer];
        FIXED_WEIGHT
            + self.method.as_str().len()
            + self.authority.len()
            + self.path.len()
            + self.user_agent.as_ref().map_or(0, |text| text.len())
            + end.request_id.as_ref().map_or(0, HeaderValue::len)
            + labels.iter().map(|label| label.len()).sum::<usize>()
            + headers.sum::<usize>()
    }
}

/// Headers as people may see them.
fn shown(headers: &HeaderMap) -> Shown {
    let all = headers.iter().take(MAX_HEADERS);
    all.map(|(name, value)| (name.clone(), redact::header(name, text(value)).into()))
        .collect()
}

/// What of a value is text, at most [`MAX_TEXT`] bytes.
fn text(value: &HeaderValue) -> &str {
    let bytes = value.as_bytes();
    let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    cut(valid, MAX_TEXT)
}

/// The begin of a text, at most so many bytes.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
