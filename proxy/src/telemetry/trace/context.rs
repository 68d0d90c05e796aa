//! Trace context in headers: `traceparent` (W3C Trace Context), and B3 (Zipkin) in one header or in
//! several. Pure.
//!
//! Who reads gets what the caller said, or nothing of it: what does not follow its format to the letter
//! counts as not said. Ids and decision come from one format, of W3C, `b3` and `x-b3-*` the first that
//! has ids; the others are said too where they name the same trace. What was not said is never changed,
//! unless nothing was said at all and a trace begins: then its headers replace what stood there.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

use ::http::{HeaderMap, HeaderName, HeaderValue};
use weft_proto::names::headers as names;

const TRACEPARENT: HeaderName = HeaderName::from_static(names::TRACEPARENT);
const TRACESTATE: HeaderName = HeaderName::from_static(names::TRACESTATE);
const B3: HeaderName = HeaderName::from_static(names::B3);
const B3_TRACE_ID: HeaderName = HeaderName::from_static(names::B3_TRACE_ID);
const B3_SPAN_ID: HeaderName = HeaderName::from_static(names::B3_SPAN_ID);
const B3_PARENT_SPAN_ID: HeaderName = HeaderName::from_static(names::B3_PARENT_SPAN_ID);
const B3_SAMPLED: HeaderName = HeaderName::from_static(names::B3_SAMPLED);
const B3_FLAGS: HeaderName = HeaderName::from_static(names::B3_FLAGS);

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const TRACEPARENT_LENGTH: usize = 55;
/// Digits of a trace id.
const TRACE_DIGITS: usize = 32;
/// Digits of a span id.
const SPAN_DIGITS: usize = 16;
/// The only flag that version 00 of W3C Trace Context has.
const SAMPLED: u8 = 1;

/// Names a trace. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(NonZeroU128);

/// Names a span of a trace. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(NonZeroU64);

/// A set of the ways to write trace context into headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// `traceparent` and `tracestate`.
    pub w3c: bool,
    /// `b3`.
    pub b3: bool,
    /// `x-b3-traceid` and its kin.
    pub b3_multi: bool,
}

/// What a request's headers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The trace, and the caller's span of it.
    pub parent: Option<(TraceId, SpanId)>,
    /// Whether it is sampled; `None` where the caller left that to others.
    pub sampled: Option<bool>,
    /// B3's demand for more than sampling.
    pub debug: bool,
    /// In which formats.
    pub formats: Formats,
}

/// What to say to whoever is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span that will be the parent of what follows.
    pub span: SpanId,
    /// That span's own parent.
    pub parent: Option<SpanId>,
    /// Whether it is sampled.
    pub sampled: bool,
    /// As [`Said::debug`]; implies `sampled`.
    pub debug: bool,
}

impl TraceId {
    /// From a number; `None` for 0.
    pub fn new(id: u128) -> Option<Self> {
        NonZeroU128::new(id).map(Self)
    }

    /// A new one.
    pub fn random() -> Self {
        Self(NonZeroU128::new(fastrand::u128(..)).unwrap_or(NonZeroU128::MIN))
    }

    /// The lower half, which is all that some systems keep.
    pub fn low(self) -> u64 {
        self.0.get() as u64
    }

    /// As OTLP has it.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    fn digits(self) -> [u8; TRACE_DIGITS] {
        hex(self.0.get())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl SpanId {
    /// From a number; `None` for 0.
    pub fn new(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }

    /// A new one.
    pub fn random() -> Self {
        Self(NonZeroU64::new(fastrand::u64(..)).unwrap_or(NonZeroU64::MIN))
    }

    /// As OTLP has it.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }

    fn digits(self) -> [u8; SPAN_DIGITS] {
        hex(u128::from(self.0.get()))
    }
}

impl Formats {
    /// Whether none of them is in it.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl Said {
    /// What `headers` say in the formats that are `known`. B3 is read in both forms where either is.
    pub fn read(headers: &HeaderMap, known: Formats) -> Self {
        let nothing = Self::default();
        let any_b3 = known.b3 || known.b3_multi;
        let w3c = known.w3c.then(|| w3c(headers)).flatten();
        let b3 = any_b3.then(|| b3(headers)).flatten();
        let b3_multi = any_b3.then(|| b3_multi(headers)).flatten();

        let said = [w3c, b3, b3_multi];
        let mut all = said.into_iter().flatten();
        let with_ids = all.clone().find(|one| one.parent.is_some());
        let Some(chosen) = with_ids.or_else(|| all.next()) else {
            return nothing;
        };
        let trace = |one: Self| one.parent.map(|(trace, _)| trace);
        let agrees = |one: Option<Self>| one.is_some_and(|one| trace(one) == trace(chosen));
        Self {
            formats: Formats {
                w3c: agrees(w3c),
                b3: agrees(b3),
                b3_multi: agrees(b3_multi),
            },
            ..chosen
        }
    }
}

impl Context {
    /// Says this in the formats in which the caller has `said` something; where it said nothing, in
    /// all that are `known`.
    pub fn write(&self, headers: &mut HeaderMap, said: &Said, known: Formats) {
        let formats = if said.formats.is_empty() {
            known
        } else {
            said.formats
        };
        if formats.w3c {
            headers.insert(TRACEPARENT, self.traceparent());
            if !said.formats.w3c {
                // It belongs to a trace that ends here (W3C Trace Context, 4.3).
                headers.remove(TRACESTATE);
            }
        }
        if formats.b3 {
            headers.insert(B3, self.b3());
        }
        if formats.b3_multi {
            self.write_b3_multi(headers);
        }
    }

    fn traceparent(&self) -> HeaderValue {
        let mut text = [b'-'; TRACEPARENT_LENGTH];
        text[..2].copy_from_slice(b"00");
        text[3..35].copy_from_slice(&self.trace.digits());
        text[36..52].copy_from_slice(&self.span.digits());
        text[53..].copy_from_slice(if self.sampled { b"01" } else { b"00" });
        value(&text)
    }

    fn b3(&self) -> HeaderValue {
        const SHORT: usize = TRACE_DIGITS + 1 + SPAN_DIGITS + 2;
        let mut text = [b'-'; SHORT + 1 + SPAN_DIGITS];
        text[..32].copy_from_slice(&self.trace.digits());
        text[33..49].copy_from_slice(&self.span.digits());
        text[50] = match (self.debug, self.sampled) {
            (true, _) => b'd',
            (false, true) => b'1',
            (false, false) => b'0',
        };
        match self.parent {
            None => value(&text[..SHORT]),
            Some(parent) => {
                text[SHORT + 1..].copy_from_slice(&parent.digits());
                value(&text)
            }
        }
    }

    fn write_b3_multi(&self, headers: &mut HeaderMap) {
        headers.insert(B3_TRACE_ID, value(&self.trace.digits()));
        headers.insert(B3_SPAN_ID, value(&self.span.digits()));
        match self.parent {
            Some(parent) => headers.insert(B3_PARENT_SPAN_ID, value(&parent.digits())),
            None => headers.remove(B3_PARENT_SPAN_ID),
        };
        if self.debug {
            headers.remove(B3_SAMPLED);
            headers.insert(B3_FLAGS, HeaderValue::from_static("1"));
        } else {
            let sampled = if self.sampled { "1" } else { "0" };
            headers.insert(B3_SAMPLED, HeaderValue::from_static(sampled));
            headers.remove(B3_FLAGS);
        }
    }
}

/// The value of `tracestate`, where there is one and it is text of at most `most` bytes.
pub(super) fn tracestate(headers: &HeaderMap, most: usize) -> Option<&str> {
    let mut values = headers.get_all(TRACESTATE).iter();
    let only = values.next().filter(|_| values.next().is_none())?;
    only.to_str().ok().filter(|text| text.len() <= most)
}

/// W3C Trace Context, 3.2. Of a version to come as much is read as version 00 has.
fn w3c(headers: &HeaderMap) -> Option<Said> {
    let text = only(headers, &TRACEPARENT)?;
    let (known, rest) = text.split_at_checked(TRACEPARENT_LENGTH)?;
    let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    let version = number(&known[..2], Case::Lower)?;
    let whole = match version {
        0 => rest.is_empty(),
        0xff => false,
        _ => rest.is_empty() || rest[0] == b'-',
    };
    if !dashes || !whole {
        return None;
    }
    let trace = TraceId::new(number(&known[3..35], Case::Lower)?)?;
    let span = SpanId::new(number(&known[36..52], Case::Lower)? as u64)?;
    let flags = number(&known[53..], Case::Lower)? as u8;
    Some(Said {
        parent: Some((trace, span)),
        sampled: Some(flags & SAMPLED != 0),
        debug: false,
        formats: Formats::default(),
    })
}

/// `{trace}-{span}`, then `-{decision}`, then `-{parent}`; or a decision alone.
fn b3(headers: &HeaderMap) -> Option<Said> {
    let text = only(headers, &B3)?;
    if let Some((sampled, debug)) = decision(text) {
        return Some(Said {
            sampled: Some(sampled),
            debug,
            ..Said::default()
        });
    }
    let mut parts = text.split(|byte| *byte == b'-');
    let trace = b3_trace(parts.next()?)?;
    let span = b3_span(parts.next()?)?;
    let decision = match parts.next() {
        None => None,
        Some(part) => Some(decision(part)?),
    };
    if let Some(parent) = parts.next() {
        b3_span(parent)?;
    }
    parts.next().is_none().then_some(Said {
        parent: Some((trace, span)),
        sampled: decision.map(|(sampled, _)| sampled),
        debug: decision.is_some_and(|(_, debug)| debug),
        formats: Formats::default(),
    })
}

/// Both ids or neither; a decision or none.
fn b3_multi(headers: &HeaderMap) -> Option<Said> {
    let has = |name: &HeaderName| headers.contains_key(name);
    let parent = match (has(&B3_TRACE_ID), has(&B3_SPAN_ID)) {
        (true, true) => {
            let trace = b3_trace(only(headers, &B3_TRACE_ID)?)?;
            let span = b3_span(only(headers, &B3_SPAN_ID)?)?;
            Some((trace, span))
        }
        (false, false) => None,
        _ => return None,
    };
    let debug = has(&B3_FLAGS) && only(headers, &B3_FLAGS)? == b"1";
    let sampled = match (debug, has(&B3_SAMPLED)) {
        (true, _) => Some(true),
        (false, false) => None,
        (false, true) => Some(match only(headers, &B3_SAMPLED)? {
            // The words were in use before the digits.
            b"1" | b"true" => true,
            b"0" | b"false" => false,
            _ => return None,
        }),
    };
    (parent.is_some() || sampled.is_some()).then_some(Said {
        parent,
        sampled,
        debug,
        formats: Formats::default(),
    })
}

fn decision(text: &[u8]) -> Option<(bool, bool)> {
    match text {
        b"1" => Some((true, false)),
        b"0" => Some((false, false)),
        b"d" => Some((true, true)),
        _ => None,
    }
}

/// 64 bits or 128.
fn b3_trace(digits: &[u8]) -> Option<TraceId> {
    let fits = digits.len() == TRACE_DIGITS || digits.len() == SPAN_DIGITS;
    TraceId::new(number(digits, Case::Any).filter(|_| fits)?)
}

fn b3_span(digits: &[u8]) -> Option<SpanId> {
    let fits = digits.len() == SPAN_DIGITS;
    SpanId::new(number(digits, Case::Any).filter(|_| fits)? as u64)
}

/// What a header says that may be there once only.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.as_bytes())
}

/// Which letters stand for digits: W3C has small ones only; of B3, writers disagree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Any,
    Lower,
}

/// Hexadecimal digits, at least one and at most 32.
fn number(digits: &[u8], case: Case) -> Option<u128> {
    if !(1..=TRACE_DIGITS).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0_u128, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' if case == Case::Any => digit - b'A' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

fn hex<const N: usize>(number: u128) -> [u8; N] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0_u8; N];
    for (index, digit) in text.iter_mut().rev().enumerate() {
        *digit = DIGITS[(number >> (4 * index)) as usize & 0xf];
    }
    text
}

fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("hex digits and dashes are a header value")
}
