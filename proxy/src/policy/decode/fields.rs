//! Single fields, and what may be asked of any of them: that it is there, in range, and well spelled.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use weft_proto::discovery as wire;

use super::{DecodeError, Decoded};
use crate::policy::Protocol;

pub(crate) fn known<T: TryFrom<i32>>(place: &str, value: i32) -> Decoded<T> {
    T::try_from(value).map_err(|_| refuse(place, format!("unknown value {value}")))
}

pub(super) fn required<M, T>(
    place: &'static str,
    message: Option<&M>,
    decode: impl FnOnce(&M) -> Decoded<T>,
) -> Decoded<T> {
    decode(message.ok_or(missing(place))?).map_err(at(place))
}

pub(super) fn optional<M, T>(
    place: &'static str,
    message: Option<&M>,
    decode: impl FnOnce(&M) -> Decoded<T>,
) -> Decoded<Option<T>> {
    message.map(decode).transpose().map_err(at(place))
}

pub(super) fn each<M, T>(
    place: &str,
    messages: &[M],
    mut decode: impl FnMut(&M) -> Decoded<T>,
) -> Decoded<Vec<T>> {
    messages
        .iter()
        .enumerate()
        .map(|(index, message)| {
            decode(message).map_err(|error| error.within(&format!("{place}[{index}]")))
        })
        .collect()
}

pub(super) fn refuse(place: &str, why: impl Into<Cow<'static, str>>) -> DecodeError {
    DecodeError {
        place: place.to_owned(),
        why: why.into(),
    }
}

pub(super) fn missing(place: &str) -> DecodeError {
    refuse(place, "missing")
}

pub(super) fn at(place: &'static str) -> impl Fn(DecodeError) -> DecodeError {
    move |error| error.within(place)
}

pub(super) fn protocol(value: i32) -> Decoded<Protocol> {
    Ok(match known("protocol", value)? {
        wire::Protocol::Unspecified => Protocol::Detect,
        wire::Protocol::Opaque => Protocol::Opaque,
        wire::Protocol::Http1 => Protocol::Http1,
        wire::Protocol::Http2 => Protocol::Http2,
    })
}

pub(super) fn method(text: &str) -> Decoded<Method> {
    Method::from_bytes(text.as_bytes()).map_err(|_| refuse("method", "not a method"))
}

pub(super) fn header_name(text: &str) -> Decoded<HeaderName> {
    HeaderName::from_lowercase(text.as_bytes())
        .map_err(|_| refuse("name", "not a header name in lower case"))
}

/// A cookie's name is a token, as a header's is (RFC 6265, section 4.1.1).
pub(super) fn cookie_name(text: &str) -> Decoded<Box<str>> {
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.into()),
        Err(_) => Err(refuse("", "not a cookie name")),
    }
}

pub(super) fn path(text: &str) -> Decoded<Box<str>> {
    if text.starts_with('/') {
        Ok(text.into())
    } else {
        Err(refuse("path", "does not begin with a slash"))
    }
}

pub(super) fn status(code: u32) -> Decoded<u16> {
    u16::try_from(code)
        .ok()
        .filter(|code| (100..=599).contains(code))
        .ok_or_else(|| refuse("", "not an HTTP status"))
}

/// A status that ends an exchange.
pub(super) fn final_status(place: &str, code: u32) -> Decoded<StatusCode> {
    const FINAL: RangeInclusive<u32> = 200..=599;
    u16::try_from(code)
        .ok()
        .filter(|_| FINAL.contains(&code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| refuse(place, "not from 200 to 599"))
}

pub(super) fn port(number: u32) -> Decoded<u16> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| refuse("port", "not from 1 to 65535"))
}

pub(super) fn duration(message: &prost_types::Duration) -> Decoded<Duration> {
    Duration::try_from(*message).map_err(|_| refuse("", "a duration out of range"))
}

pub(super) fn positive(message: &prost_types::Duration) -> Decoded<Duration> {
    match duration(message)? {
        Duration::ZERO => Err(refuse("", "a duration of zero")),
        duration => Ok(duration),
    }
}

pub(super) fn at_least_one(place: &str, value: u32) -> Decoded<u32> {
    match value {
        0 => Err(refuse(place, "0, where at least 1 is needed")),
        value => Ok(value),
    }
}

pub(super) fn percent(place: &str, value: u32) -> Decoded<u32> {
    match value {
        0..=100 => Ok(value),
        _ => Err(refuse(place, "over 100")),
    }
}

/// An index into a target's backends.
pub(super) fn backend_index(place: &str, index: u32, backends: usize) -> Decoded<usize> {
    let index = index as usize;
    if index < backends {
        Ok(index)
    } else {
        Err(refuse(place, "no such backend"))
    }
}

pub(super) fn non_zero(value: u32) -> Option<u32> {
    (value != 0).then_some(value)
}

pub(super) fn parse<T: FromStr<Err: fmt::Display>>(text: &str) -> Decoded<T> {
    text.parse()
        .map_err(|why: T::Err| refuse("", why.to_string()))
}
